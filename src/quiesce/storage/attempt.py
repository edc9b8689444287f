"""One attempt at a snapshot: taken once, read while it is open, withdrawn at its end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from datetime import datetime

import structlog

from quiesce.model.failure import Failure
from quiesce.storage.blob import Cell
from quiesce.storage.naming import disk_blob, instant_text, log_blob, report_blob
from quiesce.storage.ports import SnapshotDisk

log = structlog.get_logger(__name__)

REPORT_LIMIT_BYTES = 128 * 1024
LOG_LIMIT_BYTES = 4 * 1024 * 1024


class Withdrawn(Exception):  # noqa: N818 - an answer, not an error
    """The attempt has ended, or this disk of it is not there to be read."""


class Attempt:
    """Thread-safe. Legal moves: open → (taking → taken or failed) → published → closed, and closed
    from anywhere. Nothing begins after `closed`, and `close` waits for what has begun."""

    def __init__(
        self,
        name: str,
        vm: str,
        disks: Sequence[str],
        *,
        take: Callable[[], datetime],
        reported: Callable[[bytes], None],
    ) -> None:
        self.name = name
        self.vm = vm
        self.disks = {disk_blob(name, disk): disk for disk in disks}
        self.report = Cell(REPORT_LIMIT_BYTES, stored=reported)
        self.log = Cell(LOG_LIMIT_BYTES)
        self._take = take
        self._changed = threading.Condition()
        self._closed = False
        self._outcome: Future[datetime] | None = None
        self._published: Mapping[str, SnapshotDisk] = {}
        self._previous: datetime | None = None
        self._reads_under_way = 0

    @property
    def cells(self) -> dict[str, Cell]:
        return {report_blob(self.name): self.report, log_blob(self.name): self.log}

    def point(self) -> Future[datetime]:
        """When the point was taken, as a promise: the first call of all has it taken, by a thread
        of its own; every other call gets the same promise. It cannot be cancelled.

        :raise Withdrawn:
        """
        with self._changed:
            if self._closed:
                raise Withdrawn
            if self._outcome is None:
                self._outcome = Future()
                self._outcome.set_running_or_notify_cancel()
                name = f"take-{self.name}"[:60]
                taker = threading.Thread(target=self._take_into, args=[self._outcome], name=name)
                try:
                    taker.start()
                except RuntimeError as error:  # no more threads
                    self._outcome.set_exception(error)
            return self._outcome

    @property
    def taken_at(self) -> datetime | None:
        outcome = self._outcome
        if outcome is None or not outcome.done() or outcome.exception() is not None:
            return None
        return outcome.result()

    @property
    def snapshot(self) -> str:
        """What `x-ms-snapshot` says, empty before the point is taken."""
        return instant_text(self.taken_at) if self.taken_at is not None else ""

    @property
    def previous_snapshot(self) -> str:
        """The snapshot that CLEAN extents of the published disks have not changed since."""
        return instant_text(self._previous) if self._previous is not None else ""

    def publish(self, disks: Mapping[str, SnapshotDisk], *, previous: datetime | None) -> None:
        """Let these disks be read. They are this attempt's from now on, to be closed with it.

        :raise Withdrawn: they are closed already
        """
        with self._changed:
            refused = self._closed
            if not refused:
                before, self._published, self._previous = self._published, dict(disks), previous
        for reader in disks.values() if refused else before.values():
            reader.close()
        if refused:
            raise Withdrawn

    @contextlib.contextmanager
    def reading(self, disk: str) -> Iterator[SnapshotDisk]:
        """The disk, which stays open until the end of the block: to be short.

        :raise Withdrawn:
        """
        with self._changed:
            reader = self._published.get(disk)
            if self._closed or reader is None:
                raise Withdrawn
            self._reads_under_way += 1
        try:
            yield reader
        finally:
            with self._changed:
                self._reads_under_way -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """From the return on nothing of this attempt runs and its disks are closed. Idempotent."""
        with self._changed:
            self._closed = True
            outcome = self._outcome
            self._changed.wait_for(lambda: self._reads_under_way == 0)
            published, self._published = self._published, {}
        if outcome is not None:
            wait([outcome])
        for reader in published.values():
            reader.close()

    def _take_into(self, outcome: Future[datetime]) -> None:
        try:
            outcome.set_result(self._take())
        except Failure as failure:
            outcome.set_exception(failure)
        except BaseException as defect:
            # Whoever waits must not wait for ever, and an exit is this thread's alone.
            outcome.set_exception(
                defect if isinstance(defect, Exception) else RuntimeError(repr(defect))
            )
            raise
