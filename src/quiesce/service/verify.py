"""The verify job: checks the vault and says which points suffer."""

from __future__ import annotations

from dataclasses import replace

from quiesce.model.damage import DiskHealth, PointHealth
from quiesce.model.failure import Evidence, InputFailure, VaultFailure
from quiesce.model.job import Job, TaskName
from quiesce.model.progress import Progress
from quiesce.model.units import count_text, size_text
from quiesce.service.codec import from_json
from quiesce.service.requests import VerifyRequest
from quiesce.service.work import Parts
from quiesce.vault.format.pack import PACK_BYTES
from quiesce.vault.upkeep.budget import Budget
from quiesce.vault.upkeep.sampling import SAMPLE_CHUNKS
from quiesce.vault.upkeep.verify_report import Verdict, VerifyMode, VerifyReport

_VERIFY = TaskName.VERIFY
_SHOWN_OBJECTS = 50
_SHOWN_POINTS = 100
_SHOWN_RANGES = 8


def verify(parts: Parts, job: Job) -> None:
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
    # The last walk counts what the points protect, or chunks: what was read is told at the end.
    console.progress(Progress(report.bytes_read, report.bytes_read))
    damage = report.damage(parts.clock.now())
    parts.book.update(job.id, lambda job: replace(job, damage=damage))
    parts.points.forget_cached()
    for line in told(report):
        console.note("info", line)
    for finding in report.findings:
        healed = " It is healed." if finding.healed else ""
        level = "warning" if finding.healed else "error"
        console.note(level, f"{finding.object}: {finding.detail} [{finding.code}]{healed}")
    if report.verdict is Verdict.DAMAGED:
        raise damaged(report)
    if report.stuck:
        raise stuck(report)


def told(report: VerifyReport, where: str = "") -> list[str]:
    """What was looked at, and where to go on when that was not all. `where`: the options that say
    which vault it is."""
    lines = [_looked_at(report)]
    drawn = report.sample
    if drawn is not None and drawn.damaged_share_below is not None:
        lines.append(
            "With 95 % confidence less than "
            f"{drawn.damaged_share_below * 100:.2f} % of what the points hold is damaged."
        )
    if report.came_to_none:
        lines.append("No pack, point or chunk was looked at: nothing is known of them.")
    if report.stuck and report.verdict is Verdict.DAMAGED:
        lines.append(stuck(report).message)
    if report.stopped_by and not report.cursor:
        lines.append(f"The limit of {report.stopped_by} was reached.")
    elif report.stopped_by:
        lines.append(
            f"The limit of {report.stopped_by} was reached at {report.covered_share * 100:.1f} % "
            f"of the stored bytes. To go on: `quiesce vault verify{where} --mode {report.mode} "
            f"--cursor {report.cursor}`"
        )
    return lines


def _looked_at(report: VerifyReport) -> str:
    if report.sample is not None:
        drawn = report.sample
        return f"{drawn.restored} of {drawn.wanted} chunks drawn by chance were restored."
    points = count_text(len(report.points), "point")
    if report.mode is VerifyMode.STRUCTURE:
        need = "it needs" if len(report.points) == 1 else "they need"
        return (
            f"{points} checked: whether the packs that {need} are among the {report.packs} that "
            "are there."
        )
    packs = count_text(report.packs, "pack")
    if report.packs_checked < report.packs:
        packs = f"{report.packs_checked} of {packs}"
    what = f"{points} and {packs}" if report.examined else packs
    return f"{what} checked, {size_text(report.bytes_read)} read."


def stuck(report: VerifyReport) -> InputFailure:
    """Of one that would come no further however often it is gone on with."""
    if report.packs_checked or report.points:
        came = "This came no further"
    else:
        came = "Nothing was checked"
    return InputFailure(
        "input.limit-too-small",
        f"{came}: what comes next takes more than the limit of {report.stopped_by}.",
        remedy="Give a larger limit. A pack is read whole, and has up to "
        f"{size_text(PACK_BYTES)}; what every part begins with counts, too.",
    )


