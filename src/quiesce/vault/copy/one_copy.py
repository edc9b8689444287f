"""One copy of a vault being carried out, batch by batch: packs, what is packed anew of those that
did not come, the index, locks, manifests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from quiesce.model.failure import Failure, StorageFailure, VaultFailure
from quiesce.model.units import count_text
from quiesce.vault.contents.reserve import LARGEST_BYTES
from quiesce.vault.copy.arrived import replace_broken
from quiesce.vault.copy.locked import TargetLocks
from quiesce.vault.copy.packs import Bad, carry_packs
from quiesce.vault.copy.plan import Batch, Look, Unfit, reason_of
from quiesce.vault.copy.report import CopyReport
from quiesce.vault.copy.rescue import rescue
from quiesce.vault.copy.session import CopySession
from quiesce.vault.format.manifest import point_key
from quiesce.vault.format.pack import pack_key
from quiesce.vault.format.sealed import LIMIT_BYTES, SealError, check, content_name
from quiesce.vault.format.segment import PackedRows
from quiesce.vault.stores.store import UNREADABLE, ObjectMissing, Put, delete_if_allowed
from quiesce.vault.upkeep.pace import Pace


class OneCopy:
    """Has looked, and signs of life are given."""

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
            notes = (*notes, f"Deleted at the source meanwhile: {count_text(self._gone, 'point')}.")
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
