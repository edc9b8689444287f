"""How long a job waits for things to mend, and how it waits: cancelled within about a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_STEP_SECONDS = 0.25

Show = Callable[[str], None]
"""Called about four times a second of a wait, with what is waited for as a sentence. It may raise,
when the job was cancelled."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. Tests put their own `sleep` in.

    `retries`: pauses before a snapshot task that failed for a passing reason is tried again.
    `agent`: until an agent that was restarted is heard of. `cause`: until a load has fallen, a
    migration or somebody else's freeze has ended; looked at every `look`. `quick`: for the looks at
    one failure while a point is to be taken; `diagnosis`: for the same otherwise, a backstop only,
    since looks bound themselves before that and are seldom longer than five.
    """

    retries: tuple[float, ...] = (5.0, 20.0, 60.0)
    agent: float = 90.0
    cause: float = 600.0
    look: float = 15.0
    quick: float = 8.0
    diagnosis: float = 120.0
    sleep: Callable[[float], None] = time.sleep

    def wait(self, seconds: float, words: str, show: Show) -> None:
        """:raise Failure: what `show` raises"""
        left = seconds
        while left > 0:
            show(f"{words} ({left:.0f} s left)")
            step = min(_STEP_SECONDS, left)
            self.sleep(step)
            left -= step
