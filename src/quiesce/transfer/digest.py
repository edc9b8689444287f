"""The hash of a whole disk, to prove that two are the same bit for bit."""

from __future__ import annotations

from blake3 import blake3

from quiesce.model.extent import ExtentKind
from quiesce.transfer.crew import SEGMENT_BYTES
from quiesce.transfer.ports import DiskReader


def digest(disk: DiskReader) -> str:
    """BLAKE3 over all bytes of `disk` in order, as hex: what `b3sum` says of a raw image.

    Works for whatever can be read: a snapshot, a point in the vault, an image file. Zero ranges
    are hashed without being read, at some GB/s a core. Open a snapshot without its dirty bitmap,
    or CLEAN ranges are read too.
    """
    hasher = blake3(max_threads=blake3.AUTO)
    buffer = memoryview(bytearray(SEGMENT_BYTES))
    zeros = memoryview(bytes(16 * SEGMENT_BYTES))
    for extent in disk.extents():
        blank = extent.kind is ExtentKind.ZERO
        step = len(zeros) if blank else len(buffer)
        for position in range(extent.offset_bytes, extent.end_bytes, step):
            part = (zeros if blank else buffer)[: min(step, extent.end_bytes - position)]
            if not blank:
                disk.read_into(position, part)
            hasher.update(part)
    return hasher.hexdigest()
