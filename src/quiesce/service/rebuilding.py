"""The job that makes the vault's index anew from its packs."""

from __future__ import annotations

from quiesce.model.job import Job, TaskName
from quiesce.service.work import Parts, end_by_task, only_task, warn
from quiesce.vault.upkeep.rebuild import RebuildReport

_REBUILD = TaskName.REBUILD


def rebuild(parts: Parts, job_id: str) -> None:
    """The job's one task. Until its end the old index serves."""
    only_task(parts, job_id, _REBUILD, lambda job: _rebuild(parts, job))


def end(parts: Parts, job_id: str) -> None:
    """The status that follows from the one task."""
    end_by_task(parts, job_id, _REBUILD)


def _rebuild(parts: Parts, job: Job) -> None:
    console = parts.console(job.id, _REBUILD)
    report = parts.points.vault.rebuild_index(
        on_progress=console.progress, cancelled=console.cancelled
    )
    console.note("info", told(report))
    for key in report.unreadable:
        kept = " What the old index told of it is kept." if key in report.taken_over else ""
        warn(parts, job.id, f"{key}: its list of chunks cannot be read.{kept}")


def told(report: RebuildReport) -> str:
    return (
        f"The index tells of {report.packs} packs with {report.rows} chunks, in {report.segments} "
        f"segments; {report.replaced} older ones were replaced."
    )
