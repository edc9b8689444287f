"""Rewriting index segments: without packs that go, and many small ones into few.

Crash-safe order: the new segment first, then the old ones are deleted. Whoever looks in between
finds a pack told of twice, which means the same. One group of rows is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from quiesce.model.failure import Evidence, VaultFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.format.sealed import SealError
from quiesce.vault.format.segment import SEGMENT_ROWS, SegmentError, join_segments, read_segment
from quiesce.vault.stores.store import ObjectMissing, delete_if_allowed

MANY_SEGMENTS = 32
"""So many small segments are joined. A large one is left alone, so that the work of a vault's
whole life grows with its rows, not with their square."""
_LARGE_BYTES = 16 * 1024 * 1024

Beat = Callable[[], None]
"""Called now and then during long work; what it raises ends the work."""


def no_beat() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Layout:
    """Which stored segments are worth keeping as they are.

    `spare` ones tell nothing that larger ones do not tell as well: they were replaced, and are
    here since the process died or a retention lock keeps them. `joined` ones are small and many.
    """

    spare: frozenset[str]
    joined: frozenset[str]

    @property
    def untidy(self) -> bool:
        return bool(self.spare or self.joined)


def layout(contents: Contents) -> Layout:
    segments = contents.segments()
    sizes = {i.key: i.size_bytes for i in contents.store.list("index/") if i.key in segments}
    told: set[bytes] = set()
    spare, small = set(), set()
    for key in sorted(sizes, key=lambda key: (-len(segments[key]), key)):
        if segments[key] <= told:
            spare.add(key)
            continue
        told |= segments[key]
        if sizes[key] < _LARGE_BYTES:
            small.add(key)
    return Layout(frozenset(spare), frozenset(small) if len(small) > MANY_SEGMENTS else frozenset())


def rewrite_segments(
    contents: Contents, drop: Set[bytes], *, beat: Beat = no_beat
) -> frozenset[bytes]:
    """Store segments that no longer tell of the packs in `drop`, then delete the old.

    Packs that a segment still tells of, since a retention lock or append-only credentials keep it,
    or may tell of, since the one that was listed has been replaced by one that is not listed yet:
    they must stay, or the index would tell of a pack that is not there.
    """
    segments = contents.segments()
    found = layout(contents)
    group: list[tuple[list[tuple[bytes, int]], NDArray[Any]]] = []
    old: list[str] = []
    locked: set[bytes] = set()
    count = 0

    def replace_group() -> None:
        beat()
        kept = ""
        if any(name not in drop for names, _ in group for name, _ in names):
            kept = contents.put_segment(join_segments(group, drop))
        for key in old:
            if key != kept and delete_if_allowed(contents.store, key) is not None:
                locked.update(segments[key])
        group.clear()
        old.clear()

    touched = (key for key, packs in segments.items() if key in found.joined or packs & drop)
    for key in sorted(found.spare.union(touched)):
        old.append(key)
        if key in found.spare:
            continue
        try:
            names, rows = _opened(contents, key)
        except ObjectMissing:
            locked.update(segments[key])
            old.pop()
            continue
        if count + len(rows) > SEGMENT_ROWS and group:
            old.pop()
            replace_group()
            old.append(key)
            count = 0
        group.append((names, rows))
        count += len(rows)
    if old:
        replace_group()
    return frozenset(locked)


def _opened(contents: Contents, key: str) -> tuple[list[tuple[bytes, int]], NDArray[Any]]:
    """:raise VaultFailure: vault.corrupt-index, when it was whole as this process first read it"""
    try:
        return read_segment(contents.open_segment(key))
    except (SealError, SegmentError) as inner:
        raise VaultFailure(
            "vault.corrupt-index",
            f"The index segment {key} can no longer be read, so it is not rewritten.",
            evidence=[Evidence(str(inner), f"{contents.store.address}/{key}")],
        ) from inner
