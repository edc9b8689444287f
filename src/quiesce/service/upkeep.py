"""The vault's keys, copies and upkeep, as CLI, REST and portal ask for them. What takes long is a
job: see `Jobs`."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import replace

from quiesce.model.failure import AuthFailure, Evidence, InputFailure, PolicyFailure
from quiesce.model.job import Job, JobKind, JobStatus
from quiesce.service.clock import Clock
from quiesce.service.codec import from_json
from quiesce.service.copying import planned, whole_address
from quiesce.service.job_book import JobBook
from quiesce.service.points import Points
from quiesce.service.requests import CopyRequest
from quiesce.service.retention import among_shown, plan_retention
from quiesce.service.settings import Settings
from quiesce.service.vault_key import rotate_server_key, server_key
from quiesce.service.vault_views import (
    CollectView,
    CopyView,
    SlotChange,
    SlotView,
    VaultPlace,
    VmPrune,
    collect_view,
    copy_view,
    slot_views,
)
from quiesce.service.vms import Vms
from quiesce.vault.format.keys import KeyFile, KeyMaterial, Passphrase, RecoveryKey
from quiesce.vault.format.slots import check_removable, list_slots, slot_opened_by
from quiesce.vault.stores.store import Store
from quiesce.vault.upkeep.forecast import Forecast
from quiesce.vault.upkeep.rebuild import RebuildPlan
from quiesce.vault.upkeep.sampling import SAMPLE_CHUNKS

PASSPHRASE_LEAST = 12
"""Characters: who has a copy of the vault can try passphrases offline, if slowly."""


def material_of(kind: str, secret: str) -> KeyMaterial:
    """A key as text, as it is given to be added.

    :raise InputFailure: input.passphrase-short, auth.key-invalid
    """
    if kind == "passphrase" and len(secret) < PASSPHRASE_LEAST:
        raise InputFailure(
            "input.passphrase-short",
            f"A passphrase has {PASSPHRASE_LEAST} characters or more.",
        )
    try:
        if kind == "passphrase":
            return Passphrase(secret)
        return KeyFile.parse(secret) if kind == "key-file" else RecoveryKey.parse(secret)
    except AuthFailure as wrong:
        raise InputFailure(
            wrong.code, wrong.message, evidence=wrong.evidence, remedy=wrong.remedy
        ) from wrong


class Upkeep:
    def __init__(
        self, settings: Settings, clock: Clock, points: Points, book: JobBook, vms: Vms
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._points = points
        self._book = book
        self._vms = vms
        self._rotating = threading.Lock()

    def places(self) -> tuple[VaultPlace, ...]:
        """The server's vault, and every place where a copy was completed, by the jobs that did."""
        server = VaultPlace(self._points.vault.contents.store.address, "server")
        tried: dict[str, Job] = {}
        places: dict[str, VaultPlace] = {}
        for job, request in self._book.with_requests(JobKind.COPY):
            wanted = from_json(CopyRequest, request)
            last = tried.setdefault(wanted.to, job)
            if wanted.to not in places and job.status is JobStatus.COMPLETED:
                places[wanted.to] = VaultPlace(
                    location=wanted.to,
                    role="copy",
                    job_id=last.id,
                    copied_at=job.started_at,
                    only=wanted.only,
                    tried_at=last.started_at,
                    status=str(last.status),
                )
        return server, *places.values()

    # ── keys ─────────────────────────────────────────────────────────────────────────────────

    def slots(self) -> tuple[SlotView, ...]:
        """Oldest first."""
        return slot_views(list_slots(self._store), self._in_use())

    def add_slot(self, kind: str, secret: str) -> SlotChange:
        """:raise InputFailure: as `material_of`"""
        added = self._points.vault.add_key(material_of(kind, secret))
        slots = self.slots()
        return SlotChange(
            added=tuple(s for s in slots if s.id == added), left=len(slots), executed=True
        )

    def remove_slot(self, slot_id: str, *, dry_run: bool) -> SlotChange:
        """
        :raise NotFoundFailure: vault.key-slot-unknown
        :raise PolicyFailure: vault.last-key, vault.key-in-use
        """
        slot = check_removable(self._store, slot_id)
        if slot_id == self._in_use():
            raise PolicyFailure(
                "vault.key-in-use",
                f"The key slot {slot_id} is the one that this server opens the vault with.",
                evidence=[Evidence("it fits this slot", str(self._settings.vault_key_file))],
            )
        left = len(self.slots()) - 1
        if not dry_run:
            self._points.vault.remove_key(slot_id)
        return SlotChange(removed=slot_views([slot], ""), left=left, executed=not dry_run)

    def rotate(self, *, dry_run: bool) -> SlotChange:
        """A new key for this server, in place of its old one.

        :raise AuthFailure: as `rotate_server_key`
        """
        with self._rotating:
            before = {slot.id: slot for slot in self.slots()}
            if dry_run:
                old = self._in_use()
                removed = tuple(slot for slot in before.values() if slot.id == old)
                return SlotChange(removed=removed, left=len(before))
            new, old = rotate_server_key(self._settings, self._points.vault)
            slots = self.slots()
            return SlotChange(
                added=tuple(slot for slot in slots if slot.id == new),
                removed=(before[old],),
                left=len(slots),
                executed=True,
            )

    def _in_use(self) -> str:
        vault = self._points.vault
        return slot_opened_by(self._store, vault.config, server_key(self._settings))

    @property
    def _store(self) -> Store:
        return self._points.vault.contents.store

    # ── plans ────────────────────────────────────────────────────────────────────────────────

    def forecast(self, mode: str, sample: int | None = None) -> Forecast:
        return self._points.vault.forecast(mode, sample=sample or SAMPLE_CHUNKS)

    def plan_collect(self) -> CollectView:
        """:raise VaultFailure: vault.collect-refused"""
        return collect_view(self._points.vault.plan_collect())

    def plan_rebuild(self) -> RebuildPlan:
        return self._points.vault.plan_rebuild()

    def plan_copy(self, request: CopyRequest) -> CopyView:
        """
        :raise NotFoundFailure: vault.copy-missing
        :raise PolicyFailure: vault.copy-other-vault
        """
        request = replace(request, to=whole_address(request.to))
        cache = self._settings.index_cache
        return copy_view(planned(self._points.vault.contents, request, cache_folder=cache))

    def prune(
        self, vms: Sequence[str] = (), shown: Collection[str] | None = None, *, dry_run: bool
    ) -> tuple[VmPrune, ...]:
        """Apply the rules of policies now: to these VMs, or to all that are protected. Of what they
        let go of, only points with ids in `shown` go, unless it is None.

        :raise NotFoundFailure: vm.unknown
        """
        done = []
        for vm in vms or self._vms.names():
            policy = self._vms.policy_of(self._vms.address(vm).name)
            if policy is None:
                continue
            plan = plan_retention(
                self._points.all(vm=vm), policy.retention, policy.zone, self._clock.now()
            )
            plan = self._points.execute(among_shown(plan, shown), dry_run=dry_run)
            done.append(VmPrune(vm, policy.name, plan))
        return tuple(done)
