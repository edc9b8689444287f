"""Copying a vault to another store: a replica with the same id and the same keys.

Packs travel as they are and are proven by their names; nothing is decrypted that is not read for
choosing points. Order of writes in the target: session record · key slots and `format` · packs ·
index segments for exactly these packs · manifests, last · session record deleted. So the target is
a whole vault whenever it is one, and what was not finished is gone on with: what has arrived is
not sent twice. Points come in batches, the newest first.

What the source has lost is named with the points that it costs; the rest goes on. What is whole in
a damaged pack is packed anew (`rescue`): a point is lost only by what has no whole copy. Deleted
points are not copied, and deleting a point at the source deletes nothing at the target: a copy is
there for the day on which somebody deletes everything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from quiesce.model.failure import Evidence, PolicyFailure, StorageFailure
from quiesce.model.progress import Progress
from quiesce.model.units import size_text
from quiesce.vault.contents.contents import Clock, Contents, utc_now
from quiesce.vault.contents.records import LONG_AGO, Records
from quiesce.vault.copy.choosing import Filters
from quiesce.vault.copy.one_copy import OneCopy
from quiesce.vault.copy.packs import packs_at_once_between
from quiesce.vault.copy.plan import CopyPlan, Look, look
from quiesce.vault.copy.report import CopyReport, shortfall
from quiesce.vault.copy.session import (
    CopySession,
    refuse_beside_collection,
    refuse_missing,
    refuse_unseen,
    session_if_writable,
)
from quiesce.vault.format.config import FORMAT_KEY, parse_config
from quiesce.vault.format.keys import SLOT_LIMIT_BYTES, VaultKeys
from quiesce.vault.stores.store import ObjectMissing, Put, Store
from quiesce.vault.upkeep.compaction import Beat
from quiesce.vault.upkeep.pace import Pace
from quiesce.vault.upkeep.pack_check import stop_if

__all__ = ["CopyPlan", "CopyReport", "check_room", "execute_copy", "plan_copy", "shortfall"]


def plan_copy(
    source: Store,
    target: Store,
    *,
    keys: VaultKeys | None,
    vms: tuple[str, ...] = (),
    points: tuple[str, ...] = (),
    newest: int | None = None,
    with_keys: bool = False,
    contents: Contents | None = None,
    clock: Clock = utc_now,
) -> CopyPlan:
    """What a copy would carry now. `keys` are the source's, opened; without them everything is
    copied. `newest` counts for each VM. `with_keys` sends key slots to a copy that is there
    already. Who has the source open already gives its `contents`, or its index is in memory twice.

    :raise VaultFailure: vault.not-a-vault and others of `read_config`, of the source
    :raise PolicyFailure: vault.copy-other-vault
    :raise InputFailure: vault.copy-needs-key
    :raise NotFoundFailure: vault.point-unknown, vault.vm-unknown
    """
    return look(source, target, keys, contents, Filters(vms, points, newest, with_keys), clock).plan


def execute_copy(
    plan: CopyPlan,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
    *,
    clock: Clock = utc_now,
    packs_at_once: int | None = None,
) -> CopyReport:
    """Carry the plan out, as things are now. Idempotent, and goes on wherever an earlier one from
    and to the same places was stopped.

    :raise JobFailure: job.cancelled · :raise StorageFailure: storage.full and others
    :raise VaultFailure: vault.session-expired, vault.collect-running, vault.copy-unseen
    :raise PolicyFailure: vault.copy-other-vault, vault.copy-onto-itself
    """
    pace = Pace(on_progress)
    pace.begin("Looking for what is missing")
    with _signs_of_life(plan, clock) as (in_target, in_source):

        def beat() -> None:
            stop_if(cancelled)
            in_target.beat()
            if in_source is not None:
                in_source.beat()

        # Looked up again: only what was seen after the sessions began is sure to stay.
        now = _settled_look(plan, in_target, clock, beat)
        check_room(now.plan)
        _make_vault(now.plan)
        at_once = packs_at_once or packs_at_once_between(plan.source, plan.target)
        copy = OneCopy(now, in_target, in_source, pace, cancelled, at_once)
        report = copy.run()
    if in_source is None:
        note = "The source cannot be written: a garbage collection there sees nothing of the copy."
        report = replace(report, notes=(*report.notes, note))
    return report


@contextlib.contextmanager
def _signs_of_life(
    plan: CopyPlan, clock: Clock
) -> Iterator[tuple[CopySession, CopySession | None]]:
    # Before anything is written: another vault's target must stay as it is.
    _refuse_other_vault(plan)
    between = f"{plan.source.address}\0{plan.target.address}"
    target = CopySession(plan.target, plan.keys, between=between, began=LONG_AGO, clock=clock)
    source = None
    try:
        with contextlib.suppress(ObjectMissing):
            plan.source.stat(target.key)
            raise PolicyFailure(
                "vault.copy-onto-itself",
                f"{plan.source.address} and {plan.target.address} are the same store.",
                evidence=[Evidence("what was written to the one is in the other", target.key)],
            )
        refuse_unseen(target, plan.target)
        refuse_beside_collection(target, plan.target)
        source = session_if_writable(plan.source, plan.keys, between=between, clock=clock)
        yield target, source
    finally:
        target.leave()
        if source is not None:
            source.leave()


def _settled_look(plan: CopyPlan, in_target: CopySession, clock: Clock, beat: Beat) -> Look:
    """What is there in the target when no collection runs that does not heed this copy."""
    args = plan.source, plan.target, plan.keys, plan.contents, plan.filters, clock
    marked = frozenset[bytes]()
    if plan.keys is not None:
        marks = Records(plan.target, plan.keys).garbage()
        marked = frozenset(pack for mark in marks for pack in mark.packs)
    now = look(*args, plan.arrived)
    refuse_beside_collection(in_target, plan.target)
    if now.there is None:
        # It cannot be told what is marked.
        return look(*args, now.plan.arrived, beat)
    index = now.there.index.snapshot()
    there = zip(index.names, index.sizes, index.present, strict=True)
    counted_on = {name: size for name, size, here in there if here and name in marked}
    refuse_missing(plan.target, counted_on)
    return now


def _refuse_other_vault(plan: CopyPlan) -> None:
    """:raise PolicyFailure: vault.copy-other-vault"""
    with contextlib.suppress(ObjectMissing):
        stored = plan.target.get(FORMAT_KEY, limit_bytes=SLOT_LIMIT_BYTES)
        there = parse_config(stored, plan.target.address)
        if there.vault_id != plan.vault_id:
            raise PolicyFailure(
                "vault.copy-other-vault",
                f"{plan.target.address} holds another vault by now.",
                evidence=[Evidence(f"vault {there.vault_id}", plan.target.address)],
            )


def check_room(plan: CopyPlan) -> None:
    """:raise StorageFailure: storage.full"""
    free = plan.target.free_bytes()
    room = plan.size_bytes - sum(pack.replaced_bytes or 0 for pack in plan.packs)
    if free is not None and free < room:
        raise StorageFailure(
            "storage.full",
            f"{plan.target.address} has no room for this copy.",
            evidence=[
                Evidence(
                    f"{size_text(room)} more to store, {size_text(free)} free", plan.target.address
                )
            ],
            remedy="Free space there, or copy less: `--vm`, `--newest`. Nothing was copied.",
        )


def _make_vault(plan: CopyPlan) -> None:
    """The keys before the format: what is a vault can be opened."""
    for key in plan.slots:
        with contextlib.suppress(ObjectMissing):  # removed just now: not to be copied then
            plan.target.put(key, plan.source.get(key, limit_bytes=SLOT_LIMIT_BYTES))
    if plan.makes_vault:
        stored = plan.source.get(FORMAT_KEY, limit_bytes=SLOT_LIMIT_BYTES)
        if plan.target.put(FORMAT_KEY, stored) is Put.ALREADY_THERE:
            _refuse_other_vault(plan)
