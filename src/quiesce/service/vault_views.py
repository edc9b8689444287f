"""What is shown of a vault's keys, copies and upkeep: plain values for CLI, REST and portal. The
command line makes the same from a vault that it has opened itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from quiesce.service.views import DeletionPlan, VaultView
from quiesce.vault.copy.plan import CopyPlan, Unfit
from quiesce.vault.format.slots import Slot
from quiesce.vault.upkeep.collect_plan import CollectPlan, Unmarked, Waiting
from quiesce.vault.vault import Vault

_SHOWN_MARKS = 50


@dataclass(frozen=True, slots=True)
class SlotView:
    """One way to open the vault. `kind` is passphrase, key-file or recovery, empty when the slot is
    damaged. `in_use`: the one that whoever answers has opened the vault with."""

    id: str
    kind: str
    added_at: datetime
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class SlotChange:
    """Slots that were, or with `executed` false would be, added and removed."""

    added: tuple[SlotView, ...] = ()
    removed: tuple[SlotView, ...] = ()
    left: int = 0
    executed: bool = False


@dataclass(frozen=True, slots=True)
class CopyView:
    """What a copy would carry. `points` are ids, the newest first; `packs` is a number, their
    bytes are `size_bytes`."""

    source: str
    target: str
    makes_vault: bool
    points: tuple[str, ...]
    points_there: int
    packs: int
    size_bytes: int
    keys: int
    unfit: tuple[Unfit, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CollectView:
    """What a garbage collection would do, in packs and bytes: delete now what was marked long ago,
    mark as garbage (deleted a day later at the earliest), copy what is needed out of packs that
    little lives in.

    `waiting_bytes` are marked and not due yet: `waiting` says when they are, the first 50 marks
    of them; with `executed`, what was marked just now too. `unmarked` was stored lately and nothing
    refers to it; `held_points` are deleted and still count. `hidden_until`: where the vault asks
    for retention locks, deleted packs stay that long at most, hidden; `hidden_unknown`: why that
    could not be told. `locked` objects could not be deleted because of a retention lock; known only
    afterwards, when `executed`. `ripe_marks`: records of the marks that `delete_packs` come from.
    All as of `planned_at`.
    """

    delete_packs: int
    delete_bytes: int
    mark_packs: int
    mark_bytes: int
    repack_packs: int
    repack_copy_bytes: int
    repack_frees_bytes: int
    waiting_bytes: int
    planned_at: datetime
    waiting: tuple[Waiting, ...] = ()
    unmarked: Unmarked | None = None
    held_points: int = 0
    hidden_until: datetime | None = None
    hidden_unknown: str = ""
    locked: int = 0
    ripe_marks: tuple[str, ...] = ()
    executed: bool = False

    @property
    def nothing_to_do(self) -> bool:
        return not (self.delete_packs or self.mark_packs or self.repack_packs)


@dataclass(frozen=True, slots=True)
class VaultPlace:
    """A place where the vault lies: `role` is server, or copy. Of a copy: when the newest whole
    one was started (`copied_at`) and what it was limited to (`only`, empty for all points); when it
    was tried last, by which job, and how that ended."""

    location: str
    role: str
    job_id: str = ""
    copied_at: datetime | None = None
    only: str = ""
    tried_at: datetime | None = None
    status: str = ""


@dataclass(frozen=True, slots=True)
class VmPrune:
    """What a policy's rules remove and keep of one VM's points."""

    vm: str
    policy: str
    plan: DeletionPlan


def vault_view(vault: Vault) -> VaultView:
    status = vault.status()
    return VaultView(
        location=status.address,
        id=status.vault_id,
        points=status.points,
        vms=status.vms,
        protected_bytes=status.protected_bytes,
        stored_bytes=status.stored_bytes,
        packs=status.packs,
        chunks=len(vault.contents.index.snapshot()),
        free_bytes=status.free_bytes,
        missing_packs=status.missing_packs,
        damaged_packs=status.damaged_packs,
        unreadable_points=status.unreadable_points,
    )


def slot_views(slots: Sequence[Slot], in_use: str) -> tuple[SlotView, ...]:
    return tuple(SlotView(s.id, s.kind, s.added_at, s.id == in_use) for s in slots)


def copy_view(plan: CopyPlan) -> CopyView:
    return CopyView(
        source=plan.source.address,
        target=plan.target.address,
        makes_vault=plan.makes_vault,
        points=plan.points,
        points_there=plan.points_there,
        packs=len(plan.packs),
        size_bytes=plan.size_bytes,
        keys=len(plan.slots),
        unfit=plan.unfit,
        notes=plan.notes,
    )


def collect_view(plan: CollectPlan, *, executed: bool = False) -> CollectView:
    return CollectView(
        delete_packs=len(plan.delete),
        delete_bytes=plan.delete_bytes,
        mark_packs=len(plan.mark),
        mark_bytes=plan.mark_bytes,
        repack_packs=len(plan.repack.packs),
        repack_copy_bytes=plan.repack.copy_bytes,
        repack_frees_bytes=plan.repack.frees_bytes,
        waiting_bytes=plan.waiting_bytes,
        planned_at=plan.planned_at,
        waiting=plan.waiting[:_SHOWN_MARKS],
        unmarked=plan.unmarked,
        held_points=plan.held_points,
        hidden_until=plan.hidden_until,
        hidden_unknown=plan.hidden_unknown,
        locked=len(plan.locked),
        ripe_marks=plan.ripe_marks,
        executed=executed,
    )
