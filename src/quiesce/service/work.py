"""What every kind of job shares: its parts, its beginning, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog
from structlog.contextvars import bound_contextvars

from quiesce.model.failure import Failure, FailureReport, JobFailure, report_of
from quiesce.model.job import Job, JobStatus, TaskName, TaskStatus
from quiesce.model.vm import VmAddress
from quiesce.service.clock import Clock
from quiesce.service.composition import Composition
from quiesce.service.console import Cancellations, Console
from quiesce.service.diagnosing import Diagnosing, Looking
from quiesce.service.guest_side import GuestSide
from quiesce.service.job_book import JobBook
from quiesce.service.patience import Patience
from quiesce.service.points import Points
from quiesce.service.vms import Vms
from quiesce.snapshot.take import Routes

log = structlog.get_logger(__name__)

CANCELLED = "job.cancelled"


@dataclass(frozen=True, slots=True)
class Parts:
    """What the steps of jobs work with; made once by `Service`. `host_address` is where guests
    find this server; empty when they cannot."""

    clock: Clock
    composition: Composition
    guest_side: GuestSide
    book: JobBook
    cancellations: Cancellations
    vms: Vms
    points: Points
    looks: Looking
    diagnosing: Diagnosing
    patience: Patience
    host_address: str

    def console(self, job_id: str, task: TaskName) -> Console:
        return Console(self.book, self.cancellations, job_id, task)

    def routes(self, address: VmAddress) -> Routes:
        """The ways to a frozen guest that this VM's agents give."""
        return Routes(
            host=self.composition.guest(address),
            guest=self.guest_side.route(address.name) if address.agent.waagent else None,
        )


def begin(parts: Parts, job_id: str) -> Job:
    """Move a queued job to In progress; one that was cancelled while it waited stays ended, one
    that is recovered goes on."""
    now = parts.clock.now()

    def start(job: Job) -> Job:
        if job.status is not JobStatus.QUEUED:
            return job
        return replace(job, status=JobStatus.IN_PROGRESS, started_at=now)

    return parts.book.update(job_id, start)


def take_up(parts: Parts, job: Job, name: TaskName) -> bool:
    """Whether the task is still to be done; then it is In progress from here on. If not it has
    ended: the engine calls a step again when the process was killed between the task's end and the
    engine's record of it."""
    status = task_status(job, name)
    if status is TaskStatus.WAITING:
        parts.book.move_task(job.id, name, TaskStatus.IN_PROGRESS)
    return status in (TaskStatus.WAITING, TaskStatus.IN_PROGRESS)


def was_interrupted(job: Job, name: TaskName) -> bool:
    """Whether the task was under way in the job as it was before `take_up`."""
    return task_status(job, name) is TaskStatus.IN_PROGRESS


def run_task(parts: Parts, job_id: str, name: TaskName, work: Callable[[], str]) -> str:
    """What `work` returns, or "" when it raised: then the task is ended and the reason kept.

    This is the outermost edge of a job. Nothing may pass it, or the engine would keep an error
    that no screen shows, and the job would stay In progress for ever.
    """
    with bound_contextvars(job=job_id):
        try:
            return work()
        except Exception as error:
            if not isinstance(error, Failure):
                log.error("a defect stopped a task", task=name, exc_info=error)
            end_task(parts, job_id, name, report_of(error))
            return ""


def end_task(parts: Parts, job_id: str, name: TaskName, report: FailureReport) -> None:
    """End one task by a failure or a cancellation; tasks still waiting are skipped. Why it failed
    is looked for before, while the evidence is fresh."""
    cancelled = report.code == CANCELLED
    status = TaskStatus.CANCELLED if cancelled else TaskStatus.FAILED
    parts.book.log(
        job_id,
        "info" if cancelled else "error",
        "Cancelled." if cancelled else f"{report.message} [{report.code}]",
    )
    if not cancelled:
        _diagnose(parts, job_id, report)
    parts.book.move_task(
        job_id, name, status, lambda job: job if cancelled else replace(job, failure=report)
    )


def _diagnose(parts: Parts, job_id: str, report: FailureReport) -> None:
    """Nothing may pass, see `run_task`: a job that failed must not go on for ever since finding
    out why failed too."""
    try:
        parts.diagnosing.on_job(job_id, report)
    except Exception as error:
        log.error("a failure was not diagnosed", exc_info=error)


def finish(parts: Parts, job_id: str, status_of: Callable[[Job], JobStatus]) -> None:
    """The last step of every job: skip what still waits, and set the status that follows from the
    tasks. Idempotent."""
    now = parts.clock.now()

    def end(job: Job) -> Job:
        if job.status.ended:
            return job
        tasks = tuple(
            replace(task, status=TaskStatus.SKIPPED) if task.status is TaskStatus.WAITING else task
            for task in job.tasks
        )
        return replace(job, tasks=tasks, status=status_of(job), ended_at=now)

    for task in parts.book.get(job_id).tasks:
        # A defect between two steps must not leave a task running in an ended job.
        if task.status is TaskStatus.IN_PROGRESS:
            stopped = JobFailure("job.interrupted", f"{task.name} did not come to its end.")
            end_task(parts, job_id, task.name, stopped.report())
    parts.book.update(job_id, end)
    parts.cancellations.forget(job_id)
    parts.diagnosing.forget(job_id)


Work = Callable[[Parts, Job], None]
"""What a job's one task does."""


def only_task(parts: Parts, job_id: str, name: TaskName, work: Work) -> None:
    """The one task of a job that simply begins again when it was interrupted."""
    job = begin(parts, job_id)
    if job.status.ended or not take_up(parts, job, name):
        return

    def run() -> str:
        parts.console(job_id, name).stop_if_cancelled()
        work(parts, job)
        parts.book.move_task(job_id, name, TaskStatus.COMPLETED)
        return "done"

    run_task(parts, job_id, name, run)


_STATUS_BY_TASK = {
    TaskStatus.COMPLETED: JobStatus.COMPLETED,
    TaskStatus.CANCELLED: JobStatus.CANCELLED,
}


def end_by_task(parts: Parts, job_id: str, name: TaskName) -> None:
    """End a job that has one task."""

    def status(job: Job) -> JobStatus:
        ended = _STATUS_BY_TASK.get(task_status(job, name), JobStatus.FAILED)
        if ended is JobStatus.COMPLETED and job.warnings:
            return JobStatus.COMPLETED_WITH_WARNING
        return ended

    finish(parts, job_id, status)


def warn(parts: Parts, job_id: str, *warnings: str) -> None:
    """Add warnings that the job does not have yet."""
    parts.book.update(
        job_id,
        lambda job: replace(job, warnings=tuple(dict.fromkeys([*job.warnings, *warnings]))),
    )


def task_status(job: Job, name: TaskName) -> TaskStatus:
    return next(task.status for task in job.tasks if task.name is name)
