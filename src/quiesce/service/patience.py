"""How long a job waits for things to mend, and how it waits: cancelled within about a second."""

from __future__ import annotations

import contextvars
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from typing import TypeVar

from quiesce.model.failure import Evidence, ServerFailure

_STEP_SECONDS = 0.25
_Value = TypeVar("_Value")

Show = Callable[[str], None]
"""Called about four times a second of a wait, with what is waited for as a sentence. It may raise,
when the job was cancelled."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. Tests put their own `sleep` in.

    `retries`: pauses before a snapshot task that failed for a passing reason is tried again.
    `agent`: until an agent that was restarted is heard of. `cause`: until a load has fallen or a
    migration has ended; `others`: the same for what somebody else does in the guest or with its
    disks, such as a freeze, of which nobody knows the end; looked at every `look`. `quick`: for the
    looks at one failure while a point is to be taken; `diagnosis`: for the same otherwise, a
    backstop only, since looks bound themselves before that and are seldom longer than five.
    `step`: for one step of mending, other than a wait; `before_point`: for all of them, waits too,
    that a job takes before its point.
    """

    retries: tuple[float, ...] = (5.0, 20.0, 60.0)
    agent: float = 90.0
    cause: float = 300.0
    others: float = 60.0
    look: float = 15.0
    quick: float = 8.0
    diagnosis: float = 120.0
    step: float = 240.0
    before_point: float = 600.0
    sleep: Callable[[float], None] = time.sleep

    def wait(self, seconds: float, words: str, show: Show) -> None:
        """:raise Failure: what `show` raises"""
        left = seconds
        while left > 0:
            show(f"{words} ({left:.0f} s left)")
            step = min(_STEP_SECONDS, left)
            self.sleep(step)
            left -= step


class _Left(Exception):  # noqa: N818 - no error: nobody waits any more
    """Ends an errand at its next wait."""


def errand(
    work: Callable[[Show], _Value], words: str, show: Show, *, seconds: float = math.inf
) -> _Value:
    """What `work` returns: something that cannot be interrupted, such as asking a guest, done on a
    thread of its own so that whoever waits can leave. It is given what to call in its own waits.

    :raise Exception: what `work` raises, or what `show` does: then `work` is left to end by itself
    :raise ServerFailure: server.mend-timeout, after so many seconds; `work` is left then, too
    """
    until = time.monotonic() + seconds
    saying, left = [words], threading.Event()
    ending: Future[_Value] = Future()
    context = contextvars.copy_context()

    def say(more: str) -> None:
        saying[0] = more
        if left.is_set():
            raise _Left

    def run() -> None:
        try:
            ending.set_result(context.run(work, say))
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            ending.set_exception(error)

    threading.Thread(target=run, name="errand", daemon=True).start()
    try:
        while not wait_for([ending], timeout=_STEP_SECONDS).done:
            show(saying[0])
            if time.monotonic() >= until:
                raise _too_long(seconds, saying[0])
    except BaseException:
        left.set()
        raise
    return ending.result()


def _too_long(seconds: float, doing: str) -> ServerFailure:
    return ServerFailure(
        "server.mend-timeout",
        f"The step was given up after {seconds:.0f} s.",
        evidence=[Evidence(f"it was at: {doing}", "this server")],
        retryable=True,
    )
