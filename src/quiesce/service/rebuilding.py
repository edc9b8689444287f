"""The job that makes the vault's index anew from its packs."""

from __future__ import annotations

from quiesce.model.job import Job, TaskName
from quiesce.model.units import count_text
from quiesce.service.work import Parts, warn
from quiesce.vault.upkeep.rebuild import RebuildReport

_REBUILD = TaskName.REBUILD


def rebuild(parts: Parts, job: Job) -> None:
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
        f"The index tells of {count_text(report.packs, 'pack')} with "
        f"{count_text(report.rows, 'chunk')}, in {count_text(report.segments, 'segment')}; "
        f"replaced: {count_text(report.replaced, 'older one')}."
    )
