"""Frozen dataclasses as JSON text and back, by pydantic; the form in which tables and workflow
steps hold them."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter

Value = TypeVar("Value")


_adapters: dict[type, TypeAdapter[Any]] = {}


def _adapter(kind: type) -> TypeAdapter[Any]:
    """Made once for each type: building one takes milliseconds."""
    adapter = _adapters.get(kind)
    if adapter is None:
        adapter = _adapters[kind] = TypeAdapter(kind)
    return adapter


def to_json(value: object) -> str:
    return _adapter(type(value)).dump_json(value).decode()


def from_json(kind: type[Value], text: str) -> Value:
    """:raise pydantic.ValidationError: the text was not written by `to_json` of this kind"""
    value: Value = _adapter(kind).validate_json(text)
    return value
