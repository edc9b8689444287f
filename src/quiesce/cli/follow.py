"""Waiting for a job: live bars on a terminal, plain lines elsewhere.

The job is the server's. Whoever watches it may go away at any time; Ctrl-C ends the watching,
says so, and how the job would be ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.progress import Task as Bar
from rich.text import Text

from quiesce.cli import screen
from quiesce.cli.client import Client, Json
from quiesce.cli.job_text import show_outcome
from quiesce.model.failure import ExitCode
from quiesce.model.job import JobStatus, TaskStatus
from quiesce.model.units import duration_text, rate_text, size_text

_POLL_SECONDS = 0.5
_LINE_SECONDS = 10.0
_ENDED = {status.value for status in JobStatus if status.ended}
_EXIT = {
    JobStatus.COMPLETED: ExitCode.OK,
    JobStatus.COMPLETED_WITH_WARNING: ExitCode.JOB_WARNING,
}
_DAMAGE = (
    "vault.damaged",
    "vault.copy-incomplete",
    "vault.pack-missing",
    "restore.point-incomplete",
)


def finish_or_follow(client: Client, job: Json, *, wait: bool, as_json: bool) -> int:
    """Say that the job has started, or watch it to its end when `wait` is set.

    Returns the exit code: 0 when it was only started; else by how it ended.
    """
    if not wait:
        screen.emit(job, as_json=as_json, human=lambda: _started(job))
        return ExitCode.OK
    try:
        job = follow(client, job, quiet=as_json)
    except KeyboardInterrupt:
        screen.err.print()
        screen.advise(
            f"The job goes on. To end it: `quiesce job cancel {job['id']}`; "
            f"to look again: `quiesce job show {job['id']} --wait`",
            console=screen.err,
        )
        return ExitCode.INTERRUPTED
    screen.emit(job, as_json=as_json, human=lambda: show_outcome(job))
    return exit_code(job)


def exit_code(job: Json) -> ExitCode:
    """How the job ended; damage that a job met is told apart from a job that failed."""
    failure = job.get("failure")
    if failure and (failure["code"] in _DAMAGE or failure["code"].startswith("vault.corrupt-")):
        return ExitCode.DAMAGED
    return _EXIT.get(JobStatus(job["status"]), ExitCode.JOB_FAILED)


def follow(client: Client, job: Json, *, quiet: bool = False) -> Json:
    """The job, once it has ended, with its progress shown meanwhile unless `quiet`."""
    with shown(quiet=quiet) as show:
        return _watch(client, job, show)


@contextmanager
def shown(*, quiet: bool) -> Iterator[Callable[[Json], None]]:
    """What shows the tasks of a job as they are: bars on a terminal, lines elsewhere."""
    if quiet:
        yield lambda _: None
        return
    if not screen.out.is_terminal:
        yield _PlainLines().show
        return
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=14),
        _Figures(),
        console=screen.out,
        refresh_per_second=4,
    ) as progress:
        bars: dict[str, Any] = {}

        def show(now: Json) -> None:
            for task in now["tasks"]:
                name = task["name"]
                if name not in bars:
                    bars[name] = progress.add_task(f"{name:<22}", total=None, start=True)
                figures = task["progress"]
                total = figures["total_bytes"] or None
                done = figures["done_bytes"]
                if task["status"] == TaskStatus.COMPLETED:
                    total = total or 1
                    done = total
                progress.update(bars[name], total=total, completed=done, task=task)

        yield show


def _watch(client: Client, job: Json, show: Callable[[Json], None]) -> Json:
    show(job)
    while job["status"] not in _ENDED:
        time.sleep(_POLL_SECONDS)
        job = client.get("jobs", job["id"])
        show(job)
    return job


class _Figures(ProgressColumn):
    """Right of a bar: what a running task does and how long it still takes, or how it ended."""

    def render(self, task: Bar) -> Text:
        shown = task.fields.get("task")
        return Text(figures(shown), style="dim") if shown else Text("")


def figures(task: Json) -> str:
    """A task's progress in words, short enough to stand beside its bar."""
    progress = task["progress"]
    if task["status"] != TaskStatus.IN_PROGRESS:
        done = f"  {size_text(progress['done_bytes'])}" if progress["done_bytes"] else ""
        return f"{task['status']}{done}"
    if not progress["total_bytes"]:
        return screen.clean(progress["phase"]) or TaskStatus.IN_PROGRESS.value
    words = f"{progress['done_bytes'] * 100 // progress['total_bytes']:3d} %"
    if progress["rate"] > 0:
        left = max(0, progress["total_bytes"] - progress["done_bytes"]) / progress["rate"]
        words += f"  {rate_text(progress['rate'])}  {duration_text(left)} left"
    return words


class _PlainLines:
    """A line when a task's status changes, and every ten seconds while one runs."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self._said_at = time.monotonic()

    def show(self, job: Json) -> None:
        for task in job["tasks"]:
            if self._seen.get(task["name"], TaskStatus.WAITING) != task["status"]:
                self._seen[task["name"]] = task["status"]
                self._say(task)
            elif (
                task["status"] == TaskStatus.IN_PROGRESS
                and time.monotonic() - self._said_at >= _LINE_SECONDS
            ):
                self._say(task)

    def _say(self, task: Json) -> None:
        self._said_at = time.monotonic()
        progress = task["progress"]
        running = task["status"] == TaskStatus.IN_PROGRESS and progress["total_bytes"]
        phase = f"  {progress['phase']}" if running and progress["phase"] else ""
        screen.say(f"{task['name']}: {figures(task)}{phase}")


def _started(job: Json) -> None:
    screen.say(f"Job {job['id']} has been started.")
    screen.advise(f"Watch it: `quiesce job show {job['id']} --wait`")
