"""Takes one point of one VM: the task *Take snapshot*, by the host route or offline.

The order is what protects the guest:

    hypervisor.prepare     everything slow, while the guest runs freely
    guest.prepare          pre-script; the watchdog stands from here on
    guest.freeze
      hypervisor.take      milliseconds: the only thing that happens while the guest is frozen
    guest.thaw             always
    guest.finish           post-script, always
    hypervisor.open        the point becomes readable

Whatever fails before `open` has returned, the session is torn down by `recover`, the same code
that cleans up after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from quiesce.model.failure import (
    AgentFailure,
    ExtensionFailure,
    Failure,
    FreezeFailure,
    ScriptFailure,
    VmFailure,
)
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import Consistency, ConsistencyLabel, FreezeReport, Snapshot
from quiesce.model.vm import PowerState
from quiesce.snapshot.consistency import proven_consistency
from quiesce.snapshot.ports import Finish, Guest, Hypervisor, Readiness

Log = Callable[[str, str], None]
"""Called with a level (info, warning, error) and a sentence for the job's log."""

_UNTOUCHED = {
    PowerState.OFF: ConsistencyLabel(Consistency.OFFLINE),
    PowerState.SHUT_DOWN: ConsistencyLabel(
        Consistency.OFFLINE, "the VM was shut down inside the guest"
    ),
    PowerState.PAUSED: ConsistencyLabel(
        Consistency.CRASH, "vm.paused: a paused guest cannot be asked to freeze"
    ),
    PowerState.CRASHED: ConsistencyLabel(
        Consistency.CRASH, "vm.crashed: the guest's kernel has panicked"
    ),
}
"""Power states in which the agent cannot answer, with what a point taken then is worth."""


def take_snapshot(
    hypervisor: Hypervisor,
    guest: Guest | None,
    task_id: str,
    *,
    bases: Mapping[str, Sequence[str]],
    options: SnapshotOptions,
    log: Log,
) -> Snapshot:
    """One point of the VM, opened for reading, with the best consistency that could be proven.

    An agent or a freeze that fails lowers the consistency and is said in `warnings`; it does not
    cost the point. A pre-script that forbids the backup, a VM that cannot be reached and a
    hypervisor that cannot snapshot do.

    :raise Failure: nothing is left in the hypervisor or the guest then.
    """
    state = hypervisor.state()
    if state.power is PowerState.MIGRATING:
        raise VmFailure(
            "vm.migrating",
            "The VM is being migrated; its disks cannot be held now.",
            retryable=True,
        )
    try:
        hypervisor.prepare(task_id, bases=bases, options=options)
        untouched = _UNTOUCHED.get(state.power)
        if untouched is not None:
            hypervisor.take(task_id)
            warnings = _crash_warning(untouched, log)
            return Snapshot(hypervisor.open(task_id), untouched, freeze=None, warnings=warnings)
        if guest is None:
            return _without_guest(
                hypervisor,
                task_id,
                AgentFailure("agent.channel-missing", "No guest agent socket is set for this VM."),
                log,
            )
        return _with_guest(hypervisor, guest, task_id, options, log)
    except BaseException as stopped:
        try:
            recover(hypervisor, guest, task_id, committed=False, log=log)
        except Failure as left:
            stopped.add_note(f"cleaning up failed too: {left}")
            log("error", f"Cleaning up failed too: {left}")
        raise


def recover(
    hypervisor: Hypervisor, guest: Guest | None, task_id: str, *, committed: bool, log: Log
) -> None:
    """End a session whose process may be gone: thaw first, then tear down. Idempotent.

    A guest that cannot be reached is no reason to fail: its watchdog thaws it and its session
    ends itself. That is logged.

    :raise Failure: the hypervisor still holds something; repeating it goes on from there
    """
    unreached: Failure | None = None
    if guest is not None:
        try:
            if hypervisor.state().power is PowerState.RUNNING:
                guest.recover(task_id)
        except Failure as failure:
            unreached = failure
    hypervisor.release(task_id, committed=committed)
    if unreached is not None:
        log("info", f"The guest was left to end its session by itself: {unreached}")


def _with_guest(
    hypervisor: Hypervisor, guest: Guest, task_id: str, options: SnapshotOptions, log: Log
) -> Snapshot:
    try:
        readiness = guest.prepare(task_id, options)
    except ScriptFailure:
        raise
    except AgentFailure as failure:
        # Whatever was begun ends itself: asking a silent agent once more only costs time.
        return _without_guest(hypervisor, task_id, failure, log)
    except (ExtensionFailure, FreezeFailure) as failure:
        _end_guest_session(guest, task_id, log)
        return _without_guest(hypervisor, task_id, failure, log)
    log("info", _described(readiness))
    unfrozen, freeze, taken = _frozen_instant(hypervisor, guest, task_id)
    finish = _finished(guest, task_id, log)
    log("info", f"The point was taken at {taken:%H:%M:%S.%f} UTC.")
    if freeze is None:
        label = ConsistencyLabel(Consistency.CRASH, _reason(unfrozen))
    else:
        label = proven_consistency(readiness, freeze, finish)
        _log_freeze(freeze, log)
    for warning in (*readiness.warnings, *finish.warnings):
        log("warning", warning)
    warnings = (*readiness.warnings, *finish.warnings, *_crash_warning(label, log))
    return Snapshot(hypervisor.open(task_id), label, freeze, warnings)


def _frozen_instant(
    hypervisor: Hypervisor, guest: Guest, task_id: str
) -> tuple[Failure | None, FreezeReport | None, datetime]:
    """The point, taken while frozen; without a freeze report when the guest could not be frozen
    or did not say how it ended, then with the failure that says why."""
    try:
        guest.freeze(task_id)
    except (AgentFailure, FreezeFailure) as failure:
        return failure, None, hypervisor.take(task_id)
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


def _without_guest(hypervisor: Hypervisor, task_id: str, failure: Failure, log: Log) -> Snapshot:
    label = ConsistencyLabel(Consistency.CRASH, _reason(failure))
    warnings = _crash_warning(label, log)
    hypervisor.take(task_id)
    return Snapshot(hypervisor.open(task_id), label, freeze=None, warnings=warnings)


def _crash_warning(label: ConsistencyLabel, log: Log) -> tuple[str, ...]:
    if label.level is not Consistency.CRASH:
        return ()
    warning = f"The point is only crash-consistent: {label.reason}"
    log("warning", warning)
    return (warning,)


def _reason(failure: Failure | None) -> str:
    return f"{failure.code}: {failure.message}" if failure else ""


def _described(readiness: Readiness) -> str:
    planned = [mount.mount for mount in readiness.mounts if not mount.skipped]
    script = readiness.pre_script
    ran = f"; pre-script {script.path} took {script.seconds:.1f} s" if script else ""
    return f"The guest is ready to freeze {', '.join(planned) or 'nothing'}{ran}."


def _log_freeze(freeze: FreezeReport, log: Log) -> None:
    for mount in freeze.mounts:
        if not mount.skipped:
            log(
                "info",
                f"{mount.mount} ({mount.file_system}) froze in {mount.freeze_ms:.1f} ms "
                f"and was held for {mount.frozen_ms:.0f} ms.",
            )
        elif mount.downgrades:
            log("warning", f"{mount.mount} was not frozen: {mount.skipped}")
