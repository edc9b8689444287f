"""Reading a disk of which parts are lost: what can be read, and zeros in place of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from quiesce.model.extent import Extent, ExtentKind
from quiesce.model.failure import Evidence, Failure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.damage import UNSOUND
from quiesce.vault.format.config import read_config
from quiesce.vault.format.diskmap import FANOUT, ID_BYTES, PART_BYTES, ZERO_ID, chunk_count
from quiesce.vault.format.manifest import DiskMapRef
from quiesce.vault.format.pack import Kind
from quiesce.vault.points.reader import DiskMap, VaultDiskReader

_LOST_ID = b"\xff" * ID_BYTES
"""Stands in a map for whatever a part told that cannot be read."""
_LOST_PART = _LOST_ID * FANOUT
_FACTS = 16

_LOSES = UNSOUND | {"vault.version-unsupported"}
"""A pack whose head says that it is of a newer version may have a turned bit there."""


class SalvagingReader(VaultDiskReader):
    """As its base, but what is damaged or missing reads as zeros and is noted as `lost`, chunk by
    chunk. What a lost part of the map told of is lost whole, and counts as data. Only damage is
    read around: where the store as a whole does not answer, the call fails as any other."""

    def __init__(self, contents: Contents, ref: DiskMapRef, label: str) -> None:
        super().__init__(contents, ref, label)
        self._map = DiskMap(contents, ref, self._open_parts)
        self._lost = bytearray(chunk_count(ref.size_bytes, ref.chunk_bytes))
        self._why: dict[tuple[str, str], Evidence] = {}
        self._looked_again = False

    @property
    def lost(self) -> tuple[Extent, ...]:
        flags = np.frombuffer(self._lost, np.int8)
        borders = np.flatnonzero(np.diff(flags, prepend=np.int8(0), append=np.int8(0)))
        size = self._ref.chunk_bytes
        return tuple(
            Extent(first * size, min(end * size, self.size_bytes) - first * size, ExtentKind.DATA)
            for first, end in borders.reshape(-1, 2).tolist()
        )

    @property
    def why(self) -> tuple[Evidence, ...]:
        return tuple(self._why.values())

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        """:raise Failure: the store's, when it is not about one object"""
        size = self._ref.chunk_bytes
        end = offset_bytes + len(buffer)
        self._read(range(offset_bytes // size, -(-end // size)), offset_bytes, buffer)

    def _read(self, numbers: Sequence[int], offset_bytes: int, buffer: memoryview) -> None:
        """`buffer` begins at `offset_bytes`, and holds at least a part of each of these chunks."""
        size = self._ref.chunk_bytes
        for within_reach, same in groupby(numbers, self._within_reach):
            run = list(same)
            begin = max(run[0] * size, offset_bytes)
            end = min((run[-1] + 1) * size, offset_bytes + len(buffer))
            part = buffer[begin - offset_bytes : end - offset_bytes]
            if within_reach:
                try:
                    super().read_into(begin, part)
                    continue
                except Failure as failure:
                    self._raise_unless_damage(failure)
                if len(run) > 1:
                    half = len(run) // 2
                    self._read(run[:half], begin, part)
                    self._read(run[half:], begin, part)
                    continue
            part[:] = bytes(len(part))
            self._lost[run[0] : run[-1] + 1] = b"\1" * len(run)

    def _within_reach(self, number: int) -> bool:
        """Whether it may be worth a read. For what no pack holds, each one would look through the
        whole store again."""
        blob = self._map.chunk(number)
        if blob in (ZERO_ID, _LOST_ID):
            return blob == ZERO_ID
        return not self._looked_again or self._contents.index.locate(blob) is not None

    def _open_parts(self, kind: Kind, ids: Sequence[bytes]) -> dict[bytes, bytes]:
        return {blob: self._open_part(kind, blob) for blob in ids}

    def _open_part(self, kind: Kind, blob: bytes) -> bytes:
        if blob == _LOST_ID:
            return _LOST_PART
        if self._looked_again and self._contents.index.locate(blob) is None:
            return _LOST_PART
        try:
            part = self._contents.read_blob(kind, blob)
        except Failure as failure:
            self._raise_unless_damage(failure)
            return _LOST_PART
        return part if len(part) == PART_BYTES else _LOST_PART

    def _raise_unless_damage(self, failure: Failure) -> None:
        if failure.code not in _LOSES:
            raise failure
        self._looked_again |= failure.code == "vault.pack-missing"  # it has been looked for anew
        if failure.retryable or failure.code != "vault.corrupt-chunk":
            # One object, or all of them: a store that cannot give its smallest one is not damaged.
            read_config(self._contents.store)
        for fact in failure.evidence:
            if len(self._why) < _FACTS:
                self._why.setdefault((fact.source, fact.fact), fact)
