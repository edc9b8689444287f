"""The verify job: checks the vault and says which points suffer."""

from __future__ import annotations

from quiesce.model.failure import Evidence, VaultFailure
from quiesce.model.job import Job, TaskName
from quiesce.service.codec import from_json
from quiesce.service.requests import VerifyRequest
from quiesce.service.work import Parts, end_by_task, only_task
from quiesce.vault.upkeep.budget import Budget
from quiesce.vault.upkeep.health import PointHealth
from quiesce.vault.upkeep.sampling import SAMPLE_CHUNKS
from quiesce.vault.upkeep.verify_report import Verdict, VerifyReport

_VERIFY = TaskName.VERIFY
_SHOWN_OBJECTS = 50


def verify(parts: Parts, job_id: str) -> None:
    """The job's one task."""
    only_task(parts, job_id, _VERIFY, lambda job: _verify(parts, job))


def _verify(parts: Parts, job: Job) -> None:
    console = parts.console(job.id, _VERIFY)
    request = from_json(VerifyRequest, parts.book.request(job.id))
    report = parts.points.vault.verify(
        request.mode,
        budget=Budget(request.seconds, request.size_bytes, request.requests),
        cursor=request.cursor,
        sample=request.sample or SAMPLE_CHUNKS,
        on_progress=console.progress,
        cancelled=console.cancelled,
    )
    for line in told(report):
        console.note("info", line)
    for finding in report.findings:
        healed = " It is healed." if finding.healed else ""
        level = "warning" if finding.healed else "error"
        console.note(level, f"{finding.object}: {finding.detail} [{finding.code}]{healed}")
    if report.verdict is Verdict.DAMAGED:
        raise damaged(report)


def told(report: VerifyReport, where: str = "") -> list[str]:
    """What was looked at, and where to go on when that was not all. `where`: the options that say
    which vault it is."""
    lines = [
        f"{len(report.points)} points and {report.packs} packs checked, "
        f"{report.bytes_read} bytes read."
    ]
    drawn = report.sample
    if drawn is not None:
        lines = [f"{drawn.restored} of {drawn.wanted} chunks drawn by chance were restored."]
        if drawn.damaged_share_below is not None:
            lines.append(
                "With 95 % confidence less than "
                f"{drawn.damaged_share_below:.2%} of what the points hold is damaged."
            )
    if report.stopped_by:
        lines.append(
            f"The limit of {report.stopped_by} was reached at {report.covered_share:.1%} of the "
            f"stored bytes. To go on: `quiesce vault verify{where} --mode {report.mode} "
            f"--cursor {report.cursor}`"
        )
    return lines


def damaged(report: VerifyReport) -> VaultFailure:
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
