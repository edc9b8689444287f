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

from quiesce.model.failure import Evidence, Failure, PolicyFailure, StorageFailure, VaultFailure
from quiesce.model.progress import Progress
from quiesce.vault.contents.contents import Clock, Contents, utc_now
from quiesce.vault.contents.records import LONG_AGO, Records
from quiesce.vault.contents.reserve import LARGEST_BYTES
from quiesce.vault.copy.arrived import replace_broken
from quiesce.vault.copy.choosing import Filters
from quiesce.vault.copy.locked import TargetLocks
from quiesce.vault.copy.packs import (
    Bad,
    carry_packs,
    packs_at_once_between,
)
from quiesce.vault.copy.plan import Batch, CopyPlan, Look, Unfit, look, reason_of
from quiesce.vault.copy.report import CopyReport, shortfall
from quiesce.vault.copy.rescue import rescue
from quiesce.vault.copy.session import (
    CopySession,
    refuse_beside_collection,
    refuse_missing,
    refuse_unseen,
    session_if_writable,
)
from quiesce.vault.format.config import FORMAT_KEY, parse_config
from quiesce.vault.format.keys import SLOT_LIMIT_BYTES, VaultKeys
from quiesce.vault.format.manifest import point_key
from quiesce.vault.format.pack import pack_key
from quiesce.vault.format.sealed import LIMIT_BYTES, SealError, check, content_name
from quiesce.vault.format.segment import PackedRows
from quiesce.vault.stores.store import UNREADABLE, ObjectMissing, Put, Store, delete_if_allowed
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
        copy = _Copy(now, in_target, in_source, pace, cancelled, at_once)
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
            evidence=[Evidence(f"{room} more bytes to store, {free} free", plan.target.address)],
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


