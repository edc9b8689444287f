"""Which points are hurt by what is damaged: from the maps and the index, without reading chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from quiesce.model.failure import Failure, JobFailure, VaultFailure
from quiesce.vault.contents import Contents
from quiesce.vault.diskmap import FANOUT, ID_BYTES, ZERO_ID
from quiesce.vault.index import IndexSnapshot
from quiesce.vault.manifest import DiskMapRef, Manifest
from quiesce.vault.reader import DiskMap

_RANGES = 64


@dataclass(frozen=True, slots=True)
class DiskHealth:
    """One disk of a point. `hurt_bytes` cannot be read; `ranges` are (start, end) of the first
    of them, in bytes of the disk."""

    name: str
    hurt_bytes: int = 0
    ranges: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class PointHealth:
    """One point. `lost` says why nothing of it can be read; then `vm` and `disks` are unknown."""

    point_id: str
    vm: str
    taken_at: datetime | None
    disks: tuple[DiskHealth, ...]
    lost: str = ""

    @property
    def intact(self) -> bool:
        return not self.lost and not any(disk.hurt_bytes for disk in self.disks)


def examine_points(
    contents: Contents,
    manifests: tuple[Manifest, ...],
    damaged: dict[str, VaultFailure],
    cancelled: Callable[[], bool],
) -> tuple[PointHealth, ...]:
    """Every point, hurt or not, oldest first; points without a readable manifest last."""
    examiner = _Examiner(contents, contents.index.snapshot(), cancelled)
    points = [
        PointHealth(
            m.point.id,
            m.point.vm,
            m.point.taken_at,
            tuple(examiner.disk(part) for part in m.maps),
        )
        for m in sorted(manifests, key=lambda m: (m.point.taken_at, m.point.id))
    ]
    points += [
        PointHealth(point_id, "", None, (), failure.message)
        for point_id, failure in sorted(damaged.items())
    ]
    return tuple(points)


def _raise_unless_damage(failure: Failure) -> None:
    """A bad sector under a map hurts what the map tells of, not the look at all others."""
    if not isinstance(failure, VaultFailure) and failure.code != "storage.io-error":
        raise failure


class _Examiner:
    def __init__(
        self, contents: Contents, snapshot: IndexSnapshot, cancelled: Callable[[], bool]
    ) -> None:
        self._contents = contents
        self._snapshot = snapshot
        self._cancelled = cancelled
        self._verdicts: dict[bytes, tuple[int, ...]] = {}
        """Leaf id → places in it that are hurt: points share most of their leaves."""

    def disk(self, part: DiskMapRef) -> DiskHealth:
        disk_map = DiskMap(self._contents, part)
        try:
            leaves = disk_map.leaf_ids()
        except Failure as failure:
            _raise_unless_damage(failure)
            return DiskHealth(part.name, part.size_bytes, ((0, part.size_bytes),))
        hurt: list[tuple[int, int]] = []
        total = 0
        for number in range(len(leaves) // ID_BYTES):
            if self._cancelled():
                raise JobFailure("job.cancelled", "The job was cancelled.")
            leaf = leaves[number * ID_BYTES : (number + 1) * ID_BYTES]
            if leaf == ZERO_ID:
                continue
            for place in self._hurt_places(disk_map, number, leaf):
                start = (number * FANOUT + place) * part.chunk_bytes
                end = min(start + part.chunk_bytes, part.size_bytes)
                if start >= end:
                    continue
                total += end - start
                if hurt and hurt[-1][1] == start:
                    hurt[-1] = (hurt[-1][0], end)
                elif len(hurt) < _RANGES:
                    hurt.append((start, end))
        return DiskHealth(part.name, total, tuple(hurt))

    def _hurt_places(self, disk_map: DiskMap, number: int, leaf: bytes) -> tuple[int, ...]:
        found = self._verdicts.get(leaf)
        if found is None:
            found = self._verdicts[leaf] = self._examine(disk_map, number)
        return found

    def _examine(self, disk_map: DiskMap, number: int) -> tuple[int, ...]:
        try:
            ids = disk_map.leaf(number)
        except Failure as failure:
            _raise_unless_damage(failure)
            return tuple(range(FANOUT))
        rows = self._snapshot.rows(ids)
        zero = ~np.frombuffer(ids, np.uint64).reshape(-1, 4).any(axis=1)
        good = zero | (rows >= 0)
        if len(self._snapshot):
            good &= zero | self._snapshot.good[rows]
        return tuple(int(place) for place in np.flatnonzero(~good))
