"""What a copy of a vault to another store would carry; looked up, and nothing written."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from quiesce.model.failure import (
    Evidence,
    Failure,
    InputFailure,
    PolicyFailure,
    VaultFailure,
)
from quiesce.model.units import count_text
from quiesce.vault.contents.contents import Clock, Contents
from quiesce.vault.contents.index import IndexSnapshot
from quiesce.vault.copy.apart import refuse_within, same_disk
from quiesce.vault.copy.arrived import sizes_by_name, whole_manifests
from quiesce.vault.copy.choosing import Filters, chosen_of
from quiesce.vault.copy.needs import Needs, Packs
from quiesce.vault.copy.packs import PackToCopy
from quiesce.vault.copy.slots import slots_to_send
from quiesce.vault.format.config import VaultConfig, read_config
from quiesce.vault.format.keys import VaultKeys
from quiesce.vault.format.manifest import Manifest, point_key
from quiesce.vault.format.pack import pack_name
from quiesce.vault.stores.store import Store
from quiesce.vault.upkeep.compaction import Beat
from quiesce.vault.vault import Vault

_BATCH_PACKS = 256
"""Points are committed whenever so many packs have arrived, so that a copy that takes days leaves
points behind from its first hours on, the newest first."""


@dataclass(frozen=True, slots=True)
class Unfit:
    """A point that cannot be copied, and why. `vm` is empty when its manifest cannot be read."""

    point_id: str
    vm: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What would be carried; nothing has happened yet.

    `points` are ids, newest first where a key tells; `arrived` has the target already, whole.
    `segments` and `slots` are keys of objects. `unfit` are points that cannot be copied as far as
    is known before any pack is read; without a key nothing is known of that. `makes_vault`: the
    target holds no vault yet. `notes` are sentences. `contents` are the source's, where they are
    open already.
    """

    source: Store
    target: Store
    keys: VaultKeys | None = field(repr=False)
    contents: Contents | None = field(repr=False)
    filters: Filters
    vault_id: str
    makes_vault: bool
    slots: tuple[str, ...]
    points: tuple[str, ...]
    arrived: frozenset[str]
    packs: tuple[PackToCopy, ...]
    segments: tuple[str, ...]
    unfit: tuple[Unfit, ...]
    notes: tuple[str, ...]

    @property
    def points_there(self) -> int:
        return len(self.arrived)

    @property
    def size_bytes(self) -> int:
        return sum(pack.size_bytes for pack in self.packs)

    @property
    def nothing_to_do(self) -> bool:
        return not (self.makes_vault or self.slots or self.points or self.packs or self.segments)


@dataclass(frozen=True, slots=True)
class Batch:
    """Packs, and the points that are whole once these and the batches before have arrived.
    `looked` are these, and those that the target has and may have lost something of."""

    packs: tuple[PackToCopy, ...]
    points: tuple[str, ...]
    looked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """A plan, and what it takes to carry it out. `here` and `there`, the source's contents and the
    target's, are None without a key."""

    plan: CopyPlan
    here: Contents | None
    there: Contents | None
    needs: Mapping[str, bytes]
    """Point id → one bit for each pack of `names` that it needs and the target lacks."""
    names: tuple[bytes, ...]
    vms: Mapping[str, str]

    def batches(self) -> Iterator[Batch]:
        plan = self.plan
        if self.there is None:
            yield Batch(plan.packs, plan.points)
            return
        known = {pack.name: pack for pack in plan.packs}
        left = np.array([name in known for name in self.names], np.bool_)
        wanted = frozenset(plan.points)
        packs: list[PackToCopy] = []
        points: list[str] = []
        looked: list[str] = []
        for point_id, bits in self.needs.items():
            now = self._needed(bits) & left
            left &= ~now
            packs += [known[self.names[int(number)]] for number in np.flatnonzero(now)]
            looked.append(point_id)
            if point_id in wanted:
                points.append(point_id)
            if len(packs) >= _BATCH_PACKS:
                yield Batch(tuple(packs), tuple(points), tuple(looked))
                packs, points, looked = [], [], []
        # Those that no point waits for: they replace what is damaged there.
        packs += [known[self.names[int(number)]] for number in np.flatnonzero(left)]
        yield Batch(tuple(packs), tuple(points), tuple(looked))

    def hurt_by(self, point_id: str, bad: frozenset[bytes]) -> frozenset[bytes]:
        """Those of these packs that the point needs."""
        if not bad or point_id not in self.needs:
            return frozenset()
        needed = np.flatnonzero(self._needed(self.needs[point_id]))
        return bad & {self.names[int(number)] for number in needed}

    def _needed(self, bits: bytes) -> NDArray[np.bool_]:
        packed = np.frombuffer(bits, np.uint8)
        return np.unpackbits(packed, count=len(self.names)).astype(np.bool_)


