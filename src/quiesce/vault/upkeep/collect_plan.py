"""Garbage collection in two phases, beside running writers and without locks on them.

Phase 1 marks packs that no point refers to, and packs that are to be copied out of (`repack`), with
the time. A writer that starts afterwards sees the mark and does not refer to such a pack. Phase 2,
in a later run, deletes a marked pack only if
 · the mark is older than `MARGIN` (readers of a point just deleted come to their end), and
 · every living writer started after the mark, clocks off and lists late by up to `CLOCK_SKEW` (all
   others, which may refer to it, have committed, given up, or been silent for `SESSION_LIMIT`), and
 · still nothing is served from it, looked up after the writers were listed.
A silent writer's record is removed first, so that it can no longer commit should it wake up.
A deleted point still counts until every living writer started after its deletion, since it
may be the base of one.

If it cannot be known what a point refers to (damaged manifest or map), or which copies are damaged
or marked (a damaged record of that), nothing is deleted: what serves might be the bad copy.
Crash-safe order: index segments without the packs, then the packs, and the mark in a later run,
when no list shows them any more. A pack that a retention lock keeps stays marked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from quiesce.model.failure import Evidence, StorageFailure, VaultFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.index import IndexSnapshot
from quiesce.vault.contents.records import GarbageMark, Session
from quiesce.vault.format.manifest import Manifest, point_key
from quiesce.vault.format.pack import pack_key, pack_name
from quiesce.vault.points.writer import SESSION_LIMIT
from quiesce.vault.stores.locking import locking
from quiesce.vault.stores.store import ObjectInfo
from quiesce.vault.upkeep.compaction import Beat
from quiesce.vault.upkeep.pace import Pace, Show, unseen
from quiesce.vault.upkeep.pack_check import stop_if
from quiesce.vault.upkeep.references import References
from quiesce.vault.upkeep.repack import REPACK_BELOW, REPACK_BYTES, Repacking, choose

MARGIN = timedelta(hours=24)
CLOCK_SKEW = timedelta(hours=3)
"""Two clocks that are wrong by an hour each, one fast and one slow, and lists an hour late."""


@dataclass(frozen=True, slots=True)
class LockedObject:
    """An object that a retention lock keeps; `why` says until when, in the store's words."""

    key: str
    why: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """Packs that were marked together, `size_bytes` in all: a collection deletes them from `due_at`
    (UTC) on, and not before `held_by` writers have ended that began before the mark counted."""

    due_at: datetime
    packs: int
    size_bytes: int
    held_by: int = 0


@dataclass(frozen=True, slots=True)
class Unmarked:
    """Packs that nothing refers to and that are not marked either, since they were stored lately,
    by a backup that runs or one that was given up: the oldest may be marked from `from_at` on, if
    none of the writers that run now stored it."""

    from_at: datetime
    packs: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CollectPlan:
    """What a collection would do now; nothing has happened yet.

    `mark`: packs to be marked as garbage. `delete`: packs to be deleted, marked long ago. `revive`:
    packs marked long ago that are needed after all. `ripe_marks`: records of such marks.
    `manifests`: deleted points whose manifest goes; `held_points` are deleted too and still count,
    since a writer runs that may build on them. `expired_sessions`: records of dead writers.
    `waiting` are marked and not yet ripe, the first to go first. `repack`: packs that are marked
    too, and copied out of.

    `hidden_until`: where the vault asks for retention locks, when the last of those of the packs to
    be deleted ends; till then deleting only hides it. `hidden_unknown`: why that could not be told.

    As the account of what was done, besides: `locked` could not be deleted and are tried again,
    `copied_bytes` are newly stored, `left` are packs that could not be copied out of, and why.
    """

    planned_at: datetime
    mark: tuple[bytes, ...]
    mark_bytes: int
    delete: tuple[bytes, ...]
    delete_bytes: int
    ripe_marks: tuple[str, ...]
    revive: tuple[bytes, ...]
    waiting: tuple[Waiting, ...]
    unmarked: Unmarked | None
    held_points: int
    manifests: tuple[str, ...]
    expired_sessions: tuple[str, ...]
    repack: Repacking
    hidden_until: datetime | None = None
    hidden_unknown: str = ""
    locked: tuple[LockedObject, ...] = ()
    copied_bytes: int = 0
    left: tuple[tuple[bytes, str], ...] = ()

    @property
    def waiting_bytes(self) -> int:
        return sum(each.size_bytes for each in self.waiting)


