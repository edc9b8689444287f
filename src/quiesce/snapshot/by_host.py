"""The host route: the server freezes the guest through its agent and takes the point itself.

guest.prepare          pre-script; the watchdog stands from here on
guest.freeze
  hypervisor.take      milliseconds: the only thing that happens while the guest is frozen
guest.thaw             always
guest.finish           post-script, always
hypervisor.open        the point becomes readable
"""

from __future__ import annotations

from datetime import datetime

from quiesce.model.failure import (
    AgentFailure,
    ExtensionFailure,
    Failure,
    FreezeFailure,
    ScriptFailure,
)
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import Consistency, ConsistencyLabel, FreezeReport, Snapshot
from quiesce.snapshot.consistency import Proof, proven_consistency
from quiesce.snapshot.ports import Finish, Guest, Hypervisor, Log
from quiesce.snapshot.story import crash_warning, described, log_freeze, reason_of


def by_host(
    hypervisor: Hypervisor, guest: Guest, task_id: str, options: SnapshotOptions, log: Log
) -> Snapshot:
    """The point of a prepared hypervisor.

    :raise ScriptFailure: the pre-script forbids the backup
    :raise AgentFailure, ExtensionFailure, FreezeFailure: the guest could not be frozen, and no
        point was taken; its session has ended, as far as it could be reached
    """
    try:
        readiness = guest.prepare(task_id, options)
    except (ScriptFailure, AgentFailure):
        # Whatever was begun ends itself: asking a silent agent once more only costs time.
        raise
    except (ExtensionFailure, FreezeFailure):
        _end_guest_session(guest, task_id, log)
        raise
    log("info", described(readiness))
    frozen = _frozen_instant(hypervisor, guest, task_id)
    finish = _finished(guest, task_id, log)
    if isinstance(frozen, Failure):
        raise frozen
    taken, thawed = frozen
    log("info", f"The point was taken at {taken:%H:%M:%S.%f} UTC.")
    if isinstance(thawed, Failure):
        proof = Proof(ConsistencyLabel(Consistency.CRASH, reason_of(thawed)), thawed.report())
    else:
        proof = proven_consistency(readiness, thawed, finish)
        log_freeze(thawed, log)
    for warning in (*readiness.warnings, *finish.warnings):
        log("warning", warning)
    return Snapshot(
        session=hypervisor.open(task_id),
        consistency=proof.label,
        freeze=None if isinstance(thawed, Failure) else thawed,
        warnings=(*readiness.warnings, *finish.warnings, *crash_warning(proof.label, log)),
        setbacks=proof.setbacks,
    )


def unfrozen(hypervisor: Hypervisor, task_id: str, why: Failure, log: Log) -> Snapshot:
    """A point of a guest that nobody can freeze, labelled with the reason."""
    label = ConsistencyLabel(Consistency.CRASH, reason_of(why))
    warnings = crash_warning(label, log)
    hypervisor.take(task_id)
    return Snapshot(hypervisor.open(task_id), label, freeze=None, warnings=warnings)


def _frozen_instant(
    hypervisor: Hypervisor, guest: Guest, task_id: str
) -> Failure | tuple[datetime, FreezeReport | Failure]:
    """The point, taken while frozen, and how the freeze ended or why that is not known; or why
    the guest could not be frozen."""
    try:
        guest.freeze(task_id)
    except (AgentFailure, FreezeFailure) as failure:
        return failure
    try:
        taken = hypervisor.take(task_id)
    finally:
        # If this raises too, the hypervisor's error stays its context; the watchdog thaws.
        thawed = _thawed(guest, task_id)
    return taken, thawed


def _thawed(guest: Guest, task_id: str) -> FreezeReport | Failure:
    try:
        return guest.thaw(task_id)
    except (AgentFailure, FreezeFailure) as failure:
        return failure


def _end_guest_session(guest: Guest, task_id: str, log: Log) -> None:
    """After a session that failed half-way; what cannot be ended now ends itself."""
    try:
        guest.recover(task_id)
    except Failure as failure:
        log("info", f"The guest's session is left to end itself: {failure}")


def _finished(guest: Guest, task_id: str, log: Log) -> Finish:
    try:
        return guest.finish(task_id)
    except (AgentFailure, ExtensionFailure, FreezeFailure) as failure:
        if isinstance(failure, ExtensionFailure):
            # The agent answers and the session does not: should its watchdog be gone too, nobody
            # else would thaw the guest.
            _end_guest_session(guest, task_id, log)
        return Finish(
            post_script=None, warnings=(f"The guest's session did not end well: {failure}",)
        )
