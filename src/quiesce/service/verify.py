"""The verify job: checks the vault and says which points suffer."""

from __future__ import annotations

from quiesce.model.job import Job, TaskName, TaskStatus
from quiesce.service.codec import from_json
from quiesce.service.requests import VerifyRequest
from quiesce.service.work import Parts, begin, end_by_task, run_task, task_status

_VERIFY = TaskName.VERIFY


def verify(parts: Parts, job_id: str) -> None:
    """The job's one task. Reading only, so an interrupted one simply begins again."""
    job = begin(parts, job_id)
    if job.status.ended:
        return
    if task_status(job, _VERIFY) is not TaskStatus.IN_PROGRESS:
        parts.book.move_task(job_id, _VERIFY, TaskStatus.IN_PROGRESS)
    run_task(parts, job_id, _VERIFY, lambda: _verify(parts, job))


def _verify(parts: Parts, job: Job) -> str:
    console = parts.console(job.id, _VERIFY)
    request = from_json(VerifyRequest, parts.book.request(job.id))
    console.stop_if_cancelled()
    parts.points.verify(request.mode, on_progress=console.progress, cancelled=console.cancelled)
    parts.book.move_task(job.id, _VERIFY, TaskStatus.COMPLETED)
    return "done"


def end(parts: Parts, job_id: str) -> None:
    """The status that follows from the one task."""
    end_by_task(parts, job_id, _VERIFY)
