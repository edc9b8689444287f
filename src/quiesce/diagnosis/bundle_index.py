"""`index.json` of a bundle that `quiesce logs collect` made: what a mere copy of files loses, such
as exit statuses, modes, and which files were looked for in vain."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from quiesce.diagnosis.bundle_text import name_of
from quiesce.model.papers import COMMAND, Paper

PATH = "index.json"
_MOST_ENTRIES = 1000
_LONGEST = 500


def indexed(papers: Iterable[Paper], index: Paper | None) -> tuple[Paper, ...]:
    """The papers with what the index knows of them. It is as hostile as the rest: what does not
    have the form that it should have is passed over."""
    entries = {entry["path"]: entry for entry in _entries(index)}
    known = tuple(_completed(paper, entries.pop(paper.path, {})) for paper in papers)
    return (*known, *(_missing(path, entry) for path, entry in entries.items() if _problem(entry)))


def taken_at(papers: Iterable[Paper]) -> datetime | None:
    """The guest's clock at the collection, where its output of `date +%s` is there."""
    date = next((paper for paper in papers if paper.path == COMMAND + "date"), None)
    text = date.text.strip() if date is not None else ""
    if re.fullmatch(r"[0-9]{1,11}", text):
        return datetime.fromtimestamp(int(text), UTC)
    return None


def _entries(index: Paper | None) -> Iterator[dict[str, Any]]:
    try:
        document = json.loads(index.text) if index is not None else []
    except (ValueError, RecursionError):
        return
    for entry in (document if isinstance(document, list) else [])[:_MOST_ENTRIES]:
        if isinstance(entry, dict) and isinstance(entry.get("path"), str):
            yield entry


def _completed(paper: Paper, entry: dict[str, Any]) -> Paper:
    size = _number(entry.get("size_bytes"))
    status = _number(entry.get("status"))
    return replace(
        paper,
        size_bytes=paper.size_bytes if size is None else size,
        mode=_number(entry.get("mode")) if entry else paper.mode,
        owner=_number(entry.get("owner")) if entry else paper.owner,
        status=paper.status if status is None else status,
        cut=paper.cut or entry.get("cut") is True,
    )


def _missing(path: str, entry: dict[str, Any]) -> Paper:
    return Paper(path=name_of(path[:_LONGEST]), problem=_problem(entry))


def _problem(entry: dict[str, Any]) -> str:
    problem = entry.get("problem")
    return name_of(problem[:_LONGEST]) if isinstance(problem, str) else ""


def _number(value: object) -> int | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
    return value if good and isinstance(value, int) else None
