"""A limit on what a job reads or writes a second, over all of its threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Lock

BURST_SECONDS = 0.25
"""What was not used so long ago may still be: a thread that comes a moment late costs no rate, and
an idle second is not made up for by a flood."""


class Throttle:
    """A token bucket of `bytes_per_second`, 0 for no limit. Thread-safe; threads are served in the
    order in which they come.

    Every request is let through whole, and the next one waits until it is paid for: so the rate
    holds for requests of any size.
    """

    def __init__(
        self,
        bytes_per_second: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self.bytes_per_second = bytes_per_second
        self._clock = clock
        self._stopped = Event()
        self._wait = self._stopped.wait if wait is None else wait
        self._lock = Lock()
        self._paid_until = float("-inf")

    def take(self, length_bytes: int) -> None:
        """Returns when `length_bytes` may travel, or at once after `stop`."""
        if not self.bytes_per_second or self._stopped.is_set():
            return
        with self._lock:
            now = self._clock()
            begins = max(self._paid_until, now - BURST_SECONDS)
            self._paid_until = begins + length_bytes / self.bytes_per_second
        if begins > now:
            self._wait(begins - now)

    def stop(self) -> None:
        """Let everybody go, who waits and who comes: the work has ended. Idempotent."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def resume(self) -> None:
        """Hold again: other work follows on what was stopped."""
        self._stopped.clear()
