"""Several threads that share one list of work, and stop together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Condition, Lock, Thread
from typing import Generic, TypeVar

from quiesce.model.failure import JobFailure
from quiesce.model.pages import huge_pages

SEGMENT_BYTES = 4 * 1024 * 1024
"""What one thread reads at once."""

MAX_THREADS = 8
"""Bounds the crew's buffers to 32 MiB. With the vault's two open packs and what each thread needs
to compress (at levels up to 6) or unpack, a job stays below 128 MB on any number of cores."""

TICK_SECONDS = 0.25
"""How often `cancelled` is asked and progress is told."""

Work = TypeVar("Work")


def threads_for(cores: int | None = None, *, waiting: int = 2) -> int:
    """One thread per usable core and `waiting` more, whose reading and writing hides behind the
    others' work, also where each request takes 10 ms
    (docs/explanation/decisions/0019-the-data-path.md)."""
    return min(MAX_THREADS, (cores or len(os.sched_getaffinity(0))) + waiting)


@dataclass(frozen=True, slots=True)
class Watch:
    """How the caller follows and stops the work. All three are called from few places: `tick`
    and `cancelled` by the calling thread only, `abort` once, to wake threads that wait for a
    peer (such as by closing the connection they read from)."""

    tick: Callable[[], None]
    cancelled: Callable[[], bool]
    abort: Callable[[], None]


class Crew(Generic[Work]):
    """Runs `do(piece, buffer)` for every piece of `work`, in no fixed order.

    Every thread owns one buffer of SEGMENT_BYTES for its whole life. The first error of any
    thread stops all of them and is what `run` raises; errors that follow from the stop are not.
    """

    def __init__(
        self,
        work: Iterator[Work],
        do: Callable[[Work, memoryview], None],
        *,
        threads: int,
        watch: Watch,
    ) -> None:
        self._work = work
        self._do = do
        self._watch = watch
        self._next = Lock()
        self._changed = Condition()
        self._error: BaseException | None = None
        self._running = min(threads, MAX_THREADS)

    def run(self) -> None:
        """Returns when all work is done and every thread has ended.

        :raise JobFailure: job.cancelled, within a second of `cancelled` turning true where `abort`
            ends what `do` waits for; else when the pieces in hand are done
        :raise BaseException: the first error of `do` or of the work's own iterator
        """
        threads = [Thread(target=self._labour, name=f"crew-{n}") for n in range(self._running)]
        for thread in threads:
            thread.start()
        try:
            self._supervise()
        except BaseException as error:  # noqa: BLE001 - raised again once all have ended
            self._stop(error)
        if self._error is not None:
            self._watch.abort()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error

    def _supervise(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._error is not None or not self._running, TICK_SECONDS
                )
                if self._error is not None or not self._running:
                    return
            if self._watch.cancelled():
                raise JobFailure("job.cancelled", "The job was cancelled.")
            self._watch.tick()

    def _labour(self) -> None:
        try:
            buffer = huge_pages(SEGMENT_BYTES)
            while self._error is None:
                with self._next:
                    piece = next(self._work, None)
                if piece is None:
                    break
                self._do(piece, buffer)
        except BaseException as error:  # noqa: BLE001 - carried to the caller whole
            self._stop(error)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _stop(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()
