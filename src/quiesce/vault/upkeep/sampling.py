"""Restoring chunks drawn at random, each with the same chance: from maps to proven bytes.

A leaf that is not all zeros is drawn, of all such leaves of all disks of all points; then a place
in it. Zeros, and places beyond the disk's end, are drawn again. So a chunk that many points hold is
drawn more often, as its loss would hurt more. The sequence follows from the seed and the points.

Which leaves are zeros is known from the nodes above them, which are read first. A node that cannot
be read is a failed draw by itself: nothing below it can be restored, and no dice come to it.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from quiesce.model.failure import Failure, VaultFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.format.diskmap import FANOUT, ID_BYTES, PART_BYTES, ZERO_ID
from quiesce.vault.format.manifest import DiskMapRef, Manifest
from quiesce.vault.format.pack import Kind
from quiesce.vault.upkeep.health import misshapen
from quiesce.vault.upkeep.references import Part, read_parts

SAMPLE_CHUNKS = 256
_KEPT_PARTS = 512
_READS_A_DRAW = 4
"""Two parts of a map, a chunk, and the head of its pack; of maps' packs too, the first time."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A chunk of a disk, `size_bytes` long; `failure` says why it cannot be restored. `offset` -1:
    it is not known which chunk, since `blob`, a part of the map, is damaged."""

    point_id: str
    disk: str
    offset: int
    blob: bytes
    size_bytes: int
    failure: Failure | None

    def __str__(self) -> str:
        where = f"byte {self.offset}" if self.offset >= 0 else "its map"
        return f"point {self.point_id}, disk {self.disk}, {where}: {self.failure}"


@dataclass(frozen=True, slots=True)
class _Disk:
    point_id: str
    map: DiskMapRef
    leaves: tuple[int, ...]
    """Leaves that are not zero, up to and with each node."""


class Sampler:
    """Draws from these points."""

    def __init__(
        self,
        contents: Contents,
        manifests: Sequence[Manifest],
        seed: int,
        check: Callable[[int], None],
    ) -> None:
        """`check` is called before so many reads; what it raises ends the work."""
        self._contents = contents
        self._check = check
        self._random = random.Random(seed)
        self._parts: dict[bytes, bytes] = {}
        self._manifests = sorted(manifests, key=lambda m: (m.point.taken_at, m.point.id))
        self._disks: list[_Disk] = []
        self._leaves: list[int] = []

    def draw(self) -> Iterator[Drawn]:
        """Without end, or until all is told when no point holds anything but zeros that can be
        drawn. What is damaged in the upper level of the maps comes first."""
        yield from self._read_nodes()
        while self._leaves and self._leaves[-1]:
            drawn = None
            while drawn is None:
                self._check(_READS_A_DRAW)
                drawn = self._draw_one()
            yield drawn

    def _read_nodes(self) -> Iterator[Drawn]:
        """The upper level of all maps, and each node of it that cannot be read."""
        where = {n: (m, part) for m in self._manifests for part in m.maps for n in part.nodes}
        where.pop(ZERO_ID, None)
        used = {}
        for batch, parts in read_parts(self._contents, sorted(where), self._check):
            for node, part in zip(batch, parts, strict=True):
                try:
                    used[node] = len(_used(_whole(part)))
                except Failure as failure:
                    manifest, ref = where[node]
                    yield Drawn(manifest.point.id, ref.name, -1, node, 0, _damage(failure))
        self._disks = [
            _Disk(m.point.id, part, tuple(accumulate(used.get(node, 0) for node in part.nodes)))
            for m in self._manifests
            for part in m.maps
            if part.nodes
        ]
        self._leaves = list(accumulate(disk.leaves[-1] for disk in self._disks))

    def _draw_one(self) -> Drawn | None:
        """None where the place that was drawn holds zeros."""
        number = self._random.randrange(self._leaves[-1])
        at = bisect_right(self._leaves, number)
        disk = self._disks[at]
        number -= self._leaves[at - 1] if at else 0
        node = bisect_right(disk.leaves, number)
        number -= disk.leaves[node - 1] if node else 0
        place = self._random.randrange(FANOUT)
        ref = disk.map
        blob = ref.nodes[node]
        try:
            part = self._part(blob)
            leaf = int(_used(part)[number])
            offset = ((node * FANOUT + leaf) * FANOUT + place) * ref.chunk_bytes
            blob = _id_at(part, leaf)
            blob = _id_at(self._part(blob), place)
        except Failure as failure:
            return Drawn(disk.point_id, ref.name, -1, blob, 0, _damage(failure))
        if blob == ZERO_ID or offset >= ref.size_bytes:
            return None
        try:
            size = len(self._contents.read_blob(Kind.CHUNK, blob))
        except Failure as failure:
            return Drawn(disk.point_id, ref.name, offset, blob, 0, _damage(failure))
        return Drawn(disk.point_id, ref.name, offset, blob, size, None)

    def _part(self, blob: bytes) -> bytes:
        """A part of a map; the last ones are kept: sparse ones are drawn again and again."""
        part = self._parts.pop(blob, None) or _whole(self._contents.read_blob(Kind.MAP, blob))
        self._parts[blob] = part
        if len(self._parts) > _KEPT_PARTS:
            del self._parts[next(iter(self._parts))]
        return part


def _whole(part: Part) -> bytes:
    """:raise Failure: why it cannot be read, or is no part of a map"""
    if isinstance(part, Failure):
        raise part
    if len(part) != PART_BYTES:
        raise misshapen()
    return part


def _used(part: bytes) -> NDArray[np.intp]:
    """Numbers of the leaves of a node that are not zero."""
    return np.flatnonzero(np.frombuffer(part, np.uint64).reshape(-1, 4).any(axis=1))


def _id_at(part: bytes, place: int) -> bytes:
    return part[place * ID_BYTES : (place + 1) * ID_BYTES]


def _damage(failure: Failure) -> Failure:
    """:raise Failure: one that is no damage of what is stored"""
    if isinstance(failure, VaultFailure) and failure.code != "vault.version-unsupported":
        return failure
    if failure.code == "storage.io-error":
        return failure
    raise failure
