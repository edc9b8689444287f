"""The index in memory: sorted arrays, shared by all writers and readers of a process.

A blob takes 28 bytes: the first 16 bytes of its keyed id, pack, offset, length. Two different
chunks of one vault share these 128 bits with a chance of about 2^-80 at 10^7 chunks, and a reader
would notice, since the whole id is authenticated with the blob. Stored form: see `segment`.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quiesce.vault.contents.index_runs import EMPTY, Fields, Location, Run, merged
from quiesce.vault.format.segment import LENGTH_MASK, PackedRows, extent

_RECENT_ROWS = 1 << 15
_WORTH_ARRAYS = 8
_ID = struct.Struct(">QQ")


class ChunkIndex:
    """The index of one vault in one process, shared by its writers and readers. Thread-safe;
    look-ups take no lock: they see whole, immutable runs.

    A pack is *present* when the store holds it in full, and *usable* when besides it is not
    marked as garbage: only usable packs are deduplicated against, any present one is read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: list[bytes] = []
        self._sizes: list[int] = []
        self._present: list[bool] = []
        self._usable: list[bool] = []
        self._numbers: dict[bytes, int] = {}
        self._runs: tuple[Run, ...] = ()
        self._recent: dict[bytes, Location] = {}
        self._damaged: frozenset[tuple[int, bytes]] = frozenset()
        self._unrecorded: frozenset[tuple[bytes, bytes]] = frozenset()
        self._unsaved: dict[bytes, PackedRows] = {}
        self._gone: frozenset[int] = frozenset()

    def find(self, blob: bytes, *, usable: bool = True, good: bool = True) -> Location | None:
        """Where this blob lies; `usable`: only where new points may refer to it."""
        allowed = self._usable if usable else self._present
        short = blob[:16]
        recent = self._recent.get(short)
        if (
            recent is not None
            and allowed[recent.pack]
            and not (good and self._is_damaged(recent, short))
        ):
            return recent
        hi, lo = _ID.unpack(short)
        for run in self._runs:
            for at in run.find(hi, lo):
                found = run.location(at)
                if allowed[found.pack] and not (good and self._is_damaged(found, short)):
                    return found
        return None

    def holds(self, blobs: Sequence[bytes]) -> list[bool]:
        """For each of these, whether a new point may refer to a stored copy of it: as `find`, and
        far cheaper for many at once."""
        if len(blobs) < _WORTH_ARRAYS:
            return [self.find(blob) is not None for blob in blobs]
        # Before the runs: what is folded meanwhile is seen in one of them.
        recent, usable, damaged = self._recent, self._usable, self._damaged
        short = [blob[:16] for blob in blobs]
        places = [recent.get(key) for key in short]
        found = [
            place is not None and usable[place.pack] and (place.pack, key) not in damaged
            for place, key in zip(places, short, strict=True)
        ]
        pairs = np.frombuffer(b"".join(short), ">u8").reshape(-1, 2).astype(np.uint64)
        for run in self._runs:
            if all(found) or not len(run):
                continue
            at = np.minimum(np.searchsorted(run.hi, pairs[:, 0]), len(run) - 1)
            for number in np.flatnonzero(run.hi[at] == pairs[:, 0]).tolist():
                if not found[number]:
                    row = int(at[number])
                    pack = int(run.fields[row, 0])
                    same = int(run.lo[row]) == int(pairs[number, 1])
                    good = same and usable[pack] and (pack, short[number]) not in damaged
                    # Another of the rows that begin alike may be the one, or a better copy.
                    found[number] = good or self.find(blobs[number]) is not None
        return found

    def locate(self, blob: bytes) -> Location | None:
        """Where to read this blob: a usable place if there is one."""
        return (
            self.find(blob)
            or self.find(blob, usable=False)
            or self.find(blob, usable=False, good=False)
        )

    def copies(self, blob: bytes) -> list[Location]:
        """Every place of this blob in a pack that is present."""
        short = blob[:16]
        found = []
        recent = self._recent.get(short)
        if recent is not None:
            found.append(recent)
        for run in self._runs:
            found += [run.location(at) for at in run.find(*_ID.unpack(short))]
        return [place for place in found if self._present[place.pack]]

    def _is_damaged(self, location: Location, short: bytes) -> bool:
        return bool(self._damaged) and (location.pack, short) in self._damaged

    def name_of(self, pack: int) -> bytes:
        return self._names[pack]

    def count_packs(self) -> int:
        """Packs known so far; `observe` takes it from before the store was listed."""
        return len(self._names)

    def knows(self, pack: bytes) -> bool:
        return pack in self._numbers

    def add_pack(self, rows: PackedRows, *, saved: bool) -> None:
        """A pack that is durably stored. `saved`: some stored segment tells of it."""
        with self._lock:
            if rows.name in self._numbers:
                return
            if any(entry.id[:16] in self._recent for entry in rows.entries):
                # The dict has one place for an id; the runs keep every copy.
                self._fold()
            number = self._number(rows.name, rows.size_bytes)
            for entry in rows.entries:
                self._recent[entry.id[:16]] = Location(
                    number, entry.offset, entry.length, entry.codec, entry.place
                )
            if not saved:
                self._unsaved[rows.name] = rows
            if len(self._recent) > _RECENT_ROWS:
                self._fold()

    def add_segment(self, names: Sequence[tuple[bytes, int]], rows: NDArray[Any]) -> None:
        """A segment as `read_segment` gives it; packs known already are passed over."""
        with self._lock:
            new = np.array([name not in self._numbers for name, _ in names], dtype=np.bool_)
            numbers = np.array(
                [
                    self._number(name, size) if fresh else 0
                    for (name, size), fresh in zip(names, new, strict=True)
                ],
                dtype=np.uint32,
            )
            if not len(rows) or not new.any():
                return
            rows = rows[new[rows["pack"]]]
            fields = np.empty((len(rows), 3), np.uint32)
            fields[:, 0] = numbers[rows["pack"]]
            fields[:, 1] = rows["offset"]
            fields[:, 2] = rows["extent"]
            hi = rows["hi"].astype(np.uint64)
            self._insert(Run.sorted(hi, rows["lo"].astype(np.uint64), fields))

    def unsaved(self) -> tuple[PackedRows, ...]:
        """Packs of which no stored segment tells yet."""
        with self._lock:
            return tuple(self._unsaved.values())

    def __len__(self) -> int:
        """Rows of all runs: blobs, counting a blob once per pack it lies in."""
        return len(self._recent) + sum(map(len, self._runs))

    def saved(self, packs: Iterable[PackedRows]) -> None:
        with self._lock:
            for pack in packs:
                self._unsaved.pop(pack.name, None)

    def observe(
        self,
        sizes: Mapping[bytes, int],
        *,
        packs: int,
        indexed: Set[bytes],
        garbage: frozenset[bytes],
        damaged: frozenset[tuple[bytes, bytes]],
    ) -> None:
        """What the store holds now: size per pack, packs that some segment tells of, packs
        marked as garbage, recorded damage (pack, id). `packs` were known before `sizes` was listed:
        later ones may be missing from it, and are there.

        A pack of another size than was indexed is as good as missing. One that is neither stored
        nor told of any more was deleted as garbage, which is no damage.
        """
        with self._lock:
            gone = set()
            for number, name in enumerate(self._names):
                whole = number >= packs or sizes.get(name) == self._sizes[number]
                if not whole:
                    self._unsaved.pop(name, None)
                self._present[number] = whole
                self._usable[number] = whole and name not in garbage
                if not whole and name not in indexed:
                    gone.add(number)
            self._gone = frozenset(gone)
            self._unrecorded -= damaged
            self._damaged = frozenset(
                (self._numbers[pack], blob[:16])
                for pack, blob in damaged | self._unrecorded
                if pack in self._numbers
            )

    def retire(self, packs: Iterable[bytes]) -> None:
        """These have just been marked as garbage: nothing new refers to them."""
        with self._lock:
            for name in packs:
                if name in self._numbers:
                    self._usable[self._numbers[name]] = False

    def add_damage(self, pack: bytes, blob: bytes) -> None:
        """This copy has just been found damaged: nothing new refers to it. That stands until a
        record is seen to tell of it, or it is found whole: a store may take no record."""
        with self._lock:
            self._unrecorded |= {(pack, blob)}
            if pack in self._numbers:
                self._damaged |= {(self._numbers[pack], blob[:16])}

    def found_whole(self, pack: bytes) -> None:
        """What no record tells of this pack's damage holds no more, from the next `observe` on."""
        with self._lock:
            self._unrecorded = frozenset(each for each in self._unrecorded if each[0] != pack)

    @property
    def any_damage(self) -> bool:
        """Whether anything indexed is known to be missing or damaged."""
        return bool(self._damaged) or bool(self.missing_packs())

    def missing_packs(self) -> tuple[bytes, ...]:
        """Packs that should be in the store and are not, or not in full."""
        with self._lock:
            return tuple(
                name
                for number, name in enumerate(self._names)
                if not self._present[number]
                and number not in self._gone
                and self._numbers.get(name) == number
            )

    def snapshot(self) -> IndexSnapshot:
        """All rows at this moment, for work over the whole index."""
        with self._lock:
            self._fold()
            self._runs = (merged(self._runs),) if self._runs else ()
            run = self._runs[0] if self._runs else EMPTY
            if self._gone and len(run):
                keep = ~np.isin(run.fields[:, 0], np.array(sorted(self._gone), np.uint32))
                run = Run(run.hi[keep], run.lo[keep], run.fields[keep])
                self._runs = (run,)
            for number in self._gone:
                # Should it come back, it is read anew: its rows are not here any more.
                if self._numbers.get(self._names[number]) == number:
                    del self._numbers[self._names[number]]
            return IndexSnapshot(
                run, tuple(self._names), tuple(self._sizes), tuple(self._present),
                tuple(self._usable), self._damaged,
            )  # fmt: skip

    def _number(self, name: bytes, size_bytes: int) -> int:
        number = len(self._names)
        self._names.append(name)
        self._sizes.append(size_bytes)
        self._present.append(True)
        self._usable.append(True)
        self._numbers[name] = number
        return number

    def _fold(self) -> None:
        if not self._recent:
            return
        pairs = [_ID.unpack(short) for short in self._recent]
        fields = np.array(
            [(w.pack, w.offset, extent(w.length, w.codec, w.place)) for w in self._recent.values()],
            np.uint32,
        )
        ids = np.array(pairs, np.uint64)
        self._insert(Run.sorted(ids[:, 0].copy(), ids[:, 1].copy(), fields))
        # Published after the run: a look-up that finds the dict empty finds the run in place.
        self._recent = {}

    def _insert(self, run: Run) -> None:
        """Keep runs few: one is merged with its neighbour unless that is over twice as long."""
        runs = [*self._runs, run]
        while len(runs) > 1 and len(runs[-2]) < 2 * len(runs[-1]):
            runs[-2:] = [merged(runs[-2:])]
        self._runs = tuple(runs)


