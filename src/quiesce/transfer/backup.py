"""Moves the disks of a snapshot session into a recovery point.

    extents ─► whole chunks ─► crew: read 4 MiB ─► put as one run ─► commit

Each thread of the crew reads a segment and hands it to the vault, which hashes,
compresses and encrypts in the calling thread. With two threads more than cores, reading hides
behind the others' work. Nothing exists until the one `commit` at the end; what was put before a
crash is found again by the vault, so the same call simply runs once more.

Before anything is moved, the change tracking of each increment is audited; a disk whose tracking
is wrong is read whole instead, and so is one whose base turns out to be damaged.

Memory: 4 MiB a thread, 32 MiB at most, whatever the disk's size.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from quiesce.model.extent import ExtentKind
from quiesce.model.failure import JobFailure, SnapshotFailure, VaultFailure
from quiesce.model.point import RecoveryPoint
from quiesce.model.progress import Progress
from quiesce.model.snapshot import Snapshot
from quiesce.transfer.audit import Sample, mismatch, wrong_chunks
from quiesce.transfer.chunks import ChunkRun
from quiesce.transfer.crew import Crew, Watch, threads_for
from quiesce.transfer.move import BASE_MISSING, Move, OpenSource, open_move, why_whole
from quiesce.transfer.ports import PointWriter
from quiesce.transfer.progress import Meter
from quiesce.transfer.throttle import Throttle


def back_up(
    snapshot: Snapshot,
    writer: PointWriter,
    open_source: OpenSource,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    throttle: Throttle | None = None,
    workers: int | None = None,
    audit: bool = True,
    on_mismatch: Callable[[SnapshotFailure], None] = lambda _: None,
) -> RecoveryPoint:
    """Read every disk of `snapshot`, write it to `writer`, commit, and return the point.

    Idempotent with its writer: a point that this job has committed already is returned at once.
    On any error the writer is abandoned and the first error is raised whole.

    `on_progress` is called from the calling thread about four times a second and at the end;
    total is what must be read. `throttle` is this call's own, and is stopped when it ends early.
    `workers` defaults to one per core. With `audit`, a sample of what each increment's tracking
    calls unchanged is read too and not counted; `on_mismatch` is told of a disk that is therefore
    read whole, with the code bitmap.audit-mismatch, and may raise to forbid it.

    :raise JobFailure: job.cancelled, within a second of `cancelled` turning true, or when the vault
        has stored what is in hand then
    :raise Failure: whatever the source or the vault raises
    """
    if writer.committed is not None:
        return writer.committed
    run = _Run(on_progress, cancelled, throttle or Throttle(), threads_for(workers))
    try:
        with ExitStack() as opened:
            moves, total = [], 0
            for disk in snapshot.session.disks:
                move = open_move(disk, writer, open_source, opened)
                # By the task's id: the same job, run again, looks at the same places.
                sample = Sample(f"{snapshot.session.task_id} {disk.name}")
                to_read = move.survey(sample)
                reason = run.audit(move, sample, on_mismatch) if audit else ""
                if reason:
                    move = move.read_whole(reason, open_source, opened)
                    to_read = move.survey(sample)
                moves.append(move)
                total += to_read
            meter = Meter(total)
            disks = []
            for move in moves:
                before = (meter.done_bytes, meter.stored_bytes)
                reason = run.carry(move, meter)
                if reason:
                    move = move.read_whole(reason, open_source, opened)
                    meter.expect(move.source.size_bytes)
                    run.carry(move, meter)
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


class _Run:
    """What all disks of one backup share."""

    def __init__(
        self,
        on_progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
        throttle: Throttle,
        threads: int,
    ) -> None:
        self._on_progress = on_progress
        self._cancelled = cancelled
        self._throttle = throttle
        self._threads = threads

    def audit(
        self, move: Move, sample: Sample, on_mismatch: Callable[[SnapshotFailure], None]
    ) -> str:
        """Why the disk must be read whole: its tracking is wrong, or its base damaged."""
        chunks = sample.chosen()
        if not chunks:
            return ""
        phase = Progress(phase=f"Checking the change tracking of disk {move.disk.name}")
        try:
            wrong = wrong_chunks(
                move.source,
                move.target,
                chunks,
                before_read=self._throttle.take,
                threads=self._threads,
                watch=self._watch(move, lambda: phase),
            )
        except VaultFailure as failure:
            return self._whole_after(failure, move)
        if not wrong:
            return ""
        found = mismatch(move.disk, len(chunks), wrong, move.target.chunk_bytes)
        on_mismatch(found)
        return f"{found.code}: {found.message}"

    def carry(self, move: Move, meter: Meter) -> str:
        """Why the disk must be read whole after all, if its base turns out to be damaged."""
        chunk = move.target.chunk_bytes

        def carry(run: ChunkRun, buffer: memoryview) -> None:
            if run.kind is ExtentKind.ZERO:
                move.target.zero(run.first, run.count)
                return
            part = buffer[: move.length(run)]
            self._throttle.take(len(part))
            move.source.read_into(run.first * chunk, part)
            meter.add(len(part), move.target.put(run.first, part))

        phase = f"Reading disk {move.disk.name}"
        watch = self._watch(move, lambda: meter.progress(phase))
        try:
            Crew(move.pieces(), carry, threads=self._threads, watch=watch).run()
            move.target.finish()
        except VaultFailure as failure:
            return self._whole_after(failure, move)
        return ""

    def _whole_after(self, failure: VaultFailure, move: Move) -> str:
        """:raise VaultFailure: `failure`, where no full read would help"""
        if failure.code != BASE_MISSING or not move.incremental:
            raise failure
        self._throttle.resume()
        return why_whole(failure)

    def _watch(self, move: Move, progress: Callable[[], Progress]) -> Watch:
        def abort() -> None:
            self._throttle.stop()
            move.source.close()

        return Watch(
            tick=lambda: self._on_progress(progress()), cancelled=self._cancelled, abort=abort
        )
