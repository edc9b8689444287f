"""Packs of which little is still needed: which they are, and copying what lives out of them.

Packs are deleted whole, so that one chunk in use keeps 32 MiB. Copying what lives into new packs
lets the rest go. The order makes it safe without anything that other garbage has not: the old pack
is *marked* as garbage first, as any other, and only then is copied from.

 · From the mark on nobody new refers to the old pack, so its live chunks are stored anew by the
   normal way of writing, and the new copy serves: an unmarked pack serves before a marked one.
 · The old pack is deleted by the rule for every marked pack, in a later run: not before nothing is
   served from it any more. What the copying did not reach, what a writer that began before the
   mark still referred to, and what was copied but is no longer there, is served from the old pack
   and keeps it.
 · So a copying that dies, is cut short, or is done twice costs space and nothing else, and needs no
   record of its own: it commits nothing, it refers to nothing, and what it stored is garbage as
   soon as nothing is served from it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quiesce.model.failure import Failure, VaultFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.index import IndexSnapshot
from quiesce.vault.format.pack import Entry, Kind, PackError, read_footer
from quiesce.vault.points.packing import PackStream
from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.store import UNREADABLE
from quiesce.vault.upkeep.carrying import carry, split
from quiesce.vault.upkeep.compaction import Beat

REPACK_BELOW = 0.5
"""Live share of a pack below which it is worth copying; see decision 17."""
REPACK_BYTES = 8 * 1024**3
"""Stored bytes that one run copies at most."""
_SMALL_BYTES = 2 * 1024 * 1024
_MANY_SMALL = 64
"""So many packs below `_SMALL_BYTES` are joined, whatever lives in them: each is a request more
in every list and every restore. What is joined is at least `_SMALL_BYTES` long, or the only small
one left, so that nothing is copied more often than its size doubles."""
_BATCH_BYTES = 4 * 1024 * 1024
ANEW_LEVEL = 9
"""For what must be compressed anew: what is left of frames, and of packs that are damaged. The
policy's level is not known here. A lower one than that would make them longer than they were; a
higher one than this gives a tenth more for twenty times the work."""


@dataclass(frozen=True, slots=True)
class Repacking:
    """Which packs are copied out of, in this order. Nothing has happened yet.

    `copy_bytes` are read and stored again, about, `each_bytes` of each pack; `frees_bytes` is what
    that makes free on balance, once the old packs are deleted. `later` packs would be worth it too,
    and wait for another run, since this one is limited to `limit_bytes`.
    """

    below: float = 0.0
    limit_bytes: int = 0
    packs: tuple[bytes, ...] = ()
    each_bytes: tuple[int, ...] = ()
    copy_bytes: int = 0
    frees_bytes: int = 0
    later: tuple[bytes, ...] = ()
    later_frees_bytes: int = 0


def live_bytes(snapshot: IndexSnapshot, live: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Stored bytes of each pack that live rows take. Chunks of one frame share its bytes."""
    packs = len(snapshot.names)
    pack_of = snapshot.pack_of
    rows = np.bincount(pack_of, minlength=packs)
    living = np.bincount(pack_of[live], minlength=packs)
    # Only packs that live in part need a look at their ranges.
    at = np.flatnonzero(((living > 0) & (living < rows))[pack_of])
    at = at[np.lexsort((snapshot.offset_of[at], pack_of[at]))]
    packed, offset, length = pack_of[at], snapshot.offset_of[at], snapshot.length_of[at]
    found = np.where(living == rows, np.inf, 0.0)
    if len(at):
        first = np.ones(len(at), np.bool_)
        first[1:] = (packed[1:] != packed[:-1]) | (offset[1:] != offset[:-1])
        shared_by = np.bincount(np.cumsum(first) - 1)[np.cumsum(first) - 1]
        found += np.bincount(packed, weights=length / shared_by * live[at], minlength=packs)
    return found


