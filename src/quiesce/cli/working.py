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


@contextmanager
def working(
    name: str, *, go_on: str, quiet: bool
) -> Iterator[tuple[Callable[[Progress], None], Callable[[], bool]]]:
    """(tell progress, is it to stop). The first Ctrl-C asks the work to end, the second ends the
    process. Shown as a job's task is.

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
        before = signal.signal(signal.SIGINT, ask)
        try:
            yield tell, stop.is_set
        except Failure as failure:
            if failure.code != "job.cancelled":
                raise
            stopped = JobFailure("job.cancelled", f"{name}: stopped.", remedy=go_on)
            stopped.exit_code = ExitCode.INTERRUPTED
            raise stopped from None
        finally:
            signal.signal(signal.SIGINT, before)
        task["status"] = TaskStatus.COMPLETED
        show({"tasks": [task]})
