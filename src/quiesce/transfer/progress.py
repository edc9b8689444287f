"""How far a transfer is and how fast it goes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import Lock

from quiesce.model.progress import Progress

WINDOW_SECONDS = 10.0
"""The rate is that of the last ten seconds, so that it follows the disk and does not jump."""


class Meter:
    """Counts from several threads; `progress` is called by one thread, a few times a second."""

    def __init__(self, total_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total_bytes
        self._done = self._stored = 0
        self._clock = clock
        self._lock = Lock()
        self._samples = deque([(clock(), 0)])

    @property
    def done_bytes(self) -> int:
        return self._done

    @property
    def stored_bytes(self) -> int:
        return self._stored

    def add(self, done_bytes: int, stored_bytes: int = 0) -> None:
        with self._lock:
            self._done += done_bytes
            self._stored += stored_bytes

    def expect(self, more_bytes: int) -> None:
        """So much more must be read than was thought."""
        with self._lock:
            self._total += more_bytes

    def progress(self, phase: str) -> Progress:
        """Now. `done_bytes` never exceeds `total_bytes`, also if the disk turned out to hold
        more data than its first description said."""
        now = self._clock()
        with self._lock:
            done, stored = self._done, self._stored
        self._samples.append((now, done))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_SECONDS:
            self._samples.popleft()
        since, before = self._samples[0]
        rate = (done - before) / (now - since) if now > since else 0.0
        total = max(self._total, done)
        return Progress(done, total, stored, rate, phase)