ReadManifests = Callable[[], tuple[tuple[Manifest, ...], Mapping[str, VaultFailure]]]
"""All manifests in the store now, those of deleted points too, and failures by point id."""


@dataclass(frozen=True, slots=True)
class Writers:
    """Those that live and have not committed, and records of all others; then all manifests, and
    failures by point id, as they were read after the records."""

    now: datetime
    living: tuple[Session, ...]
    expired: tuple[str, ...]
    manifests: tuple[Manifest, ...]
    damaged: Mapping[str, VaultFailure]

    @property
    def committed(self) -> frozenset[str]:
        return frozenset(manifest.point.id for manifest in self.manifests)


@dataclass(frozen=True, slots=True)
class Look:
    """A plan, and what it was made from: `sizes` are of all packs listed."""

    plan: CollectPlan
    snapshot: IndexSnapshot
    references: References
    sizes: Mapping[bytes, int]
    marks: tuple[GarbageMark, ...]


def plan_collect(
    contents: Contents,
    read_manifests: ReadManifests,
    *,
    repack_below: float = REPACK_BELOW,
    repack_bytes: int = REPACK_BYTES,
    on_progress: Show = unseen,
    cancelled: Callable[[], bool] = lambda: False,
) -> CollectPlan:
    """`repack_below` 0 repacks nothing. By this machine's clock, right or wrong: nothing is done
    that is not found again when it is executed, and then clocks are compared.

    :raise VaultFailure: vault.collect-refused when a point, or a record of damage or garbage,
        cannot be read
    :raise JobFailure: job.cancelled
    """
    pace = Pace(on_progress)

    def beat() -> None:
        stop_if(cancelled)

    return look(contents, read_manifests, repack_below, repack_bytes, pace, beat).plan


def look_at_writers(contents: Contents, read_manifests: ReadManifests) -> Writers:
    # Sessions before manifests: a writer that is gone from the one has committed to the other.
    sessions = contents.records.sessions()
    manifests, damaged = read_manifests()
    now = contents.clock()
    committed = {manifest.point.id for manifest in manifests}
    living = tuple(s for s in sessions if _lives(s, now) and s.point_id not in committed)
    expired = tuple(s.key for s in sessions if s not in living)
    return Writers(now, living, expired, manifests, damaged)


def look(
    contents: Contents,
    read_manifests: ReadManifests,
    below: float,
    limit: int,
    pace: Pace,
    beat: Beat,
) -> Look:
    pace.begin("Looking at packs")
    writers = look_at_writers(contents, read_manifests)
    now, living = writers.now, writers.living
    oldest = min((s.started_at for s in living), default=datetime.max.replace(tzinfo=now.tzinfo))

    def all_began_after(at: datetime) -> bool:
        return oldest > at + CLOCK_SKEW

    deleted = contents.records.deleted()
    gone = {point_id for point_id, at in deleted.items() if all_began_after(at)}
    for key in contents.records.unreadable():
        raise _unknown(key)
    contents.refresh(scan_unindexed=True)
    snapshot = contents.index.snapshot()
    references = _references(contents, snapshot, writers, deleted.keys(), gone, pace, beat)
    served = references.live_packs()

    marks = tuple(contents.records.garbage())
    ripe = [m for m in marks if m.at + MARGIN <= now and all_began_after(m.at)]
    marked = frozenset(pack for mark in marks for pack in mark.packs)
    stored = {name: info for info in contents.store.list("packs/") if (name := pack_name(info.key))}
    sizes = {name: info.size_bytes for name, info in stored.items()}
    # A pack that cannot be told to be whole is evidence and perhaps mendable: it stays.
    present = zip(snapshot.names, snapshot.present, strict=True)
    whole = {name for name, here in present if here} & stored.keys()
    garbage = whole - served
    # A writer's own new packs are not referred to yet: marking them would be vain.
    fresh = min(oldest, now) - CLOCK_SKEW
    settled = {name for name in whole if name in marked or stored[name].modified_at < fresh}
    repack = choose(
        snapshot,
        references.live,
        sizes,
        settled & served,
        below=below,
        limit_bytes=_room(contents, limit),
    )
    mark = (garbage & settled) - marked
    ripe_packs = {name for m in ripe for name in m.packs}
    delete = ripe_packs & garbage
    hidden_until, hidden_unknown = _hidden_until(contents, delete)
    plan = CollectPlan(
        planned_at=now,
        mark=tuple(sorted(mark)),
        mark_bytes=sum(sizes[name] for name in mark),
        delete=tuple(sorted(delete)),
        delete_bytes=sum(sizes[name] for name in delete),
        ripe_marks=tuple(m.key for m in ripe),
        revive=tuple(sorted((ripe_packs & served).difference(repack.packs, repack.later))),
        waiting=_waiting(marks, (marked & garbage) - delete, sizes, living),
        unmarked=_unmarked([stored[name] for name in garbage - settled]),
        held_points=len(writers.committed & deleted.keys() - gone),
        manifests=tuple(sorted(gone)),
        expired_sessions=writers.expired,
        repack=repack,
        hidden_until=hidden_until,
        hidden_unknown=hidden_unknown,
    )
    return Look(plan, snapshot, references, sizes, marks)


