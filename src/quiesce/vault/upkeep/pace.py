"""How far long work on a vault is, and how fast it goes: what its progress tells of."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from quiesce.model.progress import Progress

_WINDOW_SECONDS = 10.0
"""The rate is that of the last ten seconds: what comes after a stall is not told by it for long."""
_APART_SECONDS = 0.1

Show = Callable[[Progress], None]


def unseen(progress: Progress) -> None:
    """Nobody watches."""


class Pace:
    """Bytes done of those to do, in the phase that runs, and its own rate: each phase has bytes of
    its own kind. Used by one thread."""

    def __init__(self, show: Show, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._show = show
        self._monotonic = monotonic
        self.phase = ""
        self.total_bytes = self.done_bytes = self.stored_bytes = 0
        self._samples = deque([(monotonic(), 0)])

    def begin(self, phase: str, total_bytes: int = 0, *, done_bytes: int = 0) -> None:
        """`total_bytes` 0: not known. `done_bytes` were done before, and count for no rate."""
        self.phase = phase
        self.total_bytes, self.done_bytes = total_bytes, done_bytes
        self._samples = deque([(self._monotonic(), done_bytes)])
        self.show()

    def advance(self, done_bytes: int) -> None:
        self.done_bytes += done_bytes
        self.show()

    def show(self) -> None:
        now = self._monotonic()
        if now - self._samples[-1][0] >= _APART_SECONDS:
            self._samples.append((now, self.done_bytes))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _WINDOW_SECONDS:
            self._samples.popleft()
        since, before = self._samples[0]
        rate = (self.done_bytes - before) / (now - since) if now > since else 0.0
        total = max(self.total_bytes, self.done_bytes) if self.total_bytes else 0
        self._show(Progress(self.done_bytes, total, self.stored_bytes, rate, self.phase))
