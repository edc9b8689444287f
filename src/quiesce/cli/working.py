"""Work that this process does itself: its progress, and how it is stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import Any

from quiesce.cli import screen
from quiesce.cli.follow import shown
from quiesce.model.failure import ExitCode, Failure, JobFailure
from quiesce.model.job import TaskStatus
from quiesce.model.progress import Progress

_ASKS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what `timeout` and service managers send: both clear up what is half done."""


@contextmanager
def working(
    name: str, *, go_on: str, quiet: bool
) -> Iterator[tuple[Callable[[Progress], None], Callable[[], bool]]]:
    """(tell progress, is it to stop). The first Ctrl-C or SIGTERM asks the work to end, the second
    ends the process. Shown as a job's task is.

    :raise JobFailure: job.cancelled, with `go_on` as what to do next
    """
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        screen.err.print("\nStopping. Press Ctrl-C again to end at once.")

    task: dict[str, Any] = {"name": name, "status": TaskStatus.IN_PROGRESS, "progress": None}
    with shown(quiet=quiet) as show:

        def tell(progress: Progress) -> None:
            task["progress"] = asdict(progress)
            show({"tasks": [task]})

        tell(Progress())
        before = {number: signal.signal(number, ask) for number in _ASKS}
        try:
            yield tell, stop.is_set
        except Failure as failure:
            if failure.code != "job.cancelled":
                raise
            stopped = JobFailure("job.cancelled", f"{name}: stopped.", remedy=go_on)
            stopped.exit_code = ExitCode.INTERRUPTED
            raise stopped from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        task["status"] = TaskStatus.COMPLETED
        show({"tasks": [task]})
