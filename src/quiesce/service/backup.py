"""The steps of a backup job. Each is idempotent by the job's id, which is the snapshot's task id
and the vault's job id: one that was interrupted is simply called again."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import count
from zoneinfo import ZoneInfo

import structlog

from quiesce.model.failure import Failure, JobFailure, SnapshotFailure, report_of
from quiesce.model.job import Job, JobStatus, TaskName, TaskStatus, backup_status
from quiesce.model.point import RecoveryPoint
from quiesce.model.policy import Policy, SnapshotOptions
from quiesce.model.snapshot import Route, Snapshot
from quiesce.model.units import rate_text, size_text
from quiesce.service.codec import from_json, to_json
from quiesce.service.console import Console
from quiesce.service.healing import JobMender
from quiesce.service.retention import plan_retention
from quiesce.service.sweep import sweep
from quiesce.service.work import (
    Parts,
    begin,
    finish,
    run_task,
    take_up,
    task_status,
    warn,
    was_interrupted,
)
from quiesce.snapshot.take import recover, take_snapshot
from quiesce.transfer.backup import back_up
from quiesce.transfer.throttle import Throttle

log = structlog.get_logger(__name__)

_ON_DEMAND = Policy("", None, ZoneInfo("UTC"))
"""What holds for a VM without a policy."""

_TAKE = TaskName.TAKE_SNAPSHOT
_TRANSFER = TaskName.TRANSFER


def take(parts: Parts, job_id: str) -> str:
    """The task *Take snapshot*. Returns the Snapshot as JSON, or "" when there is none; the job
    tells why."""
    job = begin(parts, job_id)
    if job.status.ended:
        return ""
    if task_status(job, _TAKE) is TaskStatus.COMPLETED:
        # Killed before the engine noted that the step is done.
        return run_task(parts, job_id, _TRANSFER, lambda: _taken(parts, job))
    if not take_up(parts, job, _TAKE):
        return ""
    return run_task(parts, job_id, _TAKE, lambda: _take(parts, job))


def _take(parts: Parts, job: Job) -> str:
    console = parts.console(job.id, _TAKE)
    address = parts.vms.address(job.vm)
    if was_interrupted(job, _TAKE):
        console.note("warning", "The server was interrupted while it took the snapshot; anew.")
        hypervisor = parts.composition.hypervisor(address)
        recover(hypervisor, parts.routes(address), job.id, committed=False, log=console.note)
    policy = parts.vms.policy_of(job.vm)
    mender = JobMender(parts, job, policy, console)
    for attempt in count():
        console.stop_if_cancelled()
        try:
            snapshot = _snapshot(parts, job, policy, mender, console)
            break
        except Failure as failure:
            pause = mender.pause_before_retry(failure, attempt)
            if pause is None:
                raise
            mender.pause(pause, failure)
    mender.settled(snapshot)
    parts.book.move_task(
        job.id, _TAKE, TaskStatus.COMPLETED, lambda job: _with_snapshot(job, snapshot)
    )
    return to_json(snapshot)


def _snapshot(
    parts: Parts, job: Job, policy: Policy | None, mender: JobMender, console: Console
) -> Snapshot:
    sweep(parts, job.vm, keep=job.id)
    # First, so that the address knows the disks of a VM that goes off in the middle of this.
    parts.vms.look(job.vm)
    address = parts.vms.address(job.vm)
    return take_snapshot(
        parts.composition.hypervisor(address),
        parts.routes(address),
        job.id,
        bases=parts.points.generations(job.vm),
        options=SnapshotOptions() if policy is None else policy.snapshot,
        log=console.log,
        mender=mender,
        mends_off=() if policy is None else policy.mends_off,
    )


def _taken(parts: Parts, job: Job) -> str:
    """The snapshot that an earlier call of `take` finished, as JSON."""
    session = parts.composition.hypervisor(parts.vms.address(job.vm)).open(job.id)
    if job.consistency is None:
        raise JobFailure("job.interrupted", f"The job {job.id} does not know its snapshot.")
    # The hypervisor knows whether the VM was on, and not who asked it for the point.
    session = replace(session, route=job.route or session.route)
    return to_json(Snapshot(session, job.consistency, job.freeze, job.warnings, job.setbacks))


def transfer(parts: Parts, job_id: str, taken: str) -> str:
    """The task *Transfer data to vault*. Returns the new point's id, or "" when there is none."""
    job = parts.book.get(job_id)
    if not take_up(parts, job, _TRANSFER):
        # Killed before the engine noted that the step is done, when it is Completed.
        return job.point_id if task_status(job, _TRANSFER) is TaskStatus.COMPLETED else ""
    snapshot = from_json(Snapshot, taken)
    return run_task(parts, job_id, _TRANSFER, lambda: _transfer(parts, job, snapshot))


def _transfer(parts: Parts, job: Job, snapshot: Snapshot) -> str:
    console = parts.console(job.id, _TRANSFER)
    if was_interrupted(job, _TRANSFER):
        console.note("warning", "The server was interrupted during the transfer; it goes on.")
    console.stop_if_cancelled()
    policy = parts.vms.policy_of(job.vm) or _ON_DEMAND
    if policy.bandwidth:
        console.note("info", f"At most {rate_text(policy.bandwidth)} are read.")
    parts.book.update(job.id, lambda job: replace(job, bandwidth=policy.bandwidth))
    point = back_up(
        snapshot,
        parts.points.writer(job.vm, job.id, policy.compression_level),
        parts.composition.source,
        on_progress=console.progress,
        cancelled=console.cancelled,
        throttle=Throttle(policy.bandwidth),
        audit=policy.audit,
        on_mismatch=partial(_distrust, JobMender(parts, job, policy, console), console),
    )
    console.note(
        "info",
        f"The recovery point {point.id} is in the vault: {size_text(point.read_bytes)} read, "
        f"{size_text(point.stored_bytes)} newly stored.",
    )
    parts.book.move_task(
        job.id,
        _TRANSFER,
        TaskStatus.COMPLETED,
        lambda job: replace(job, point_id=point.id, warnings=_with_disk_warnings(job, point)),
    )
    parts.points.forget_cached()
    return point.id


