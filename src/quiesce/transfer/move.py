"""One disk on its way into a point: where from, where to, and what of it must be moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

from quiesce.model.extent import ExtentKind
from quiesce.model.failure import VaultFailure
from quiesce.model.point import PointDisk
from quiesce.model.snapshot import SessionDisk
from quiesce.transfer.audit import Sample
from quiesce.transfer.chunks import ChunkRun, chunk_runs, segments
from quiesce.transfer.crew import SEGMENT_BYTES
from quiesce.transfer.ports import BlockSource, DiskWriter, PointWriter
from quiesce.transfer.progress import Meter

OpenSource = Callable[[SessionDisk], BlockSource]
BASE_MISSING = "vault.base-missing"


@dataclass(frozen=True, slots=True)
class Move:
    """Without a base, chunks that are not written are zeros already; with one (`incremental`) they
    are the base's, and what is CLEAN is left out."""

    disk: SessionDisk
    source: BlockSource
    target: DiskWriter
    incremental: bool

    def pieces(self) -> Iterator[ChunkRun]:
        """What must be done, in order, in pieces of SEGMENT_BYTES at most."""
        for run in self._runs():
            if run.kind is ExtentKind.DATA:
                yield from segments(run, max(1, SEGMENT_BYTES // self.target.chunk_bytes))
            elif run.kind is ExtentKind.ZERO and self.incremental:
                yield run

    def survey(self, unchanged: Sample) -> int:
        """The bytes that must be read. `unchanged` is told of the chunks that are CLEAN and hold
        data."""
        total = 0
        for run in self._runs():
            if run.kind is ExtentKind.DATA:
                total += self.length(run)
            elif run.kind is ExtentKind.CLEAN:
                for first, count in self.target.populated(run.first, run.count):
                    unchanged.add(first, count)
        return total

    def length(self, run: ChunkRun) -> int:
        """Bytes of `run`; the disk's last chunk may be shorter than the others."""
        chunk = self.target.chunk_bytes
        return min((run.first + run.count) * chunk, self.source.size_bytes) - run.first * chunk

    def read_whole(self, reason: str, open_source: OpenSource, opened: ExitStack) -> Move:
        """The same disk, of which the base is believed nothing any more. `reason` is recorded."""
        self.target.forget_base()
        disk, source = _whole(self.disk, reason, open_source, opened)
        return replace(self, disk=disk, source=source, incremental=False)

    def described(self, meter: Meter, read_before: int, stored_before: int) -> PointDisk:
        return PointDisk(
            name=self.disk.name,
            size_bytes=self.source.size_bytes,
            format=self.disk.format,
            generation=self.disk.generation,
            incremental=self.incremental,
            full_read_reason=self.disk.full_read_reason,
            read_bytes=meter.done_bytes - read_before,
            stored_bytes=meter.stored_bytes - stored_before,
        )

    def _runs(self) -> Iterator[ChunkRun]:
        size, chunk = self.source.size_bytes, self.target.chunk_bytes
        return chunk_runs(self.source.extents(), size, chunk, has_base=self.incremental)


def open_move(
    disk: SessionDisk, writer: PointWriter, open_source: OpenSource, opened: ExitStack
) -> Move:
    """The disk's two ends. A base that the vault no longer holds makes a full read, with the
    reason recorded: the session can serve that as well.

    :raise Failure: whatever the source or the vault raises
    """
    incremental = disk.dirty_bitmap is not None
    source = open_source(disk)
    opened.callback(source.close)
    if incremental:
        try:
            target = writer.disk(disk.name, source.size_bytes, base_generation=disk.base_generation)
            return Move(disk, source, target, incremental=True)
        except VaultFailure as failure:
            if failure.code != BASE_MISSING:
                raise
            disk, source = _whole(disk, why_whole(failure), open_source, opened)
    target = writer.disk(disk.name, source.size_bytes)
    return Move(disk, source, target, incremental=False)


def why_whole(missing: VaultFailure) -> str:
    """The reason of a full read, for a base that is missing or turned out to be damaged."""
    facts = "; ".join(evidence.fact for evidence in missing.evidence)
    return f"the vault lost the point to count from: {missing.message} {facts}".rstrip()


def _whole(
    disk: SessionDisk, reason: str, open_source: OpenSource, opened: ExitStack
) -> tuple[SessionDisk, BlockSource]:
    disk = replace(disk, dirty_bitmap=None, full_read_reason=reason)
    source = open_source(disk)
    opened.callback(source.close)
    return disk, source