def choose(
    snapshot: IndexSnapshot,
    live: NDArray[np.bool_],
    sizes: Mapping[bytes, int],
    candidates: Set[bytes],
    *,
    below: float,
    limit_bytes: int,
) -> Repacking:
    """`candidates` are whole packs that something is served from, of `sizes` bytes. Those that
    give most for a copied byte come first."""
    if below <= 0 or not len(snapshot):
        return Repacking(below, limit_bytes)
    # What cannot be copied whole stays: it is evidence, and perhaps mendable.
    hurt = np.bincount(snapshot.pack_of[live & ~snapshot.good], minlength=len(snapshot.names))
    needed = live_bytes(snapshot, live)
    worth: list[tuple[float, bytes, int, int]] = []
    small: list[tuple[float, bytes, int, int]] = []
    for number, name in enumerate(snapshot.names):
        if name not in candidates or hurt[number]:
            continue
        size = sizes[name]
        copied = min(size, needed[number])
        row = copied / size, name, int(copied), int(size - copied)
        if row[0] < below:
            worth.append(row)
        elif size < _SMALL_BYTES:
            small.append(row)
    if len(small) < _MANY_SMALL:
        small = []
    chosen: list[tuple[float, bytes, int, int]] = []
    later: list[tuple[float, bytes, int, int]] = []
    copied_bytes = 0
    for row in [*sorted(worth), *sorted(small)]:
        fits = copied_bytes + row[2] <= limit_bytes
        (chosen if fits else later).append(row)
        copied_bytes += row[2] if fits else 0
    return Repacking(
        below=below,
        limit_bytes=limit_bytes,
        packs=tuple(row[1] for row in chosen),
        each_bytes=tuple(row[2] for row in chosen),
        copy_bytes=copied_bytes,
        frees_bytes=sum(row[3] for row in chosen),
        later=tuple(row[1] for row in later),
        later_frees_bytes=sum(row[3] for row in later),
    )


@dataclass(frozen=True, slots=True)
class Copied:
    """`stored_bytes` are new; `left` are packs that could not be read whole, and why."""

    stored_bytes: int
    left: tuple[tuple[bytes, str], ...]


def copy_out(
    contents: Contents,
    snapshot: IndexSnapshot,
    live: NDArray[np.bool_],
    packs: Collection[bytes],
    *,
    beat: Beat,
    on_copied: Callable[[bytes], None] = lambda name: None,
) -> Copied:
    """Store what lives in these packs anew, one pack after another, and say `on_copied` of each.
    They are marked as garbage already: what also lies in another pack is not stored again."""
    numbers = {name: number for number, name in enumerate(snapshot.names)}
    stored = 0
    left = []
    stream = PackStream(contents, ANEW_LEVEL, beat)
    try:
        for name in packs:
            beat()
            try:
                whole, torn = split(*_living(contents, snapshot, live, name, numbers[name]))
                carried, unopened = carry(contents, stream, name, whole)
                stored += carried
                for kind in Kind:
                    ids = [entry.id for entry in (*torn, *unopened) if entry.kind is kind]
                    stored += copy_blobs(contents, stream, kind, ids)
            except (VaultFailure, PackError) as failure:
                left.append((name, str(failure)))
            except Failure as failure:
                if failure.code not in UNREADABLE | {"storage.object-missing"}:
                    raise
                left.append((name, str(failure)))
            on_copied(name)
        stream.flush()
        contents.save_index()
    finally:
        stream.close()
    return Copied(stored, tuple(left))


def _living(
    contents: Contents,
    snapshot: IndexSnapshot,
    live: NDArray[np.bool_],
    name: bytes,
    number: int,
) -> tuple[list[Entry], list[bool]]:
    """What lies in this pack, and whether it is served from there. The footer says whole ids and
    kinds; the index in memory does not keep them.

    :raise PackError: its footer cannot be read
    """
    entries = read_footer(contents.keys, contents.store, name, snapshot.sizes[number])
    rows = snapshot.rows(b"".join(entry.id for entry in entries))
    served = (rows >= 0) & live[rows] & (snapshot.pack_of[rows] == number)
    return entries, [bool(each) for each in served]


def copy_blobs(contents: Contents, stream: PackStream, kind: Kind, ids: Sequence[bytes]) -> int:
    """Read these from `contents` into `stream`, which may be of another store of this vault. The
    bytes they newly occupy."""
    if kind is Kind.MAP:
        return sum(stream.add(kind, blob, part) for blob, part in contents.open_blobs(kind, ids))
    stored = size = 0
    batch: list[tuple[bytes, Buffer]] = []
    for blob, content in contents.open_views(kind, ids):
        batch.append((blob, content))
        size += len(content)
        if size >= _BATCH_BYTES:
            stored += stream.add_chunks(batch)
            batch, size = [], 0
    return stored + stream.add_chunks(batch)
