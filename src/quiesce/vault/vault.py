"""A vault: recovery points of many VMs in one store."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from quiesce.model.damage import DamageReport
from quiesce.model.failure import Evidence, NotFoundFailure, VaultFailure
from quiesce.model.point import RecoveryPoint
from quiesce.vault.contents.contents import Clock, Contents, utc_now
from quiesce.vault.contents.manifests import Manifests
from quiesce.vault.contents.reserve import keep_reserve
from quiesce.vault.format.config import FORMAT_KEY, VaultConfig, read_config, write_config
from quiesce.vault.format.keys import KeyMaterial, VaultKeys, unlock, wrap
from quiesce.vault.format.manifest import Manifest, point_id_of, point_key
from quiesce.vault.format.slots import add_slot, new_slot_key, read_slots, remove_slot
from quiesce.vault.points.bases import Base, find_base
from quiesce.vault.points.reader import VaultDiskReader
from quiesce.vault.points.salvage import SalvagingReader
from quiesce.vault.points.writer import VaultPointWriter
from quiesce.vault.stores.store import ObjectMissing, Put, Store
from quiesce.vault.upkeep.budget import UNLIMITED, Budget
from quiesce.vault.upkeep.collect import execute_collect
from quiesce.vault.upkeep.collect_plan import CollectPlan, plan_collect
from quiesce.vault.upkeep.deletion import DeletionPlan, execute_deletion, plan_deletion
from quiesce.vault.upkeep.forecast import Forecast, forecast
from quiesce.vault.upkeep.holding import held
from quiesce.vault.upkeep.known_damage import KnownDamage
from quiesce.vault.upkeep.pace import Show, unseen
from quiesce.vault.upkeep.rebuild import (
    RebuildPlan,
    RebuildReport,
    plan_rebuild,
    rebuild_index,
)
from quiesce.vault.upkeep.repack import REPACK_BELOW, REPACK_BYTES
from quiesce.vault.upkeep.sampling import SAMPLE_CHUNKS
from quiesce.vault.upkeep.verify import VerifyOptions, verify_vault
from quiesce.vault.upkeep.verify_report import VerifyMode, VerifyReport


@dataclass(frozen=True, slots=True)
class VaultStatus:
    """Figures of a vault. `stored_bytes` is what packs occupy; `protected_bytes` is the size of
    all disks of all points; `unreadable_points` are manifests that are damaged.
    `missing_packs` are not there in full, `damaged_packs` are known as damaged; both only while
    something of them is whole nowhere else."""

    address: str
    vault_id: str
    points: int
    vms: int
    packs: int
    chunks: int
    stored_bytes: int
    protected_bytes: int
    free_bytes: int | None
    missing_packs: int
    damaged_packs: int
    damaged_segments: int
    unreadable_points: tuple[str, ...]


class Vault:
    """An open vault. Thread-safe; any number of processes may use one vault at once."""

    def __init__(self, contents: Contents, config: VaultConfig) -> None:
        """Use `create` or `open`."""
        self.contents = contents
        self.config = config
        self._manifests = Manifests(contents)
        self._damage = KnownDamage(contents)

    # ── making and opening ───────────────────────────────────────────────────────────────────

    @classmethod
    def create(cls, store: Store, *keys: KeyMaterial, clock: Clock = utc_now) -> Vault:
        """A new, empty vault, opened by any of `keys`.

        :raise VaultFailure: vault.exists
        """
        if not keys:
            raise ValueError("a vault needs at least one key")
        with contextlib.suppress(ObjectMissing):
            store.stat(FORMAT_KEY)
            raise _exists(store)
        config = VaultConfig.new(clock())
        vault_key = secrets.token_bytes(32)
        for material in keys:
            store.put(new_slot_key(), wrap(vault_key, material, config.bound, config.created_at))
        # Last: the vault exists from here on. Ours also when the answer to a first try was lost.
        there = store.put(FORMAT_KEY, write_config(config)) is Put.ALREADY_THERE
        if there and read_config(store) != config:
            raise _exists(store)
        return cls._opened(store, VaultKeys(vault_key), config, clock)

    @classmethod
    def open(cls, store: Store, key: KeyMaterial | None, *, clock: Clock = utc_now) -> Vault:
        """:raise VaultFailure: vault.not-a-vault, vault.locked, vault.version-unsupported,
            vault.corrupt-format
        :raise AuthFailure: auth.key-wrong
        """
        config = read_config(store)
        slots = [stored for _, stored in read_slots(store)]
        return cls._opened(store, unlock(slots, key, config.bound), config, clock)

    @classmethod
    def _opened(cls, store: Store, keys: VaultKeys, config: VaultConfig, clock: Clock) -> Vault:
        vault = cls(Contents(store, keys, config.chunk_bytes, clock), config)
        vault.contents.refresh()
        return vault

    def add_key(self, key: KeyMaterial) -> str:
        """Let one more key open this vault; rewrites no data. The slot's id."""
        contents = self.contents
        return add_slot(contents.store, self.config, contents.keys, key, contents.clock())

    def remove_key(self, slot: str) -> None:
        """
        :raise NotFoundFailure: vault.key-slot-unknown
        :raise PolicyFailure: vault.last-key when it is the only one
        """
        remove_slot(self.contents.store, slot)

    # ── points ───────────────────────────────────────────────────────────────────────────────

    def points(self, vm: str | None = None) -> tuple[RecoveryPoint, ...]:
        """Committed points, oldest first; of one VM, or of all. Points with a damaged manifest
        are left out here and named by `status` and `verify`."""
        found = [m.point for m in self.manifests() if vm is None or m.point.vm == vm]
        return tuple(sorted(found, key=lambda point: (point.taken_at, point.id)))

    def point(self, point_id: str) -> RecoveryPoint:
        """:raise NotFoundFailure: vault.point-unknown
        :raise VaultFailure: vault.corrupt-manifest
        """
        return self.manifest(point_id).point

    def writer(self, vm: str, job_id: str, *, compression_level: int = 1) -> VaultPointWriter:
        """Begin, or go on with, the point that this job makes."""
        # Before the first pack: whoever fills the store must leave room for clearing up.
        keep_reserve(self.contents)
        point_id = point_id_of(self.contents.keys, job_id)

        def find(disk: str, generation: str) -> Base:
            return find_base(self.contents, self.manifests(), vm, disk, generation)

        return VaultPointWriter(
            self.contents,
            vm=vm,
            job_id=job_id,
            point_id=point_id,
            find_base=find,
            find_committed=lambda: self._manifests.committed(vm, job_id),
            hold=partial(held, self.contents, point_key(point_id)),
            compression_level=compression_level,
        )

    def reader(self, point_id: str, disk: str, *, salvage: bool = False) -> VaultDiskReader:
        """With `salvage`, what is lost reads as zeros, and is told as the reader's `lost`.

        :raise NotFoundFailure: vault.point-unknown, vault.disk-unknown
        """
        manifest = self.manifest(point_id)
        for part in manifest.maps:
            if part.name == disk:
                kind = SalvagingReader if salvage else VaultDiskReader
                return kind(self.contents, part, f"disk {disk!r} of point {point_id}")
        raise NotFoundFailure(
            "vault.disk-unknown",
            f"Point {point_id} has no disk {disk!r}.",
            evidence=[Evidence(f"it has {', '.join(p.name for p in manifest.maps)}", point_id)],
        )

    def status(self) -> VaultStatus:
        refresh = self.contents.refresh()
        manifests, damaged = self.read_all_manifests()
        sizes = self.contents.pack_sizes()
        missing, broken = self.contents.index.snapshot().losses()
        return VaultStatus(
            address=self.contents.store.address,
            vault_id=self.config.vault_id,
            points=len(manifests),
            vms=len({m.point.vm for m in manifests}),
            packs=len(sizes),
            chunks=len(self.contents.index),
            stored_bytes=sum(sizes.values()),
            protected_bytes=sum(m.point.size_bytes for m in manifests),
            free_bytes=self.contents.store.free_bytes(),
            missing_packs=missing,
            damaged_packs=broken,
            damaged_segments=len(refresh.damaged_segments),
            unreadable_points=tuple(damaged),
        )

    # ── upkeep ───────────────────────────────────────────────────────────────────────────────

    def plan_deletion(
        self,
        point_ids: Sequence[str],
        *,
        on_progress: Show = unseen,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> DeletionPlan:
        """:raise NotFoundFailure: vault.point-unknown
        :raise JobFailure: job.cancelled
        """
        manifests, damaged = self.read_all_manifests()
        return plan_deletion(
            self.contents,
            manifests,
            tuple(damaged),
            point_ids,
            on_progress=on_progress,
            cancelled=cancelled,
        )

    def execute(self, plan: DeletionPlan) -> None:
        """The plan's points are gone when this returns; their data goes with `collect`."""
        execute_deletion(self.contents, plan)

    def plan_collect(
        self,
        repack_below: float = REPACK_BELOW,
        *,
        repack_bytes: int = REPACK_BYTES,
        on_progress: Show = unseen,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> CollectPlan:
        """What garbage collection would do now; see `quiesce.vault.upkeep.collect_plan`. Packs of
        which less than `repack_below` is needed are copied out of, `repack_bytes` at most a run.

        :raise VaultFailure: vault.collect-refused
        :raise JobFailure: job.cancelled
        """
        return plan_collect(
            self.contents,
            self._all_manifests_now,
            repack_below=repack_below,
            repack_bytes=repack_bytes,
            on_progress=on_progress,
            cancelled=cancelled,
        )

    def collect(
        self,
        plan: CollectPlan,
        *,
        on_progress: Show = unseen,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> CollectPlan:
        """Carry the plan out as far as it still holds; what was done.

        :raise VaultFailure: vault.collect-running, vault.collect-refused, vault.clock-ahead,
            vault.lease-locked
        :raise JobFailure: job.cancelled
        """
        return execute_collect(
            self.contents,
            plan,
            self._all_manifests_now,
            on_progress=on_progress,
            cancelled=cancelled,
        )

    def plan_rebuild(self) -> RebuildPlan:
        """What `rebuild_index` would do now. Nothing is written."""
        return plan_rebuild(self.contents)

    def rebuild_index(
        self,
        *,
        on_progress: Show = unseen,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> RebuildReport:
        """All index segments anew, from the packs. See `quiesce.vault.upkeep.rebuild`.

        :raise VaultFailure: vault.collect-running, vault.lease-locked
        :raise JobFailure: job.cancelled
        """
        return rebuild_index(self.contents, on_progress=on_progress, cancelled=cancelled)

    def verify(
        self,
        mode: VerifyMode | str = VerifyMode.CHUNKS,
        *,
        budget: Budget = UNLIMITED,
        cursor: str = "",
        sample: int = SAMPLE_CHUNKS,
        seed: int | None = None,
        on_progress: Show = unseen,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> VerifyReport:
        """Check the vault; damage is in the report, not raised. See `VerifyOptions`.

        :raise JobFailure: job.cancelled
        :raise InputFailure: vault.cursor-unknown
        """
        options = VerifyOptions(VerifyMode(mode), budget, cursor, sample, seed)
        manifests, damaged = self.read_all_manifests(fresh=True)
        report = verify_vault(
            self.contents,
            manifests,
            damaged,
            options,
            on_progress=on_progress,
            cancelled=cancelled,
        )
        self._damage.learn(report.damage(self.contents.clock()), manifests, damaged)
        return report

    def damage(self, budget: Budget = UNLIMITED) -> DamageReport:
        """Which points are hurt by what is known as damaged or missing. Reads maps only when
        something is, and nothing new is looked for: see `verify`."""
        return self._damage.look(*self.read_all_manifests(), budget)

    def forecast(self, mode: VerifyMode | str, *, sample: int = SAMPLE_CHUNKS) -> Forecast:
        """What `verify` would cost without a budget."""
        manifests, _ = self.read_all_manifests()
        return forecast(self.contents, manifests, VerifyMode(mode), sample=sample)

    def _all_manifests_now(self) -> tuple[tuple[Manifest, ...], dict[str, VaultFailure]]:
        return self.read_all_manifests(with_deleted=True, fresh=True)

    # ── manifests ────────────────────────────────────────────────────────────────────────────

    def manifest(self, point_id: str) -> Manifest:
        """:raise NotFoundFailure: vault.point-unknown
        :raise VaultFailure: vault.corrupt-manifest
        """
        return self._manifests.find(point_id)

    def manifests(self) -> tuple[Manifest, ...]:
        """Of all committed points that are not deleted and can be read."""
        return self.read_all_manifests()[0]

    def read_all_manifests(
        self, *, with_deleted: bool = False, fresh: bool = False
    ) -> tuple[tuple[Manifest, ...], dict[str, VaultFailure]]:
        """See `Manifests.read_all`."""
        return self._manifests.read_all(with_deleted=with_deleted, fresh=fresh)


def _exists(store: Store) -> VaultFailure:
    return VaultFailure(
        "vault.exists",
        f"A vault exists at {store.address} already.",
        evidence=[Evidence("its format object is there", f"{store.address}/{FORMAT_KEY}")],
        remedy="Open it with its key, or choose an empty folder.",
    )