def damaged(report: VerifyReport, *, with_key: bool = True) -> VaultFailure:
    """Names every point that suffers and, by number, those that do not. Without the key no point
    is known, and nothing is said of any."""
    objects = [
        Evidence(f"{finding.detail} [{finding.code}]", finding.object)
        for finding in report.findings
        if not finding.healed
    ][:_SHOWN_OBJECTS]
    if report.sample is not None:
        drawn = report.sample.failed[: _SHOWN_OBJECTS - len(objects)]
        objects += [Evidence(f"not restored: {why}", "vault") for why in drawn]
    if not with_key:
        return _damaged_objects({f.object for f in report.findings if not f.healed}, objects)
    hurt = report.hurt
    whole = len(report.points) - len(hurt)
    points = [
        Evidence(
            f"point {point.point_id} of {point.vm or 'an unknown VM'} suffers: "
            + (point.lost or "; ".join(hurt_disks(point))),
            "vault",
        )
        for point in hurt[:_SHOWN_POINTS]
    ]
    if len(hurt) > _SHOWN_POINTS:
        points.append(Evidence(f"{len(hurt) - _SHOWN_POINTS} more points suffer", "vault"))
    suffer = f"{count_text(len(hurt), 'point')} {'suffers' if len(hurt) == 1 else 'suffer'}"
    rest = f"{whole} {'is' if whole == 1 else 'are'} whole"
    unseen = _unseen(report)
    remedy = (
        "Back the VMs of these points up again: what their disks still hold is stored anew and "
        "heals older points too."
    )
    if not all(point.healable for point in hurt):
        remedy += (
            " What no disk holds any more comes back from a copy of the vault only: "
            "`quiesce vault copy --at COPY --key-file KEY --to VAULT`"
        )
    return VaultFailure(
        "vault.damaged",
        f"The vault is damaged: {suffer}, {rest}{unseen}.",
        evidence=[*points, *objects],
        remedy=remedy,
    )


def _unseen(report: VerifyReport) -> str:
    """What is to be said of points that this report does not tell of."""
    if report.damaged_before:
        return "; an earlier part of this verification found damage, too, which its report names"
    return "" if report.examined else "; not all points were looked at"


def _damaged_objects(names: set[str], evidence: list[Evidence]) -> VaultFailure:
    packs = all(name.startswith("packs/") for name in names)
    one = len(names) == 1
    return VaultFailure(
        "vault.damaged",
        f"{count_text(len(names), 'pack' if packs else 'object')} "
        f"{'is' if one else 'are'} damaged; "
        f"which points need {'it' if one else 'them'} is known only with the key.",
        evidence=evidence,
        remedy="See which points suffer: `quiesce vault verify --at VAULT --key-file KEY`",
    )


def hurt_disks(point: PointHealth) -> list[str]:
    """What each of its disks has lost, in words."""
    return [_hurt_disk(disk) for disk in point.disks if disk.hurt_bytes]


def _hurt_disk(disk: DiskHealth) -> str:
    disk = disk.listing(_SHOWN_RANGES)
    ranges = [f"{r.offset_bytes}–{r.offset_bytes + r.length_bytes}" for r in disk.ranges]
    if disk.more_ranges:
        ranges.append(
            f"and {count_text(disk.more_ranges, 'more range')} of {size_text(disk.more_bytes)}"
        )
    if disk.healable_bytes:
        whole = disk.healable_bytes == disk.hurt_bytes
        share = "all" if whole else size_text(disk.healable_bytes)
        heals = f"the next backup heals {share} of it if the disk still holds it"
    else:
        heals = "no newest point holds it"
    return (
        f"disk {disk.name}: {size_text(disk.hurt_bytes)} cannot be read, bytes "
        f"{', '.join(ranges)}; {heals}"
    )
