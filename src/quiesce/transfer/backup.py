"""Moves the disks of a snapshot session into a recovery point.

    extents ─► whole chunks ─► crew: read 4 MiB ─► put as one run ─► commit

Each thread of the crew reads a segment and hands it to the vault, which hashes,
compresses and encrypts in the calling thread. With one thread more than cores, reading hides
behind the others' work. Nothing exists until the one `commit` at the end; what was put before a
crash is found again by the vault, so the same call simply runs once more.

Memory: 4 MiB a thread, 32 MiB at most, whatever the disk's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

from quiesce.model.extent import ExtentKind
from quiesce.model.failure import JobFailure, VaultFailure
from quiesce.model.job import Progress
from quiesce.model.point import PointDisk, RecoveryPoint
from quiesce.model.snapshot import SessionDisk, Snapshot
from quiesce.transfer.chunks import ChunkRun, chunk_runs, segments
from quiesce.transfer.crew import SEGMENT_BYTES, Crew, Watch, threads_for
from quiesce.transfer.ports import BlockSource, DiskWriter, PointWriter
from quiesce.transfer.progress import Meter
from quiesce.transfer.throttle import Throttle

OpenSource = Callable[[SessionDisk], BlockSource]


def back_up(
    snapshot: Snapshot,
    writer: PointWriter,
    open_source: OpenSource,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    throttle: Throttle | None = None,
    workers: int | None = None,
) -> RecoveryPoint:
    """Read every disk of `snapshot`, write it to `writer`, commit, and return the point.

    Idempotent with its writer: a point that this job has committed already is returned at once.
    On any error the writer is abandoned and the first error is raised whole.

    `on_progress` is called from the calling thread about four times a second and at the end;
    total is what must be read. `throttle` is this call's own, and is stopped when it ends early.
    `workers` defaults to one per core.

    :raise JobFailure: job.cancelled, within a second of `cancelled` turning true
    :raise Failure: whatever the source or the vault raises
    """
    if writer.committed is not None:
        return writer.committed
    throttle = throttle or Throttle()
    try:
        with ExitStack() as opened:
            moves = [_open(disk, writer, open_source, opened) for disk in snapshot.session.disks]
            meter = Meter(sum(move.to_read_bytes() for move in moves))
            disks = []
            for move in moves:
                before = (meter.done_bytes, meter.stored_bytes)
                _move(move, meter, on_progress, cancelled, throttle, workers)
                disks.append(move.described(meter, *before))
        if cancelled():
            raise JobFailure("job.cancelled", "The job was cancelled.")
        on_progress(meter.progress("Committing"))
        return writer.commit(
            taken_at=snapshot.session.taken_at,
            route=snapshot.session.route,
            consistency=snapshot.consistency,
            freeze=snapshot.freeze,
            disks=tuple(disks),
        )
    except BaseException:
        writer.abandon()
        raise


@dataclass(frozen=True, slots=True)
class _Move:
    """One disk on its way: where from, where to, and how it is recorded."""

    disk: SessionDisk
    source: BlockSource
    target: DiskWriter
    incremental: bool

    def runs(self) -> Iterator[ChunkRun]:
        """What must be done, in order. Without a base, unwritten chunks are zeros already."""
        size, chunk = self.source.size_bytes, self.target.chunk_bytes
        runs = chunk_runs(self.source.extents(), size, chunk, has_base=self.incremental)
        for run in runs:
            if run.kind is ExtentKind.DATA or (run.kind is ExtentKind.ZERO and self.incremental):
                yield run

    def pieces(self) -> Iterator[ChunkRun]:
        for run in self.runs():
            if run.kind is ExtentKind.ZERO:
                yield run
            else:
                yield from segments(run, max(1, SEGMENT_BYTES // self.target.chunk_bytes))

    def to_read_bytes(self) -> int:
        return sum(self.length(run) for run in self.runs() if run.kind is ExtentKind.DATA)

    def length(self, run: ChunkRun) -> int:
        """Bytes of `run`; the disk's last chunk may be shorter than the others."""
        chunk = self.target.chunk_bytes
        return min((run.first + run.count) * chunk, self.source.size_bytes) - run.first * chunk

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


def _open(
    disk: SessionDisk, writer: PointWriter, open_source: OpenSource, opened: ExitStack
) -> _Move:
    """The disk's two ends. A base that the vault no longer holds makes a full read, with the
    reason recorded: the session can serve that as well."""
    incremental = disk.dirty_bitmap is not None
    source = open_source(disk)
    opened.callback(source.close)
    if incremental:
        try:
            target = writer.disk(disk.name, source.size_bytes, base_generation=disk.base_generation)
            return _Move(disk, source, target, incremental=True)
        except VaultFailure as failure:
            if failure.code != "vault.base-missing":
                raise
            reason = f"the vault lost the point to count from: {failure.message}"
        disk = replace(disk, dirty_bitmap=None, full_read_reason=reason)
        source = open_source(disk)
        opened.callback(source.close)
    target = writer.disk(disk.name, source.size_bytes)
    return _Move(disk, source, target, incremental=False)


def _move(
    move: _Move,
    meter: Meter,
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
    throttle: Throttle,
    workers: int | None,
) -> None:
    chunk = move.target.chunk_bytes

    def carry(run: ChunkRun, buffer: memoryview) -> None:
        if run.kind is ExtentKind.ZERO:
            move.target.zero(run.first, run.count)
            return
        part = buffer[: move.length(run)]
        throttle.take(len(part))
        move.source.read_into(run.first * chunk, part)
        meter.add(len(part), move.target.put(run.first, part))

    def abort() -> None:
        throttle.stop()
        move.source.close()

    phase = f"Reading disk {move.disk.name}"
    Crew(
        move.pieces(),
        carry,
        threads=threads_for(workers),
        watch=Watch(
            tick=lambda: on_progress(meter.progress(phase)),
            cancelled=cancelled,
            abort=abort,
        ),
    ).run()
