"""Sorted rows of the index in memory: one run, and several woven into one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quiesce.vault.format.pack import Codec
from quiesce.vault.format.segment import read_extent

Numbers = NDArray[np.uint64]
Fields = NDArray[np.uint32]


class Location(NamedTuple):
    """Where a blob lies. `pack` is the pack's number in this process. Chunks of one frame have
    its range, and a `place` in it."""

    pack: int
    offset: int
    length: int
    codec: Codec
    place: int


class Run:
    """Rows sorted by the first half of their id; the order of those that share it means nothing.
    Immutable. Views of plain integers serve single look-ups, the arrays serve whole-index work."""

    __slots__ = ("_hi", "_lo", "fields", "hi", "lo")

    def __init__(self, hi: Numbers, lo: Numbers, fields: Fields) -> None:
        self.hi = hi
        self.lo = lo
        self.fields = fields
        """rows × (pack, offset, extent as in segments)"""
        self._hi = hi.data
        self._lo = lo.data

    @classmethod
    def sorted(cls, hi: Numbers, lo: Numbers, fields: Fields) -> Run:
        """Rows in any order. Stored ones come sorted."""
        if not bool((hi[:-1] <= hi[1:]).all()):
            order = np.argsort(hi, kind="stable")
            hi, lo, fields = hi[order], lo[order], fields[order]
        return cls(hi, lo, fields)

    def __len__(self) -> int:
        return len(self._hi)

    def location(self, at: int) -> Location:
        pack, offset, packed = self.fields[at].tolist()
        return Location(pack, offset, *read_extent(packed))

    def find(self, hi: int, lo: int) -> Iterator[int]:
        at = bisect_left(self._hi, hi)
        while at < len(self._hi) and self._hi[at] == hi:
            if self._lo[at] == lo:
                yield at
            at += 1


def merged(runs: Sequence[Run]) -> Run:
    whole, *longer = reversed(runs)
    for run in longer:
        whole = _merge(whole, run) if len(whole) >= len(run) else _merge(run, whole)
    return whole


def _merge(long: Run, short: Run) -> Run:
    """Without sorting again: each row of `short` is put in its place between those of `long`."""
    places = np.searchsorted(long.hi, short.hi, side="right")
    places += np.arange(len(short))
    others = np.ones(len(long) + len(short), np.bool_)
    others[places] = False

    def woven(of_long: NDArray[Any], of_short: NDArray[Any]) -> NDArray[Any]:
        rows = np.empty((len(others), *of_long.shape[1:]), of_long.dtype)
        rows[places] = of_short
        rows[others] = of_long
        return rows

    return Run(woven(long.hi, short.hi), woven(long.lo, short.lo), woven(long.fields, short.fields))


EMPTY = Run(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty((0, 3), np.uint32))
