"""The verify job: checks the vault and says which points suffer."""

from __future__ import annotations

from quiesce.model.failure import Evidence, VaultFailure
from quiesce.model.job import Job, TaskName, TaskStatus
from quiesce.service.codec import from_json
from quiesce.service.requests import VerifyRequest
from quiesce.service.work import RUNNABLE, Parts, begin, end_by_task, run_task, task_status
from quiesce.vault.health import PointHealth
from quiesce.vault.verify import VerifyReport

_VERIFY = TaskName.VERIFY
_SHOWN_OBJECTS = 50


def verify(parts: Parts, job_id: str) -> None:
    """The job's one task. Reading only, so an interrupted one simply begins again."""
    job = begin(parts, job_id)
    if job.status.ended:
        return
    status = task_status(job, _VERIFY)
    if status not in RUNNABLE:
        return
    if status is TaskStatus.WAITING:
        parts.book.move_task(job_id, _VERIFY, TaskStatus.IN_PROGRESS)
    run_task(parts, job_id, _VERIFY, lambda: _verify(parts, job))


def _verify(parts: Parts, job: Job) -> str:
    console = parts.console(job.id, _VERIFY)
    request = from_json(VerifyRequest, parts.book.request(job.id))
    console.stop_if_cancelled()
    report = parts.points.verify(
        request.mode, on_progress=console.progress, cancelled=console.cancelled
    )
    console.note(
        "info",
        f"{len(report.points)} points and {report.packs} packs checked, "
        f"{report.bytes_read} bytes read.",
    )
    for finding in report.findings:
        healed = " It is healed." if finding.healed else ""
        level = "warning" if finding.healed else "error"
        console.note(level, f"{finding.object}: {finding.detail} [{finding.code}]{healed}")
    if not report.intact:
        raise _damaged(report)
    parts.book.move_task(job.id, _VERIFY, TaskStatus.COMPLETED)
    return "done"


def _damaged(report: VerifyReport) -> VaultFailure:
    """Names every point that suffers and, by number, those that do not."""
    hurt = report.hurt
    whole = len(report.points) - len(hurt)
    points = [
        Evidence(
            f"point {point.point_id} of {point.vm or 'an unknown VM'} suffers: "
            + (point.lost or ", ".join(_hurt_disks(point))),
            "vault",
        )
        for point in hurt
    ]
    objects = [
        Evidence(f"{finding.detail} [{finding.code}]", finding.object)
        for finding in report.findings
        if not finding.healed
    ]
    return VaultFailure(
        "vault.damaged",
        f"The vault is damaged: {len(hurt)} points suffer, {whole} are whole.",
        evidence=[*points, *objects[:_SHOWN_OBJECTS]],
        remedy="Back the VMs of these points up again: what their disks still hold is stored "
        "anew and heals older points too.",
    )


def _hurt_disks(point: PointHealth) -> list[str]:
    return [f"disk {disk.name}: {disk.hurt_bytes} bytes" for disk in point.disks if disk.hurt_bytes]


def end(parts: Parts, job_id: str) -> None:
    """The status that follows from the one task."""
    end_by_task(parts, job_id, _VERIFY)
