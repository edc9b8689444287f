"""Points that the rules no longer want are deleted: of a server's vault, or of any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from quiesce.model.policy import Retention
from quiesce.service.retention import plan_retention
from quiesce.service.vault_views import VmPrune
from quiesce.service.views import DeletionPlan
from quiesce.vault.copy.choosing import check_vms
from quiesce.vault.vault import Vault


def carried_out(vault: Vault, plan: DeletionPlan, *, dry_run: bool) -> DeletionPlan:
    """The plan with what it frees, and its points gone unless it is a `dry_run`."""
    deletion = vault.plan_deletion([point.id for point in plan.removed])
    if not dry_run:
        vault.execute(deletion)
    return replace(plan, freed_bytes=deletion.freed_bytes, executed=not dry_run)


def prune_vault(
    vault: Vault, rules: Retention, zone: ZoneInfo, *, vms: Sequence[str] = (), dry_run: bool
) -> tuple[VmPrune, ...]:
    """The same rules for these VMs, or for all that have points: where no policies are at hand.

    :raise NotFoundFailure: vault.vm-unknown
    """
    points = vault.points()
    known = sorted({point.vm for point in points})
    check_vms(vms, known)
    now = datetime.now(UTC)
    done = []
    for vm in dict.fromkeys(vms) or known:
        of_vm = [point for point in points if point.vm == vm]
        plan = plan_retention(of_vm, rules, zone, now)
        done.append(VmPrune(vm, "", carried_out(vault, plan, dry_run=dry_run)))
    return tuple(done)