def look(
    source: Store,
    target: Store,
    keys: VaultKeys | None,
    contents: Contents | None,
    filters: Filters,
    clock: Clock,
    whole: frozenset[str] = frozenset(),
    settled: Beat | None = None,
) -> Look:
    """See `copying.plan_copy`. `whole` are points whose manifests the target was just seen to have
    whole: these are not read again. `settled` is given once no collection deletes there any more,
    and is called now and then: what a copy without the key counts on is looked for by name."""
    config = read_config(source)
    if filters.any and keys is None:
        raise InputFailure(
            "vault.copy-needs-key",
            "Points cannot be chosen without the vault's key: their VMs and times are encrypted.",
        )
    if filters.newest is not None and filters.newest < 1:
        raise InputFailure("input.invalid", "The number of newest points is 1 or more.")
    refuse_within(source, target)
    makes_vault = _check_target(config, source, target)
    slots, notes = slots_to_send(source, target, new=makes_vault, wanted=filters.with_keys)
    plan = CopyPlan(
        source=source,
        target=target,
        keys=keys,
        contents=contents,
        filters=filters,
        vault_id=config.vault_id,
        makes_vault=makes_vault,
        slots=slots,
        points=(),
        arrived=whole,
        packs=(),
        segments=(),
        unfit=(),
        notes=(*notes, *same_disk(source, target)),
    )
    if keys is None:
        return _keyless(plan, settled)
    return _keyed(plan, keys, config, clock)


def _check_target(config: VaultConfig, source: Store, target: Store) -> bool:
    """Whether the target holds no vault yet."""
    try:
        there = read_config(target)
    except VaultFailure as failure:
        if failure.code != "vault.not-a-vault":
            raise
        return True
    if there.vault_id != config.vault_id:
        raise PolicyFailure(
            "vault.copy-other-vault",
            f"{target.address} holds another vault than {source.address}.",
            evidence=[
                Evidence(f"vault {config.vault_id}", source.address),
                Evidence(f"vault {there.vault_id}", target.address),
            ],
        )
    return False


def _keys(store: Store, prefix: str) -> Set[str]:
    return {info.key for info in store.list(prefix)}


def _sizes(store: Store, prefix: str) -> dict[str, int]:
    return {info.key: info.size_bytes for info in store.list(prefix)}


def _keyless(plan: CopyPlan, settled: Beat | None) -> Look:
    """A verbatim replica. Points are listed first and packs last, so that what a listed point
    needs is among the listed packs.

    A list that is late shows what a collection has just deleted. Its mark stands then: where the
    target has none, lists are enough."""
    source, target = plan.source, plan.target
    points, deleted = _sizes(source, "points/"), _deleted(source) | _deleted(target)
    points_there = _sizes(target, "points/")
    alive = {key: size for key, size in points.items() if _id(key) not in deleted}
    same = {_id(key) for key, size in alive.items() if points_there.get(key) == size}
    arrived = _arrived(plan, same)
    coming = tuple(_id(key) for key in sorted(alive) if _id(key) not in arrived)
    marked = any(True for _ in target.list("garbage/"))
    segments, segments_there = _keys(source, "index/"), _keys(target, "index/")
    sizes, there = _sizes(source, "packs/"), _sizes(target, "packs/")
    if settled is not None and coming and marked:
        segments_there = sizes_by_name(target, segments & segments_there, settled).keys()
        there = sizes_by_name(target, sizes.keys() & there.keys(), settled)
    packs = tuple(
        PackToCopy(name, size, there.get(key))
        for key, size in sorted(sizes.items())
        if there.get(key) != size and (name := pack_name(key)) is not None
    )
    notes = (
        *plan.notes,
        "Without the key it is not known which points the packs belong to: everything is copied, "
        "and of a pack that is lost at the source nothing is noticed.",
    )
    if _keys(target, "damage/"):
        notes += (
            "The target has records of damage, which only the key opens: a pack that is damaged "
            "there counts as there. Copy with the key, which replaces it.",
        )
    plan = replace(
        plan,
        points=coming,
        arrived=arrived,
        packs=packs,
        segments=tuple(sorted(segments - segments_there)),
        notes=notes,
    )
    return Look(plan, None, None, {}, (), {})


