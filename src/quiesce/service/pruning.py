"""Points that the rules no longer want are deleted: of a server's vault, or of any."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from quiesce.model.policy import Retention
from quiesce.model.progress import Progress
from quiesce.service.retention import among_shown, plan_retention
from quiesce.service.vault_views import VmPrune
from quiesce.service.views import DeletionPlan
from quiesce.vault.copy.choosing import check_vms
from quiesce.vault.upkeep.pace import Show, unseen
from quiesce.vault.vault import Vault


def carried_out(
    vault: Vault,
    plan: DeletionPlan,
    *,
    dry_run: bool,
    on_progress: Show = unseen,
    cancelled: Callable[[], bool] = lambda: False,
) -> DeletionPlan:
    """The plan with what it frees, and its points gone unless it is a `dry_run`.

    :raise JobFailure: job.cancelled, and then none of them is gone
    """
    if not plan.removed:  # what all points need is not looked at for that
        return replace(plan, executed=not dry_run)
    ids = [point.id for point in plan.removed]
    deletion = vault.plan_deletion(ids, on_progress=on_progress, cancelled=cancelled)
    if not dry_run:
        vault.execute(deletion)
    return replace(plan, freed_bytes=deletion.freed_bytes, executed=not dry_run)


def prune_vault(
    vault: Vault,
    rules: Retention,
    zone: ZoneInfo,
    *,
    vms: Sequence[str] = (),
    shown: Collection[str] | None = None,
    dry_run: bool,
    on_progress: Show = unseen,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[VmPrune, ...]:
    """The same rules for these VMs, or for all that have points: where no policies are at hand.
    Of what they let go of, only points with ids in `shown` go, unless it is None.

    :raise NotFoundFailure: vault.vm-unknown
    :raise JobFailure: job.cancelled; points of VMs that were come to before are gone
    """
    points = vault.points()
    known = sorted({point.vm for point in points})
    check_vms(vms, known)
    now = datetime.now(UTC)
    plans = {
        vm: among_shown(
            plan_retention([point for point in points if point.vm == vm], rules, zone, now), shown
        )
        for vm in vms or known
    }
    rounds = sum(bool(plan.removed) for plan in plans.values())
    before = 0
    done = []
    for vm, plan in plans.items():

        def show(progress: Progress, before: int = before) -> None:
            # For each VM all points are looked at, but for those that are gone by then.
            whole = progress.total_bytes
            on_progress(
                replace(
                    progress,
                    done_bytes=before * whole + progress.done_bytes,
                    total_bytes=rounds * whole,
                )
            )

        carried = carried_out(vault, plan, dry_run=dry_run, on_progress=show, cancelled=cancelled)
        done.append(VmPrune(vm, "", carried))
        before += bool(plan.removed)
    return tuple(done)