def _distrust(mender: JobMender, console: Console, mismatch: SnapshotFailure) -> None:
    """Tell it as a warning, with the places: the points before this one, back to the last full
    read, may hold old data as well."""
    console.note("warning", f"{mismatch.message} [{mismatch.code}]")
    for place in mismatch.evidence:
        console.note("warning", f"{place.source}: {place.fact}")
    mender.read_whole(mismatch)


def release(parts: Parts, job_id: str, point_id: str) -> None:
    """Free the hypervisor's session on every way out; the guest's ended with *Take snapshot*. What
    cannot be freed now is left to the sweep, and said."""
    job = parts.book.get(job_id)
    if job.status.ended or task_status(job, _TAKE) is TaskStatus.WAITING:
        return
    try:
        hypervisor = parts.composition.hypervisor(parts.vms.address(job.vm))
        hypervisor.release(job_id, committed=bool(point_id))
    except Exception as error:  # noqa: BLE001 - reported and logged by _warn_of
        _warn_of(parts, job_id, "The snapshot could not be released and will be later", error)


def retain(parts: Parts, job_id: str, point_id: str) -> None:
    """Apply the policy's retention if a point was made, then let the vault collect its garbage:
    always, for a vault that is full makes no point and must still get room. Their failure costs
    no point. A job that was cancelled while it waited has had no part in anything."""
    job = parts.book.get(job_id)
    if job.status.ended:
        return
    try:
        if point_id:
            _remove_old_points(parts, job, point_id)
        collected = parts.points.collect_when_due()
        if collected:
            parts.book.log(job_id, "info", collected)
    except Exception as error:  # noqa: BLE001 - reported and logged by _warn_of
        _warn_of(parts, job_id, "Old points could not be removed", error)


def mend(parts: Parts, job_id: str) -> None:
    """What is broken and was got round is mended now, so that the next backup is whole. Called
    again, it goes on with what it has not tried yet. Its failure costs nothing."""
    job = parts.book.get(job_id)
    cancelled = any(task.status is TaskStatus.CANCELLED for task in job.tasks)
    if job.status.ended or cancelled or not job.diagnoses:
        return
    try:
        policy = parts.vms.policy_of(job.vm)
        console = parts.console(job_id, _TRANSFER)
        JobMender(parts, job, policy, console).mend_what_is_broken()
    except JobFailure as stopped:
        parts.book.log(job_id, "info", f"What is broken is not mended: {stopped.message}")
    except Exception as error:  # noqa: BLE001 - reported and logged by _warn_of
        _warn_of(parts, job_id, "What is broken could not be mended", error)


def _warn_of(parts: Parts, job_id: str, what: str, error: Exception) -> None:
    """Nothing may pass a step, see `run_task`; what these could not do costs no point."""
    if not isinstance(error, Failure):
        log.error("a defect stopped a step", job=job_id, exc_info=error)
    report = report_of(error)
    warning = f"{what}: {report.message} [{report.code}]"
    parts.book.log(job_id, "warning", warning)
    warn(parts, job_id, warning)


def _remove_old_points(parts: Parts, job: Job, point_id: str) -> None:
    policy = parts.vms.policy_of(job.vm)
    if policy is None:
        return
    plan = plan_retention(
        parts.points.all(vm=job.vm),
        policy.retention,
        policy.zone,
        parts.clock.now(),
        just_made=point_id,
    )
    if not plan.removed:
        return
    parts.points.execute(plan)
    parts.book.log(
        job.id,
        "info",
        f"Retention removed {len(plan.removed)} point(s): "
        + ", ".join(f"{point.taken_at:%Y-%m-%d %H:%M} UTC" for point in plan.removed),
    )


def end(parts: Parts, job_id: str) -> None:
    """The status that follows from the two tasks."""
    finish(parts, job_id, _status)


def _status(job: Job) -> JobStatus:
    return backup_status(
        task_status(job, _TAKE), task_status(job, _TRANSFER), warnings=bool(job.warnings)
    )


def _with_snapshot(job: Job, snapshot: Snapshot) -> Job:
    return replace(
        job,
        consistency=snapshot.consistency,
        freeze=snapshot.freeze,
        route=snapshot.session.route,
        setbacks=snapshot.setbacks,
        warnings=tuple(dict.fromkeys([*job.warnings, *snapshot.warnings])),
    )


def _with_disk_warnings(job: Job, point: RecoveryPoint) -> tuple[str, ...]:
    """A full read is worth a warning when an incremental one was to be expected: not for a first
    point, nor for one of a VM that is off."""
    forced = [
        f"Disk {disk.name} was read whole: {disk.full_read_reason}"
        for disk in point.disks
        if disk.full_read_reason and not disk.full_read_reason.startswith("first point")
    ]
    return tuple(dict.fromkeys([*job.warnings, *([] if point.route is Route.OFFLINE else forced)]))
