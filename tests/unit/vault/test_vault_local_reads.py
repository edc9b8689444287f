"""Reading ranges of a folder's objects, past the page cache or through it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from vault_scene import random_bytes

from quiesce.vault import LocalStore
from quiesce.vault.stores import files

MIB = 1024 * 1024
SIZE = 5 * MIB + 4321
KEY = "packs/00/object"


@pytest.fixture(scope="module")
def data() -> bytes:
    return random_bytes(1, SIZE)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> LocalStore:
    made = LocalStore.create(tmp_path_factory.mktemp("store") / "vault")
    made.put(KEY, data)
    return made


@given(offset=st.integers(0, SIZE + 10_000), length=st.integers(0, SIZE + 10_000))
@example(offset=0, length=SIZE)
@example(offset=4096, length=2 * MIB)
@example(offset=4095, length=2 * MIB + 2)
@example(offset=SIZE - 300_000, length=600_000)
@example(offset=SIZE, length=MIB)
def test_a_range_has_its_bytes_wherever_it_begins_and_ends(
    store: LocalStore, data: bytes, offset: int, length: int
) -> None:
    assert store.get_range(KEY, offset, length) == data[offset : offset + length]


@pytest.mark.parametrize(("length", "past"), [(4096, False), (MIB, True), (4 * MIB, False)])
def test_what_a_restore_reads_goes_past_the_page_cache_and_small_or_whole_reads_do_not(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, length: int, past: bool
) -> None:
    opened = watch_flags(monkeypatch)
    store.get_range(KEY, 10, length)
    assert bool(opened[0] & os.O_DIRECT) is past


@pytest.mark.parametrize("refused", ["open", "read"])
def test_where_that_is_refused_the_cache_serves(
    store: LocalStore, data: bytes, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """As tmpfs once did, and devices that want blocks of another size."""
    opened = watch_flags(monkeypatch, refuse=refused == "open")
    if refused == "read":
        monkeypatch.setattr(os, "preadv", refuse_all)
    assert store.get_range(KEY, 777, MIB) == data[777 : 777 + MIB]
    assert [bool(flags & os.O_DIRECT) for flags in opened] == [True, False]


def test_memory_to_read_into_is_kept_for_few_reads_only(store: LocalStore) -> None:
    for _ in range(3):
        store.get_range(KEY, 0, MIB)
    assert 1 <= len(files._windows) <= 8


def refuse_all(*_: object) -> int:
    raise OSError(errno.EINVAL, "Invalid argument")


def watch_flags(monkeypatch: pytest.MonkeyPatch, *, refuse: bool = False) -> list[int]:
    opened: list[int] = []
    real = os.open

    def watched(path: Path, flags: int, *more: Any, **named: Any) -> int:
        if str(path).endswith(KEY):
            opened.append(flags)
            if refuse and flags & os.O_DIRECT:
                refuse_all()
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", watched)
    return opened
