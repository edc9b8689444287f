"""Checks the change tracking of an increment: a sample of the chunks that it calls unchanged is
read and compared with what the base holds.

A bitmap that lies is believed for ever otherwise: every later point inherits the old bytes, and
whoever verifies the vault finds it whole. The vault's data are not read for this: a chunk's keyed
id tells whether it is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

from quiesce.model.failure import Evidence, SnapshotFailure
from quiesce.model.snapshot import SessionDisk
from quiesce.transfer.crew import Crew, Watch
from quiesce.transfer.ports import BlockSource, DiskWriter

SHARE = 1000
"""One of so many chunks that are called unchanged, and hold data, is looked at …"""
LEAST, MOST = 32, 256
"""… but at least so many of a disk (4 MiB) and at most so many (32 MiB). Where one chunk of a
hundred is wrong, 32 find it three times of ten and 256 nine times of ten; the next increment looks
at others."""
_SHOWN = 8
_NEARLY_ONE = 1.0 - 2.0**-53


class Sample:
    """Chooses chunks of runs that are told one after the other, in one pass and little memory
    (Li's algorithm L). The same runs and the same seed choose the same chunks, so that a job that
    is run again looks at the same."""

    def __init__(self, seed: str) -> None:
        self._dice = Random(seed)
        self._kept: list[int] = []
        self._told = 0
        self._next = 0
        self._weight = 1.0

    def add(self, first: int, count: int) -> None:
        """`count` chunks from number `first` on."""
        while self._next < self._told + count:
            chunk = first + self._next - self._told
            if len(self._kept) < MOST:
                self._kept.append(chunk)
            else:
                self._kept[self._dice.randrange(MOST)] = chunk
            self._next += 1 if len(self._kept) < MOST else self._skip()
        self._told += count

    def chosen(self) -> list[int]:
        """In order: about one of SHARE, within LEAST and MOST, as far as there are so many."""
        wanted = max(LEAST, min(MOST, self._told // SHARE))
        return sorted(self._dice.sample(self._kept, min(wanted, len(self._kept))))

    def _skip(self) -> int:
        self._weight *= math.exp(math.log(self._fraction()) / MOST)
        rest = math.log1p(-min(self._weight, _NEARLY_ONE))
        return math.floor(math.log(self._fraction()) / rest) + 1

    def _fraction(self) -> float:
        """Above 0: its logarithm exists."""
        return 1.0 - self._dice.random()


def wrong_chunks(
    source: BlockSource,
    target: DiskWriter,
    chunks: Sequence[int],
    *,
    before_read: Callable[[int], None],
    threads: int,
    watch: Watch,
) -> list[int]:
    """Those of `chunks` whose bytes are not the base's, in order.

    :raise Failure: as `Crew.run` and the two ends
    """
    size, wrong = target.chunk_bytes, []

    def look(chunk: int, buffer: memoryview) -> None:
        part = buffer[: min(size, source.size_bytes - chunk * size)]
        before_read(len(part))
        source.read_into(chunk * size, part)
        if not target.holds(chunk, part):
            wrong.append(chunk)

    Crew(iter(chunks), look, threads=threads, watch=watch).run()
    return sorted(wrong)


def mismatch(
    disk: SessionDisk, looked_at: int, wrong: Sequence[int], chunk_bytes: int
) -> SnapshotFailure:
    """What the audit of `disk` has found."""
    where = f"disk {disk.name}, bitmap {disk.dirty_bitmap}, generation {disk.base_generation}"
    ranges = [
        Evidence(f"bytes {start}–{min(start + chunk_bytes, disk.size_bytes)} differ", where)
        for start in (chunk * chunk_bytes for chunk in wrong[:_SHOWN])
    ]
    return SnapshotFailure(
        "bitmap.audit-mismatch",
        f"Disk {disk.name} has changed where its change tracking says that it has not: in "
        f"{len(wrong)} of {looked_at} places looked at.",
        evidence=ranges,
    )
