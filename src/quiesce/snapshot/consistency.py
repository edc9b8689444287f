"""Which consistency was proven, and why it is not better."""

from __future__ import annotations

from dataclasses import dataclass

from quiesce.model.failure import Evidence, FailureReport, FreezeFailure, ScriptFailure
from quiesce.model.snapshot import Consistency, ConsistencyLabel, FreezeReport, MountFreeze
from quiesce.snapshot.ports import Finish, Readiness, ScriptRun

HELD_TOO_LONG = "freeze.held-too-long"


@dataclass(frozen=True, slots=True)
class Proof:
    """A point's label and, where something went wrong on the way to a better one, what it was."""

    label: ConsistencyLabel
    setback: FailureReport | None = None

    @property
    def setbacks(self) -> tuple[FailureReport, ...]:
        return () if self.setback is None else (self.setback,)


def proven_consistency(readiness: Readiness, freeze: FreezeReport, finish: Finish) -> Proof:
    """What a point is worth whose guest was frozen around it.

    APPLICATION needs the operator's scripts, and both to have ended with 0; a freeze without
    scripts proves FILE_SYSTEM. A freeze that the watchdog ended early, or that left out a mount
    that is written to, proves no more than CRASH for the point as a whole.
    """
    if not freeze.held:
        return _held_too_long(freeze)
    left_out = [mount for mount in freeze.mounts if mount.skipped and mount.downgrades]
    if left_out:
        reasons = "; ".join(f"{mount.mount}: {mount.skipped}" for mount in left_out)
        return _left_out(freeze, f"not every mount was frozen ({reasons})")
    if not any(not mount.skipped for mount in freeze.mounts):
        return _left_out(freeze, "no mount of this guest could be frozen")
    if not readiness.scripts_configured:
        return Proof(
            ConsistencyLabel(
                Consistency.FILE_SYSTEM, "no pre- and post-scripts are configured in the guest"
            )
        )
    for kind, run in (("pre", readiness.pre_script), ("post", finish.post_script)):
        if run is not None and run.exit_code != 0:
            return _script_failed(kind, run)
    return Proof(ConsistencyLabel(Consistency.APPLICATION))


def _held_too_long(freeze: FreezeReport) -> Proof:
    words = (
        f"the guest thawed itself after {freeze.hold_seconds:g} s, before the snapshot was done."
    )
    failure = FreezeFailure(
        HELD_TOO_LONG,
        f"{words[0].upper()}{words[1:]}",
        evidence=[_fact(mount) for mount in freeze.mounts],
        retryable=True,
    )
    label = ConsistencyLabel(Consistency.CRASH, f"{failure.code}: {words}")
    return Proof(label, failure.report())


def _left_out(freeze: FreezeReport, reason: str) -> Proof:
    failure = FreezeFailure(
        "freeze.mount-left-out",
        f"{reason[0].upper()}{reason[1:]}.",
        evidence=[_fact(mount) for mount in freeze.mounts if mount.skipped],
    )
    return Proof(ConsistencyLabel(Consistency.CRASH, reason), failure.report())


_NOT_ENDED = {
    "script.timeout": "timed out",
    "script.not-found": "is not there",
    "script.permissions": "has an unsafe owner or mode and was not run",
}


def _script_failed(kind: str, run: ScriptRun) -> Proof:
    code = run.code or ("script.pre-failed" if kind == "pre" else "script.post-failed")
    ended = f"ended with {run.exit_code}"
    if run.exit_code is None:
        ended = _NOT_ENDED.get(code, "did not come to its end")
    failure = ScriptFailure(
        code,
        f"{run.path} {ended}, after {run.seconds:.1f} s.",
        evidence=[Evidence(f"{run.path} {ended}", f"{kind}-script in the guest", raw=run.stderr)],
    )
    reason = f"{code}: {run.path} {ended}"
    return Proof(ConsistencyLabel(Consistency.FILE_SYSTEM, reason), failure.report())


def _fact(mount: MountFreeze) -> Evidence:
    what = f"{mount.mount} ({mount.file_system})"
    if mount.skipped:
        return Evidence(f"{what} was not frozen: {mount.skipped}", "freeze report of the guest")
    return Evidence(
        f"{what} froze in {mount.freeze_ms:.1f} ms and was held for {mount.frozen_ms:.0f} ms",
        "freeze report of the guest",
    )