class _Copy:
    """One copy being carried out."""

    def __init__(
        self,
        now: Look,
        in_target: CopySession,
        in_source: CopySession | None,
        pace: Pace,
        cancelled: Callable[[], bool],
        packs_at_once: int,
    ) -> None:
        self._now = now
        self._plan = now.plan
        self._locks = TargetLocks(now.here, now.there, now.plan.target)
        self._in_target = in_target
        self._in_source = in_source
        self._pace = pace
        self._cancelled = cancelled
        self._packs_at_once = packs_at_once
        self._packs = 0
        self._arrived: list[str] = []
        self._unfit = list(now.plan.unfit)
        self._bad: dict[str, Bad] = {}
        self._bad_packs: frozenset[bytes] = frozenset()
        self._lost: dict[str, Failure] = {}
        self._stored_bytes = 0
        self._whole_there: list[Bad] = []
        self._damage: list[tuple[str, bytes]] | None = None
        self._gone = 0

    def run(self) -> CopyReport:
        plan = self._plan
        self._pace.begin("Copying packs", plan.size_bytes)
        index = sum(info.size_bytes for info in plan.source.list("index/"))
        plan.target.keep_reserve(min(LARGEST_BYTES, 1024 * 1024 + index))
        for batch in self._now.batches():
            try:
                self._carry(batch)
            except Failure:
                # What has arrived is found by the next try at once.
                with contextlib.suppress(Failure):
                    self._save_index()
                raise
            self._rescue(batch)
            self._save_index()
            self._copy_segments()
            whole = [point_id for point_id in batch.points if point_id not in self._lost]
            self._lost |= self._locks.hold(whole, self._beat)
            self._in_target.check()
            for point_id in batch.points:
                self._commit(point_id)
        self._pace.phase = "Done"
        self._pace.show()
        notes = plan.notes
        if self._gone:
            notes = (*notes, f"{self._gone} points were deleted at the source meanwhile.")
        notes += self._without_harm()
        notes += tuple(
            f"{bad.object} is damaged at the source ({bad.detail}), and whole in the copy."
            for bad in self._whole_there
        )
        return CopyReport(
            vault_id=plan.vault_id,
            points=tuple(self._arrived),
            points_there=plan.points_there,
            packs=self._packs,
            size_bytes=self._stored_bytes,
            unfit=tuple(self._unfit),
            bad=tuple(self._bad.values()),
            notes=notes,
            keyless=plan.keys is None,
        )

    def _carry(self, batch: Batch) -> None:
        there = self._now.there
        for carried in carry_packs(
            self._plan.source,
            self._plan.target,
            batch.packs,
            keys=self._plan.keys,
            at_once=self._packs_at_once,
            while_waiting=self._beat,
            cancelled=self._cancelled,
        ):
            pack = carried.pack
            self._pace.done_bytes += pack.size_bytes
            self._pace.stored_bytes = self._pace.done_bytes
            if carried.bad is not None and not carried.there:
                self._bad[carried.bad.object] = carried.bad
                self._bad_packs |= {pack.name}
                continue
            if carried.bad is not None:
                self._whole_there.append(carried.bad)
            elif not carried.there:
                self._packs += 1
                self._stored_bytes += pack.size_bytes
            if pack.replaces:
                self._forget_damage(pack.name)
            if there is not None:
                rows = PackedRows(pack.name, pack.size_bytes, carried.entries)
                there.index.add_pack(rows, saved=False)

    def _forget_damage(self, pack: bytes) -> None:
        """It has just been proven whole in the target. Who may not delete there leaves it to a
        check."""
        if self._damage is None and self._now.there is not None:
            self._damage = self._now.there.records.damaged_packs()
        for key, damaged in self._damage or ():
            if damaged == pack:
                delete_if_allowed(self._plan.target, key)

    def _rescue(self, batch: Batch) -> None:
        """What points need of packs that did not come, as far as it is whole."""
        here, there = self._now.here, self._now.there
        hurt = [p for p in batch.looked if self._now.hurt_by(p, self._bad_packs)]
        if here is None or there is None or not hurt:
            return
        for rescued in rescue(here, there, hurt, self._beat, self._cancelled):
            self._stored_bytes += rescued.stored_bytes
            if rescued.failure is not None:
                self._lost[rescued.point_id] = rescued.failure
                if rescued.point_id not in batch.points:  # arrived earlier
                    self._leave_out(rescued.point_id, rescued.failure)

    def _without_harm(self) -> tuple[str, ...]:
        """Damaged packs that cost no point are told, and are no failure of this copy."""
        if self._now.there is None:
            return ()
        harmful = {n for p in self._lost for n in self._now.hurt_by(p, self._bad_packs)}
        saved = sorted(pack_key(name) for name in self._bad_packs - harmful)
        found = [self._bad.pop(key) for key in saved]
        return tuple(
            f"{bad.object} is {bad.detail if bad.at_target else 'damaged at the source'}. No point "
            "is lost by it: what points need of it was brought in new packs."
            for bad in found
        )

    def _beat(self) -> None:
        self._pace.show()
        self._in_target.beat()
        if self._in_source is not None:
            self._in_source.beat()

    def _save_index(self) -> None:
        if self._now.there is not None:
            self._now.there.save_index()

    def _copy_segments(self) -> None:
        for key in self._plan.segments:
            stored = self._sealed(key, name=key.rpartition("/")[2])
            if stored is not None:
                self._plan.target.put(key, stored)

    def _commit(self, point_id: str) -> None:
        if point_id in self._lost:
            # Whatever can be read of it by now: nothing is locked for it.
            if isinstance(self._lost[point_id], ObjectMissing):
                self._gone += 1
                return
            self._leave_out(point_id, self._lost[point_id])
            return
        key = point_key(point_id)
        known = len(self._bad)
        stored = self._sealed(key)
        if stored is None:
            if len(self._bad) > known:
                damaged = VaultFailure("vault.corrupt-manifest", "Its manifest is damaged.")
                self._leave_out(point_id, damaged)
            else:
                self._gone += 1
            return
        self._in_target.keep_until_listed(key)
        if self._plan.target.put(key, stored) is Put.ALREADY_THERE:
            kept = replace_broken(self._plan.target, self._plan.keys, point_id, stored)
            if kept is not None:
                self._leave_out(point_id, kept)
                return
        self._arrived.append(point_id)

    def _leave_out(self, point_id: str, why: Failure) -> None:
        vm = self._now.vms.get(point_id, "")
        self._unfit.append(Unfit(point_id, vm, why.code, reason_of(why)))

    def _sealed(self, key: str, *, name: str = "") -> bytes | None:
        """A sealed object of the source, whole; None when it is gone or damaged, which is noted.
        A segment is named by its own checksum."""
        try:
            stored = self._plan.source.get(key, limit_bytes=LIMIT_BYTES)
            check(stored)
            if name and content_name(stored) != name:
                raise SealError("its checksum is not its name")
        except ObjectMissing:
            return None
        except (SealError, StorageFailure) as broken:
            if isinstance(broken, StorageFailure) and broken.code not in UNREADABLE:
                raise
            code = "vault.corrupt-index" if name else "vault.corrupt-manifest"
            self._bad[key] = Bad(code, key, str(broken))
            return None
        return stored