class IndexSnapshot:
    """All rows of an index at one moment, one row per place of a blob.

    Where a blob lies in several places, the one that serves it is the same in every process that
    sees the same store: good before damaged or missing, usable before merely present, then by
    the pack's name. `damaged`: (pack, first half of an id).
    """

    def __init__(
        self,
        run: Run,
        names: tuple[bytes, ...],
        sizes: tuple[int, ...],
        present: tuple[bool, ...],
        usable: tuple[bool, ...],
        damaged: frozenset[tuple[int, bytes]],
    ) -> None:
        self.names = names
        self.sizes = sizes
        self.present = present
        self.damaged = damaged
        good = np.array(present, np.bool_)[run.fields[:, 0]]
        for pack, short in damaged:
            for at in run.find(*_ID.unpack(short)):
                if run.fields[at, 0] == pack:
                    good[at] = False
        self._hi, self._lo, self._fields = run.hi, run.lo, run.fields
        self.good: NDArray[np.bool_] = good
        self._order_twins(names, usable)

    def _order_twins(self, names: tuple[bytes, ...], usable: tuple[bool, ...]) -> None:
        """Put rows that share the first half of their id, of which there are few, in order. All
        others are where they belong, in arrays shared with the index."""
        same = self._hi[1:] == self._hi[:-1]
        if not same.any():
            return
        twin = np.zeros(len(self._hi), np.bool_)
        twin[1:] |= same
        twin[:-1] |= same
        at = np.flatnonzero(twin)
        rank = np.empty(len(names), np.uint32)
        order = sorted(range(len(names)), key=lambda number: (not usable[number], names[number]))
        rank[order] = np.arange(len(names), dtype=np.uint32)
        ranks = rank[self._fields[at, 0]]
        ordered = at[np.lexsort((ranks, ~self.good[at], self._lo[at], self._hi[at]))]
        self._lo, self._fields = self._lo.copy(), self._fields.copy()
        self._lo[at], self._fields[at] = self._lo[ordered], self._fields[ordered]
        self.good[at] = self.good[ordered]

    def losses(self) -> tuple[int, int]:
        """How many packs are missing, and how many damaged, with a blob that is whole nowhere else.
        What has been stored anew meanwhile does not count."""
        again = np.zeros(len(self._hi), np.bool_)
        again[1:] = (self._hi[1:] == self._hi[:-1]) & (self._lo[1:] == self._lo[:-1])
        lost = np.unique(self._fields[~self.good & ~again, 0]).tolist()
        missing = sum(not self.present[number] for number in lost)
        return missing, len(lost) - missing

    def __len__(self) -> int:
        return len(self._hi)

    @property
    def pack_of(self) -> Fields:
        return self._fields[:, 0]

    @property
    def offset_of(self) -> Fields:
        return self._fields[:, 1]

    @property
    def length_of(self) -> Fields:
        """Of the range that a blob lies in; those of one frame share it."""
        return self._fields[:, 2] & np.uint32(LENGTH_MASK)

    def rows(self, ids: bytes) -> NDArray[np.int64]:
        """For ids of 32 bytes, joined: the row of the one place that serves each, or -1."""
        pairs = np.frombuffer(ids, ">u8").reshape(-1, 4)[:, :2].astype(np.uint64)
        # In order, so that one look-up ends near where the last did: four times as fast at 10^7.
        order = np.argsort(pairs[:, 0])
        at = np.empty(len(pairs), np.int64)
        at[order] = np.searchsorted(self._hi, pairs[order, 0])
        found = np.full(len(pairs), -1, np.int64)
        if not len(self._hi):
            return found
        inside = np.minimum(at, len(self._hi) - 1)
        same_hi = (at < len(self._hi)) & (self._hi[inside] == pairs[:, 0])
        hit = same_hi & (self._lo[inside] == pairs[:, 1])
        found[hit] = inside[hit]
        for number in np.flatnonzero(same_hi & ~hit):  # two ids share 64 bits: almost never
            place = int(inside[number])
            while place < len(self._hi) and self._hi[place] == pairs[number, 0]:
                if self._lo[place] == pairs[number, 1]:
                    found[number] = place
                    break
                place += 1
        return found
