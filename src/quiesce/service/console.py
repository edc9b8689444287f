"""What a running job writes to and listens to: its log, its progress, its being cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from quiesce.model.failure import JobFailure
from quiesce.model.job import TaskName
from quiesce.model.progress import Progress
from quiesce.service.job_book import JobBook

_WRITE_SECONDS = 0.5

log = structlog.get_logger(__name__)


class Cancellations:
    """Which jobs were asked to end: at once for the process that runs them, and in the table for
    the one that recovers them."""

    def __init__(self, book: JobBook) -> None:
        self._book = book
        self._events: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def event(self, job_id: str) -> threading.Event:
        with self._lock:
            event = self._events.get(job_id)
            if event is None:
                event = self._events[job_id] = threading.Event()
                if self._book.cancel_requested(job_id):
                    event.set()
        return event

    def forget(self, job_id: str) -> None:
        with self._lock:
            self._events.pop(job_id, None)


class Console:
    """One task of one job, seen from the thread that does the work."""

    def __init__(
        self,
        book: JobBook,
        cancellations: Cancellations,
        job_id: str,
        task: TaskName,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._book = book
        self._event = cancellations.event(job_id)
        self._job_id = job_id
        self._task = task
        self._monotonic = monotonic
        self._written_at = float("-inf")
        self._said_cancelled = False

    def log(self, level: str, text: str) -> None:
        """One line of the job's story; one of the level debug is not kept, and is there for the
        sake of what follows.

        :raise JobFailure: job.cancelled, once, when the job was asked to end: between the lines
            of a long task is where it can stop cleanly, and its teardown still may log
        """
        if level != "debug":
            self.note(level, text)
        if not self._said_cancelled:
            self.stop_if_cancelled()

    def note(self, level: str, text: str) -> None:
        """As `log`, and never raises because of a cancellation."""
        {"warning": log.warning, "error": log.error}.get(level, log.info)(text)
        self._book.log(self._job_id, level, text)

    def progress(self, progress: Progress) -> None:
        """Shown at once, written down about twice a second."""
        self._book.show_progress(self._job_id, self._task, progress)
        now = self._monotonic()
        if now - self._written_at >= _WRITE_SECONDS:
            self._written_at = now
            self._book.write_progress(self._job_id, self._task)

    def cancelled(self) -> bool:
        return self._event.is_set()

    def stop_if_cancelled(self) -> None:
        """:raise JobFailure: job.cancelled"""
        if self.cancelled():
            self._said_cancelled = True
            raise JobFailure("job.cancelled", "The job was cancelled.")