def _hidden_until(contents: Contents, packs: Iterable[bytes]) -> tuple[datetime | None, str]:
    """Or why it cannot be told, which is no reason to keep them."""
    locks = locking(contents.store)
    if locks is None:
        return None, ""
    try:
        return locks.last_end([pack_key(name) for name in sorted(packs)]), ""
    except StorageFailure as failure:
        return None, failure.message


def _waiting(
    marks: Sequence[GarbageMark],
    packs: Set[bytes],
    sizes: Mapping[bytes, int],
    living: Sequence[Session],
) -> tuple[Waiting, ...]:
    """A pack goes by the oldest mark that names it."""
    found = []
    left = set(packs)
    for mark in sorted(marks, key=lambda mark: (mark.at, mark.key)):
        mine = left.intersection(mark.packs)
        left -= mine
        if mine:
            # One writer may have two records for a while.
            holders = {s.point_id for s in living if s.started_at <= mark.at + CLOCK_SKEW}
            size = sum(sizes[name] for name in mine)
            found.append(Waiting(mark.at + MARGIN, len(mine), size, len(holders)))
    return tuple(found)


def _unmarked(packs: Sequence[ObjectInfo]) -> Unmarked | None:
    if not packs:
        return None
    first = min(info.modified_at for info in packs) + CLOCK_SKEW
    return Unmarked(first, len(packs), sum(info.size_bytes for info in packs))


def _lives(session: Session, now: datetime) -> bool:
    return session.at > now - SESSION_LIMIT - CLOCK_SKEW


def _references(
    contents: Contents,
    snapshot: IndexSnapshot,
    writers: Writers,
    deleted: Set[str],
    gone: Set[str],
    pace: Pace,
    beat: Beat,
) -> References:
    references = References(contents, snapshot)
    pace.begin("Looking at points", sum(m.point.size_bytes for m in writers.manifests))
    for point_id, failure in writers.damaged.items():
        if point_id not in deleted:
            raise _refused(point_id) from failure
    for manifest in writers.manifests:
        beat()
        if manifest.point.id not in gone:
            try:
                references.add([manifest])
            except VaultFailure as inner:
                raise _refused(manifest.point.id) from inner
        pace.advance(manifest.point.size_bytes)
    return references


def _room(contents: Contents, limit_bytes: int) -> int:
    """What is copied is stored twice for a day or two; half of the free space is left alone."""
    free = contents.store.free_bytes()
    return limit_bytes if free is None else min(limit_bytes, free // 2)


def _refused(point_id: str) -> VaultFailure:
    return VaultFailure(
        "vault.collect-refused",
        f"Nothing is collected while it is unknown what recovery point {point_id} refers to.",
        evidence=[Evidence("its manifest or map cannot be read", point_key(point_id))],
        remedy=f"Mend the vault from a copy, or give the point up: "
        f"`quiesce point delete {point_id}`.",
    )


def _unknown(record: str) -> VaultFailure:
    return VaultFailure(
        "vault.collect-refused",
        "Nothing is collected while it is unknown which copies are damaged or marked.",
        evidence=[Evidence("this record cannot be read", record)],
        remedy="Look at all packs anew: `quiesce vault verify --mode packs`. It finds the damage "
        "again and removes the record.",
    )
