"""Which consistency was proven, and why it is not better."""

from __future__ import annotations

from quiesce.model.snapshot import Consistency, ConsistencyLabel, FreezeReport
from quiesce.snapshot.ports import Finish, Readiness


def proven_consistency(
    readiness: Readiness, freeze: FreezeReport, finish: Finish
) -> ConsistencyLabel:
    """The label of a point whose guest was frozen around it.

    APPLICATION needs the operator's scripts, and both to have ended with 0; a freeze without
    scripts proves FILE_SYSTEM. A freeze that the watchdog ended early, or that left out a mount
    that is written to, proves no more than CRASH for the point as a whole.
    """
    if not freeze.held:
        return ConsistencyLabel(
            Consistency.CRASH,
            f"freeze.held-too-long: the guest thawed itself after {freeze.hold_seconds:g} s, "
            "before the snapshot was done.",
        )
    left_out = [mount for mount in freeze.mounts if mount.skipped and mount.downgrades]
    if left_out:
        reasons = "; ".join(f"{mount.mount}: {mount.skipped}" for mount in left_out)
        return ConsistencyLabel(Consistency.CRASH, f"not every mount was frozen ({reasons})")
    if not any(not mount.skipped for mount in freeze.mounts):
        return ConsistencyLabel(Consistency.CRASH, "no mount of this guest could be frozen")
    if not readiness.scripts_configured:
        return ConsistencyLabel(
            Consistency.FILE_SYSTEM, "no pre- and post-scripts are configured in the guest"
        )
    for kind, run in (("pre", readiness.pre_script), ("post", finish.post_script)):
        if run is not None and run.exit_code != 0:
            ended = "timed out" if run.exit_code is None else f"ended with {run.exit_code}"
            return ConsistencyLabel(
                Consistency.FILE_SYSTEM, f"script.{kind}-failed: {run.path} {ended}"
            )
    return ConsistencyLabel(Consistency.APPLICATION)