def _keyed(plan: CopyPlan, keys: VaultKeys, config: VaultConfig, clock: Clock) -> Look:
    source, target = plan.source, plan.target
    contents = plan.contents or Contents(source, keys, config.chunk_bytes, clock)
    vault = Vault(contents, config)
    # Packs that no segment tells of too: the source may have lost its index.
    vault.contents.refresh(scan_unindexed=True)
    manifests, damaged = vault.read_all_manifests(fresh=True)
    there = Contents(target, keys, config.chunk_bytes, clock)
    there.refresh(scan_unindexed=True)
    chosen = chosen_of(manifests, damaged, plan.filters)
    unfit = [
        Unfit(point_id, "", failure.code, failure.message)
        for point_id, failure in damaged.items()
        if not plan.filters.points or point_id in plan.filters.points
    ]
    deleted = _deleted(target)
    dropped = [m for m in chosen if m.point.id in deleted]
    chosen = [m for m in chosen if m.point.id not in deleted]
    points_here, points_there = _sizes(source, "points/"), _sizes(target, "points/")
    same = {
        m.point.id
        for m in chosen
        if points_there.get(key := point_key(m.point.id)) == points_here.get(key)
    }
    arrived = _arrived(plan, same)
    stored = there.pack_sizes()
    snapshot = vault.contents.index.snapshot()
    needs = Needs(vault.contents, snapshot, there)
    bits: dict[str, bytes] = {}
    wanted = np.zeros(len(snapshot.names), np.bool_)

    def walk(manifests: Iterable[Manifest]) -> None:
        for manifest in manifests:
            try:
                packs = needs.of(manifest)
            except VaultFailure as failure:
                point = manifest.point
                unfit.append(Unfit(point.id, point.vm, failure.code, reason_of(failure)))
                continue
            wanted[packs] = True
            bits[manifest.point.id] = _bits(packs, len(snapshot.names))

    walk(m for m in chosen if m.point.id not in arrived)
    # What the target has lost of points that it has already is brought again. It may have lost
    # what told of it, too: only where it has every pack there can be none of it.
    if there.index.any_damage or _lacks(stored, snapshot, wanted):
        walk(m for m in chosen if m.point.id in arrived)
    wanted[_mendable(vault.contents, there, snapshot)] = True
    notes = list(plan.notes)
    if dropped:
        notes.append(
            f"Deleted at the target, and so not copied: {count_text(len(dropped), 'point')}."
        )
    plan = replace(
        plan,
        points=tuple(point_id for point_id in bits if point_id not in arrived),
        arrived=arrived,
        packs=tuple(
            PackToCopy(snapshot.names[n], snapshot.sizes[n], stored.get(snapshot.names[n]))
            for n in (int(number) for number in np.flatnonzero(wanted))
        ),
        unfit=tuple(unfit),
        notes=tuple(notes),
    )
    vms = {m.point.id: m.point.vm for m in chosen}
    return Look(plan, vault.contents, there, bits, snapshot.names, vms)


def _arrived(plan: CopyPlan, same: set[str]) -> frozenset[str]:
    """Of points whose manifests are as long in the target as in the source."""
    known = plan.arrived & same
    return known | whole_manifests(plan.target, plan.keys, same - known)


def _lacks(stored: Container[bytes], snapshot: IndexSnapshot, coming: NDArray[np.bool_]) -> bool:
    """Whether the target will lack packs that the source has."""
    return any(
        name not in stored
        for name, here, comes in zip(snapshot.names, snapshot.present, coming, strict=True)
        if here and not comes
    )


def _mendable(here: Contents, there: Contents, snapshot: IndexSnapshot) -> list[int]:
    """Packs that the target knows as damaged and the source has whole as far as it knows: also
    when no point waits for them, since what they lost was stored anew there."""
    damaged = set(there.records.damage())
    if damaged:
        damaged -= here.records.damage().keys()
    return [
        number
        for number, name in enumerate(snapshot.names)
        if name in damaged and snapshot.present[number]
    ]


def _bits(packs: Packs, count: int) -> bytes:
    mask = np.zeros(count, np.bool_)
    mask[packs] = True
    return np.packbits(mask).tobytes()


def reason_of(failure: Failure) -> str:
    facts = "; ".join(item.fact for item in failure.evidence[:3])
    return f"{failure.message} ({facts})" if facts else failure.message


def _deleted(store: Store) -> set[str]:
    return {_id(info.key) for info in store.list("deleted/")}


def _id(key: str) -> str:
    return key.rpartition("/")[2]
