"""What is whole in packs that cannot be carried: read blob by blob, and packed anew at the target.

A pack travels by its name, so that one turned bit keeps all of it back. What points need of it is
then read as a restore reads it, from any copy that opens, and costs no point that has all it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from quiesce.model.failure import Failure, JobFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.damage import UNSOUND
from quiesce.vault.contents.manifests import Manifests
from quiesce.vault.format.diskmap import ZERO_ID, ids_of
from quiesce.vault.format.manifest import Manifest
from quiesce.vault.format.pack import Kind
from quiesce.vault.points.packing import PackStream, close_quietly
from quiesce.vault.stores.store import ObjectMissing
from quiesce.vault.upkeep.repack import ANEW_LEVEL, copy_blobs

_NODES, _CHUNKS = 2, 0
_AT_ONCE = 256
"""Blobs between two signs of life."""
_COSTS_A_POINT = UNSOUND | {"vault.corrupt-manifest"}


@dataclass(frozen=True, slots=True)
class Rescued:
    """What became of one point: the bytes newly stored for it, durable by now, or why the source
    cannot give all of it."""

    point_id: str
    stored_bytes: int = 0
    failure: Failure | None = None


def rescue(
    here: Contents,
    there: Contents,
    points: Sequence[str],
    beat: Callable[[], None],
    cancelled: Callable[[], bool],
) -> Iterator[Rescued]:
    """For points whose other packs have all arrived: the target holds all that one needs when it
    comes without a failure. Points that were deleted meanwhile are passed over. Takes the memory of
    one writer.

    :raise JobFailure: job.cancelled · :raise StorageFailure: the target's, or the source's when it
        is not about one object
    """
    # Packs that were just replaced count as there from now on.
    there.save_index()
    there.refresh()
    manifests = Manifests(here)
    work = _Rescue(here, there, beat, cancelled)
    try:
        for point_id in points:
            try:
                yield Rescued(point_id, work.bring(manifests.load(point_id)))
            except ObjectMissing:
                continue
            except Failure as failure:
                if failure.code not in _COSTS_A_POINT:
                    raise
                yield Rescued(point_id, failure=failure)
    finally:
        work.close()


class _Rescue:
    """Parts of maps that points share are walked once."""

    def __init__(
        self,
        here: Contents,
        there: Contents,
        beat: Callable[[], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._here = here
        self._there = there
        self._beat = beat
        self._cancelled = cancelled
        self._walked: set[bytes] = set()
        # Signs of life are given while reading, in this thread.
        self._stream = PackStream(there, ANEW_LEVEL, lambda: None)

    def close(self) -> None:
        close_quietly(self._stream, self._there)

    def bring(self, manifest: Manifest) -> int:
        stored = sum(self._below(b"".join(part.nodes), _NODES) for part in manifest.maps)
        self._stream.flush()
        return stored

    def _below(self, ids: bytes, level: int) -> int:
        kind = Kind.CHUNK if level == _CHUNKS else Kind.MAP
        parts = [blob for blob in dict.fromkeys(ids_of(ids)) if blob != ZERO_ID]
        lacking = self._lacking(parts)
        stored = 0
        for at in range(0, len(lacking), _AT_ONCE):
            if self._cancelled():
                raise JobFailure("job.cancelled", "The job was cancelled.")
            self._beat()
            stored += copy_blobs(self._here, self._stream, kind, lacking[at : at + _AT_ONCE])
        if level == _CHUNKS:
            return stored
        new = [blob for blob in parts if blob not in self._walked]
        for blob, plain in list(self._here.open_blobs(kind, new)):
            stored += self._below(plain, level - 1)
            self._walked.add(blob)
        return stored

    def _lacking(self, parts: list[bytes]) -> list[bytes]:
        """The session of a copy keeps packs that are marked as garbage, so these count too."""
        index = self._there.index
        held = index.holds(parts)
        return [
            blob
            for blob, there in zip(parts, held, strict=True)
            if not there and index.find(blob, usable=False) is None
        ]
