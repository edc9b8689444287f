"""Writing the whole index anew, from the footers of the packs.

New segments first, then the old ones are deleted: whoever looks in between finds packs told of
twice, which means the same. It needs no readable segment. Rows of one segment are in memory at a
time, as arrays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quiesce.model.failure import StorageFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.lease import leased
from quiesce.vault.contents.opening import newer
from quiesce.vault.contents.reserve import reserve_kept_afterwards
from quiesce.vault.format.pack import NewerPackError, PackError, open_footer, pack_key
from quiesce.vault.format.sealed import SealError
from quiesce.vault.format.segment import SegmentError, join_segments, read_segment, rows_of_footer
from quiesce.vault.stores.store import UNREADABLE, ObjectMissing, delete_if_allowed
from quiesce.vault.upkeep.pace import Pace, Show, unseen
from quiesce.vault.upkeep.pack_check import stop_if

REBUILT_ROWS = 1 << 18
"""Rows and packs of a segment: 12 MB, and some 60 MB while it is made."""
_FOOTERS_AT_ONCE = 8

_Rows = tuple[list[tuple[bytes, int]], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """`unreadable`: packs whose footer cannot be read. `taken_over`: such packs, and packs that are
    missing, of which an old segment tells: that must stay known, or an increment would be built on
    what is not there."""

    packs: int
    rows: int
    segments: int
    replaced: int
    unreadable: tuple[str, ...]
    taken_over: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RebuildPlan:
    """Packs whose lists of chunks would be read, about so many `segments` that would be written
    (as far as the index knows the packs), and all of now that they would replace."""

    packs: int
    segments: int
    replaced: int


def plan_rebuild(contents: Contents) -> RebuildPlan:
    """What rebuilding would do now. Reads the lists of those packs that no segment tells of."""
    old = sum(1 for _ in contents.store.list("index/"))
    contents.refresh(scan_unindexed=True)
    sizes = contents.pack_sizes()
    snapshot = contents.index.snapshot()
    counts = np.bincount(snapshot.pack_of, minlength=len(snapshot.names))
    rows_of = dict(zip(snapshot.names, counts.tolist(), strict=True))
    segments = waiting = 0
    # What is told of missing packs is told again.
    for name in (*sorted(sizes), *sorted(rows_of.keys() - sizes.keys())):
        if not segments or waiting + 1 + rows_of.get(name, 0) > REBUILT_ROWS:
            segments += 1
            waiting = 0
        waiting += 1 + rows_of.get(name, 0)
    return RebuildPlan(len(sizes), segments, old)


def rebuild_index(
    contents: Contents,
    *,
    on_progress: Show = unseen,
    cancelled: Callable[[], bool] = lambda: False,
) -> RebuildReport:
    """
    :raise VaultFailure: vault.collect-running: collection writes segments too; wait for it ·
        vault.lease-locked
    :raise JobFailure: job.cancelled; the old index is as it was
    """
    with reserve_kept_afterwards(contents), leased(contents) as lease:
        contents.store.give_back_reserve()
        # Segments before packs: of every pack that an old segment tells of a new one tells, too.
        old = [info.key for info in contents.store.list("index/")]
        sizes = contents.pack_sizes()
        pace = Pace(on_progress)
        pace.begin("index", sum(sizes.values()))
        group: list[_Rows] = []
        written: set[str] = set()
        unreadable: list[bytes] = []
        told: list[bytes] = []
        packs = rows = waiting = 0

        def write() -> None:
            lease.beat()
            written.add(contents.put_segment(join_segments(group, frozenset())))
            group.clear()

        def add(names: list[tuple[bytes, int]], found: NDArray[Any]) -> None:
            nonlocal packs, rows, waiting
            if waiting + len(names) + len(found) > REBUILT_ROWS and group:
                write()
                waiting = 0
            group.append((names, found))
            packs += len(names)
            rows += len(found)
            waiting += len(names) + len(found)

        for name, found in _footers(contents, sizes):
            stop_if(cancelled)
            lease.beat()
            pace.advance(sizes[name])
            if found is None:
                unreadable.append(name)
                continue
            add([(name, sizes[name])], found)
        for names, found in _told_by(contents, old, sizes.keys() - unreadable):
            stop_if(cancelled)
            lease.beat()
            add(names, found)
            told += (name for name, _ in names)
        if group:
            write()
        for key in old:
            if key not in written:
                lease.beat()
                # One that may not be deleted stays: it tells nothing wrong.
                delete_if_allowed(contents.store, key)
        contents.refresh(scan_unindexed=True)
        return RebuildReport(
            packs=packs,
            rows=rows,
            segments=len(written),
            replaced=len(set(old) - written),
            unreadable=tuple(pack_key(name) for name in unreadable),
            taken_over=tuple(pack_key(name) for name in told),
        )


def _footers(
    contents: Contents, sizes: Mapping[bytes, int]
) -> Iterator[tuple[bytes, NDArray[Any] | None]]:
    """Each pack's rows, several packs read at a time; None where they cannot be read. A pack
    that is gone meanwhile is left out."""

    def read(name: bytes) -> NDArray[Any] | None:
        try:
            return rows_of_footer(*open_footer(contents.keys, contents.store, name, sizes[name]))
        except NewerPackError as inner:
            raise newer(pack_key(name), inner) from inner
        except PackError:
            return None
        except StorageFailure as failure:
            if failure.code not in UNREADABLE:
                raise
            return None

    waiting: deque[tuple[bytes, Future[NDArray[Any] | None]]] = deque()
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE, thread_name_prefix="vault-footers") as pool:
        for name in [*sorted(sizes), b""]:
            if name:
                waiting.append((name, pool.submit(read, name)))
            while waiting and (not name or len(waiting) > _FOOTERS_AT_ONCE):
                oldest, future = waiting.popleft()
                try:
                    yield oldest, future.result()
                except ObjectMissing:
                    continue


def _told_by(contents: Contents, segments: list[str], but_for: Set[bytes]) -> Iterator[_Rows]:
    """What old segments tell of other packs, one segment at a time; of each pack once."""
    known = set(but_for)
    for key in segments:
        try:
            names, rows = read_segment(contents.open_segment(key))
        except (ObjectMissing, SealError, SegmentError):
            continue
        new = np.array([name not in known for name, _ in names], np.bool_)
        if not new.any():
            continue
        known.update(name for name, _ in names)
        own = rows[new[rows["pack"]]]
        own["pack"] = (np.cumsum(new) - 1)[own["pack"]]
        yield [name for name, is_new in zip(names, new.tolist(), strict=True) if is_new], own
