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
from quiesce.snapshot.consistency import proven_consistency
from quiesce.snapshot.ports import Finish, Guest, Hypervisor, Log
from quiesce.snapshot.story import crash_warning, described, log_freeze, reason_of


def by_host(
    hypervisor: Hypervisor,
    guest: Guest,
    task_id: str,
    options: SnapshotOptions,
    *,
    spare: bool,
    log: Log,
) -> Snapshot:
    """The point of a prepared hypervisor.

    `spare`: another route is left, so a guest that cannot be frozen is a failure. Without one the
    point is taken all the same, crash-consistent, and the reason is its label's.

    :raise ScriptFailure: the pre-script forbids the backup
    :raise AgentFailure, ExtensionFailure, FreezeFailure: no point was taken (only if `spare`)
    """
    try:
        readiness = guest.prepare(task_id, options)
    except ScriptFailure:
        raise
    except AgentFailure as failure:
        # Whatever was begun ends itself: asking a silent agent once more only costs time.
        if spare:
            raise
        return unfrozen(hypervisor, task_id, failure, log)
    except (ExtensionFailure, FreezeFailure) as failure:
        _end_guest_session(guest, task_id, log)
        if spare:
            raise
        return unfrozen(hypervisor, task_id, failure, log)
    log("info", described(readiness))
    problem, freeze, taken = _frozen_instant(hypervisor, guest, task_id, spare=spare)
    finish = _finished(guest, task_id, log)
    if taken is None:
        assert problem is not None
        raise problem
    log("info", f"The point was taken at {taken:%H:%M:%S.%f} UTC.")
    if freeze is None:
        label = ConsistencyLabel(Consistency.CRASH, reason_of(problem))
    else:
        label = proven_consistency(readiness, freeze, finish)
        log_freeze(freeze, log)
    for warning in (*readiness.warnings, *finish.warnings):
        log("warning", warning)
    warnings = (*readiness.warnings, *finish.warnings, *crash_warning(label, log))
    return Snapshot(hypervisor.open(task_id), label, freeze, warnings)


def unfrozen(hypervisor: Hypervisor, task_id: str, why: Failure, log: Log) -> Snapshot:
    """A point of a guest that nobody can freeze, labelled with the reason."""
    label = ConsistencyLabel(Consistency.CRASH, reason_of(why))
    warnings = crash_warning(label, log)
    hypervisor.take(task_id)
    return Snapshot(hypervisor.open(task_id), label, freeze=None, warnings=warnings)


def _frozen_instant(
    hypervisor: Hypervisor, guest: Guest, task_id: str, *, spare: bool
) -> tuple[Failure | None, FreezeReport | None, datetime | None]:
    """The point, taken while frozen; without a freeze report when the guest could not be frozen
    or did not say how it ended, then with the failure that says why."""
    try:
        guest.freeze(task_id)
    except (AgentFailure, FreezeFailure) as failure:
        return failure, None, None if spare else hypervisor.take(task_id)
    try:
        taken = hypervisor.take(task_id)
    finally:
        # If this raises too, the hypervisor's error stays its context; the watchdog thaws.
        thawed = _thawed(guest, task_id)
    if isinstance(thawed, Failure):
        return thawed, None, taken
    return None, thawed, taken


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
