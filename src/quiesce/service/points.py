"""Recovery points and figures of the vault, as faces and jobs need them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from quiesce.model.damage import DamageReport
from quiesce.model.failure import NotFoundFailure, VaultFailure
from quiesce.model.job import JobKind
from quiesce.model.point import RecoveryPoint
from quiesce.service.codec import from_json
from quiesce.service.job_book import JobBook, in_progress
from quiesce.service.pruning import carried_out
from quiesce.service.requests import RestoreRequest
from quiesce.service.vault_views import vault_view
from quiesce.service.views import DeletionPlan, VaultView
from quiesce.transfer.ports import PointWriter
from quiesce.vault.points.reader import VaultDiskReader
from quiesce.vault.upkeep.budget import Budget
from quiesce.vault.vault import Vault

_REMEMBER_SECONDS = 30.0
"""Points of other writers of the same vault are seen after this time; our own at once."""

_DAMAGE_SECONDS = 600.0
"""Damage that other processes have noted is seen after this time; what our jobs found at once."""
_DAMAGE_BUDGET = Budget(seconds=20.0)

_COLLECT_SECONDS = 6 * 3600.0
_OVERDUE_SECONDS = 24 * 3600.0


class Points:
    """Thread-safe. The list is remembered for a moment, since reading it decrypts manifests."""

    def __init__(
        self, vault: Vault, book: JobBook, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.vault = vault
        self._book = book
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._cached: tuple[RecoveryPoint, ...] = ()
        self._cached_until = float("-inf")
        self._damage: DamageReport | None = None
        self._damage_until = float("-inf")
        self._collect_due = float("-inf")
        self._overdue = monotonic() + _OVERDUE_SECONDS

    def all(self, *, vm: str | None = None) -> tuple[RecoveryPoint, ...]:
        """Newest first."""
        with self._lock:
            if self._monotonic() >= self._cached_until:
                newest_first = sorted(self.vault.points(), key=lambda p: p.taken_at, reverse=True)
                self._cached = tuple(newest_first)
                self._cached_until = self._monotonic() + _REMEMBER_SECONDS
            points = self._cached
        return points if vm is None else tuple(point for point in points if point.vm == vm)

    def by_vm(self) -> dict[str, tuple[RecoveryPoint, ...]]:
        """Newest first, of each VM."""
        grouped: dict[str, list[RecoveryPoint]] = {}
        for point in self.all():
            grouped.setdefault(point.vm, []).append(point)
        return {vm: tuple(points) for vm, points in grouped.items()}

    def get(self, point_id: str) -> RecoveryPoint:
        """:raise NotFoundFailure: restore.point-not-found"""
        for point in self.all():
            if point.id == point_id:
                return point
        raise NotFoundFailure(
            "restore.point-not-found",
            f"There is no recovery point {point_id!r}.",
            remedy="See `quiesce point list`.",
        )

    def of_job(self, job_id: str) -> RecoveryPoint | None:
        """The point that a job has committed."""
        self.forget_cached()
        return next((point for point in self.all() if point.job_id == job_id), None)

    def generations(self, vm: str) -> dict[str, list[str]]:
        """Per disk, the generations that a next backup may count from, newest first."""
        bases: dict[str, list[str]] = {}
        for point in self.all(vm=vm):
            for disk in point.disks:
                if disk.generation:
                    bases.setdefault(disk.name, []).append(disk.generation)
        return bases

    def writer(self, vm: str, job_id: str, compression_level: int) -> PointWriter:
        """A point in the making, idempotent by job id."""
        return self.vault.writer(vm, job_id, compression_level=compression_level)

    def reader(self, point_id: str, disk: str, *, salvage: bool = False) -> VaultDiskReader:
        """With `salvage`, what is lost reads as zeros, and is told as the reader's `lost`."""
        return self.vault.reader(point_id, disk, salvage=salvage)

    def delete(self, point_id: str, *, dry_run: bool) -> DeletionPlan:
        """Remove one point, or show what that would remove.

        :raise NotFoundFailure: restore.point-not-found
        :raise PolicyFailure: policy.in-progress, a restore reads it
        """
        point = self.get(point_id)
        for job in self._book.active():
            if job.kind is JobKind.RESTORE:
                request = from_json(RestoreRequest, self._book.request(job.id))
                if request.point_id == point.id:
                    raise in_progress(f"The point {point.id} is being restored.", job.id)
        plan = DeletionPlan(removed=(point,))
        return self.execute(plan, dry_run=dry_run)

    def execute(self, plan: DeletionPlan, *, dry_run: bool = False) -> DeletionPlan:
        """Carry a plan out: the points are gone when this returns; what only they needed is
        collected by the vault once its safety margins have passed."""
        plan = carried_out(self.vault, plan, dry_run=dry_run)
        if plan.executed:
            self.forget_cached()
        return plan

    def collect_when_due(self) -> str:
        """Collect the vault's garbage unless that was done lately; a sentence on what was done,
        or "". Each run also deletes what a run long enough ago has marked.

        :raise VaultFailure: vault.collect-refused
        """
        now = self._monotonic()
        if now < self._collect_due:
            return ""
        try:
            done = self.vault.collect(self.vault.plan_collect())
        except VaultFailure as failure:
            if failure.code != "vault.collect-running":
                raise
            return ""
        self.collected()
        if not done.delete:
            return ""
        return f"The vault freed {done.delete_bytes} bytes of points removed earlier."

    def collected(self) -> None:
        """The vault's garbage has been collected just now."""
        now = self._monotonic()
        self._collect_due, self._overdue = now + _COLLECT_SECONDS, now + _OVERDUE_SECONDS

    def collect_overdue(self) -> bool:
        """Whether no backup has collected garbage for a day; True once a day."""
        overdue = self._monotonic() >= self._overdue
        if overdue:
            self._overdue = self._monotonic() + _OVERDUE_SECONDS
        return overdue

    def vault_view(self) -> VaultView:
        return vault_view(self.vault)

    def damage(self) -> DamageReport:
        """Which points are hurt by what is known as damaged or missing. Remembered for a while;
        while there is damage, a look reads maps for 20 seconds and some at most."""
        with self._lock:
            if self._damage is not None and self._monotonic() < self._damage_until:
                return self._damage
        found = self.vault.damage(_DAMAGE_BUDGET)
        with self._lock:
            self._damage, self._damage_until = found, self._monotonic() + _DAMAGE_SECONDS
        return found

    def forget_cached(self) -> None:
        """Points, or what is known of their damage, have changed."""
        with self._lock:
            self._cached_until = self._damage_until = float("-inf")
