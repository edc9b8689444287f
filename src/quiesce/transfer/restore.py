"""Writes one disk of a recovery point to a target."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from quiesce.model.extent import Extent, ExtentKind
from quiesce.model.failure import Failure, JobFailure, RestoreFailure
from quiesce.model.progress import Progress
from quiesce.transfer.crew import SEGMENT_BYTES, Crew, Watch, threads_for
from quiesce.transfer.ports import BlockTarget, DiskReader
from quiesce.transfer.progress import Meter


@dataclass(frozen=True, slots=True)
class RestoredDisk:
    """What was done: the disk's size, how much of it held data, and the wall time."""

    size_bytes: int
    written_bytes: int
    seconds: float


def data_bytes(reader: DiskReader) -> int:
    """What a restore will write, so that space can be checked before it begins."""
    return sum(e.length_bytes for e in reader.extents() if e.kind is ExtentKind.DATA)


def restore_disk(
    reader: DiskReader,
    target: BlockTarget,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    workers: int | None = None,
    phase: str = "Restoring",
) -> RestoredDisk:
    """Write all data of `reader` to `target` and put the target in place.

    Only DATA extents are written, each reserved first, 4 MiB at a time; the target reads as zeros
    elsewhere. On any error the target is abandoned and the first error is raised whole; what could
    not be removed is told with it.

    `on_progress` is called from the calling thread about four times a second and at the end.

    :raise RestoreFailure: restore.target-too-small, restore.no-space, restore.write-failed
    :raise VaultFailure: what the vault could not give
    :raise JobFailure: job.cancelled, within a second of `cancelled` turning true, or when what is
        being read and written then is done, 4 MiB a thread: a vault that does not answer is waited
        for until it does or its time is up
    """
    began = time.monotonic()
    try:
        if target.size_bytes < reader.size_bytes:
            raise RestoreFailure(
                "restore.target-too-small",
                f"The target holds {target.size_bytes} bytes, the disk has {reader.size_bytes}.",
            )
        meter = Meter(data_bytes(reader))

        def carry(piece: Extent, buffer: memoryview) -> None:
            part = buffer[: piece.length_bytes]
            reader.read_into(piece.offset_bytes, part)
            target.write(piece.offset_bytes, part)
            meter.add(len(part))

        Crew(
            _pieces(reader, target),
            carry,
            threads=threads_for(workers, waiting=4),  # each reads and writes
            watch=Watch(
                tick=lambda: on_progress(meter.progress(phase)),
                cancelled=cancelled,
                abort=lambda: None,
            ),
        ).run()
        if cancelled():
            raise JobFailure("job.cancelled", "The job was cancelled.")
        on_progress(meter.progress("Making the disk durable"))
        target.finish()
    except Failure as failure:
        failure.evidence += target.abandon()
        raise
    except BaseException:
        target.abandon()
        raise
    return RestoredDisk(reader.size_bytes, meter.done_bytes, time.monotonic() - began)


def _pieces(reader: DiskReader, target: BlockTarget) -> Iterator[Extent]:
    """DATA in pieces that end on multiples of SEGMENT_BYTES, so that neighbouring extents are read
    in the vault's own order and a large write is aligned. Each extent is reserved before."""
    for extent in reader.extents():
        if extent.kind is not ExtentKind.DATA:
            continue
        target.reserve(extent.offset_bytes, extent.length_bytes)
        position = extent.offset_bytes
        while position < extent.end_bytes:
            border = (position // SEGMENT_BYTES + 1) * SEGMENT_BYTES
            end = min(border, extent.end_bytes)
            yield Extent(position, end - position, ExtentKind.DATA)
            position = end
