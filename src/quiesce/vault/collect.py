"""Garbage collection in two phases, beside running writers and without locks on them.

Phase 1 marks packs that no point refers to, with the time. A writer that starts afterwards sees
the mark and does not refer to such a pack. Phase 2, in a later run, deletes a marked pack only if
 · the mark is older than `MARGIN` (readers of a point just deleted come to their end), and
 · every living writer started after the mark, clocks off by up to `CLOCK_SKEW` (all others, which
   may refer to it, have committed, given up, or been silent for over `SESSION_LIMIT`), and
 · still no point refers to it, looked up after the writers were listed.
A silent writer's record is removed first, so that it can no longer commit should it wake up.
A deleted point still counts until every living writer started after its deletion, since it
may be the base of one.

If it cannot be known what a point refers to (damaged manifest or map), nothing is deleted.
Crash-safe order: index segments without the packs, then the packs, then the mark.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from numpy.typing import NDArray

from quiesce.model.failure import Evidence, VaultFailure
from quiesce.vault.contents import Contents
from quiesce.vault.lease import leased
from quiesce.vault.manifest import Manifest, point_key
from quiesce.vault.pack import pack_key, pack_name
from quiesce.vault.references import References
from quiesce.vault.reserve import reserve_kept_afterwards
from quiesce.vault.segment import SEGMENT_ROWS, join_segments, read_segment
from quiesce.vault.writer import SESSION_LIMIT

MARGIN = timedelta(hours=24)
CLOCK_SKEW = timedelta(hours=1)
_MANY_SEGMENTS = 32


@dataclass(frozen=True, slots=True)
class CollectPlan:
    """What a collection would do now; nothing has happened yet.

    `mark`: packs to be marked as garbage. `delete`: packs to be deleted, marked long ago.
    `ripe_marks` are their marks. `manifests`: deleted points whose manifest goes.
    `expired_sessions`: records of dead writers. `waiting_bytes` are marked and not yet ripe.
    """

    planned_at: datetime
    mark: tuple[bytes, ...]
    mark_bytes: int
    delete: tuple[bytes, ...]
    delete_bytes: int
    ripe_marks: tuple[str, ...]
    waiting_bytes: int
    manifests: tuple[str, ...]
    expired_sessions: tuple[str, ...]


ReadManifests = Callable[[], tuple[tuple[Manifest, ...], Mapping[str, VaultFailure]]]
"""All manifests in the store now, those of deleted points too, and failures by point id."""


Beat = Callable[[], None]
"""Called now and then during long work; what it raises ends the work."""


def _no_beat() -> None:
    return None


def plan_collect(
    contents: Contents, read_manifests: ReadManifests, *, beat: Beat = _no_beat
) -> CollectPlan:
    """:raise VaultFailure: vault.collect-refused when a point cannot be read"""
    # Sessions before manifests: a writer that is gone from the one has committed to the other.
    sessions = contents.records.sessions()
    manifests, damaged = read_manifests()
    now = contents.clock()
    living = [s for s in sessions if s.at > now - SESSION_LIMIT - CLOCK_SKEW]
    oldest = min((s.started_at for s in living), default=datetime.max.replace(tzinfo=now.tzinfo))

    def all_began_after(at: datetime) -> bool:
        return oldest > at + CLOCK_SKEW

    deleted = contents.records.deleted()
    gone = {point_id for point_id, at in deleted.items() if all_began_after(at)}
    contents.refresh(scan_unindexed=True)
    snapshot = contents.index.snapshot()
    references = References(contents, snapshot)
    for point_id, failure in damaged.items():
        if point_id not in deleted:
            raise _refused(point_id) from failure
    for manifest in manifests:
        beat()
        if manifest.point.id not in gone:
            try:
                references.add([manifest])
            except VaultFailure as inner:
                raise _refused(manifest.point.id) from inner
    live = references.live_packs()

    marks = contents.records.garbage()
    ripe = [m for m in marks if m.at + MARGIN <= now and all_began_after(m.at)]
    marked = frozenset(pack for mark in marks for pack in mark.packs)
    stored = {name: info for info in contents.store.list("packs/") if (name := pack_name(info.key))}
    # A pack that cannot be told to be whole is evidence and perhaps mendable: it stays.
    whole = {n for n, here in zip(snapshot.names, snapshot.present, strict=True) if here}
    garbage = {n: stored[n].size_bytes for n in whole & stored.keys() if n not in live}
    # A writer's own new packs are not referred to yet: marking them would be vain.
    fresh = min(oldest, now) - CLOCK_SKEW
    mark = [n for n in garbage if n not in marked and stored[n].modified_at < fresh]
    delete = [name for m in ripe for name in m.packs if name in garbage]
    waiting = (marked & garbage.keys()) - set(delete)
    return CollectPlan(
        planned_at=now,
        mark=tuple(sorted(mark)),
        mark_bytes=sum(garbage[name] for name in mark),
        delete=tuple(sorted(set(delete))),
        delete_bytes=sum(garbage[name] for name in set(delete)),
        ripe_marks=tuple(m.key for m in ripe),
        waiting_bytes=sum(garbage[name] for name in waiting),
        manifests=tuple(sorted(gone)),
        expired_sessions=tuple(s.key for s in sessions if s not in living),
    )


def execute_collect(
    contents: Contents, plan: CollectPlan, read_manifests: ReadManifests
) -> CollectPlan:
    """Do what was planned, as far as it is still right now: never more. What was done.

    :raise VaultFailure: vault.collect-running, vault.collect-refused
    """
    with reserve_kept_afterwards(contents), leased(contents) as lease:
        contents.store.give_back_reserve()
        for key in plan.expired_sessions:
            contents.store.delete(key)
        # Looked up again after the dead writers' records are gone: what they have committed by
        # now counts, and they can commit no more.
        now = plan_collect(contents, read_manifests, beat=lease.beat)
        contents.save_index()
        mark = tuple(pack for pack in now.mark if pack in plan.mark)
        delete = frozenset(now.delete) & frozenset(plan.delete)
        manifests = tuple(point for point in now.manifests if point in plan.manifests)
        ripe = tuple(key for key in now.ripe_marks if key in plan.ripe_marks)
        if mark:
            values = {"at": contents.clock(), "packs": [pack.hex() for pack in mark]}
            contents.records.put(f"garbage/{secrets.token_hex(16)}", "garbage", values)
        for point_id in manifests:
            lease.beat()
            contents.store.delete(point_key(point_id))
            contents.store.delete(f"deleted/{point_id}")
        if delete or len(contents.segments()) > _MANY_SEGMENTS:
            rewrite_segments(contents, delete, beat=lease.beat)
        for pack in sorted(delete):
            lease.beat()
            contents.store.delete(pack_key(pack))
        for key in ripe:
            contents.store.delete(key)
        for info in contents.store.list("tmp/"):
            if info.modified_at < contents.clock() - MARGIN:
                contents.store.delete(info.key)
        contents.refresh()
        _forget_damage(contents)
        return replace(
            now,
            mark=mark,
            delete=tuple(sorted(delete)),
            manifests=manifests,
            ripe_marks=ripe,
            expired_sessions=plan.expired_sessions,
        )


def _forget_damage(contents: Contents) -> None:
    """Records of packs that are neither stored nor told of by the index: those are collected. A
    pack that is told of and missing may come back from a copy, as damaged as it was."""
    known = frozenset(contents.pack_sizes()).union(*contents.segments().values())
    for key, pack in contents.records.damaged_packs():
        if pack not in known:
            contents.store.delete(key)


def rewrite_segments(contents: Contents, drop: Set[bytes], *, beat: Beat = _no_beat) -> None:
    """Store merged segments that no longer tell of the packs in `drop`, then delete the old."""
    segments = contents.segments()
    merge = len(segments) > _MANY_SEGMENTS
    group: list[tuple[list[tuple[bytes, int]], NDArray[Any]]] = []
    old: list[str] = []
    count = 0

    def store_group() -> None:
        beat()
        if any(name not in drop for names, _ in group for name, _ in names):
            kept = contents.put_segment(join_segments(group, drop))
            old[:] = [key for key in old if key != kept]
        for key in old:
            contents.store.delete(key)
        group.clear()
        old.clear()

    for key, packs in sorted(segments.items()):
        if not merge and not packs & drop:
            continue
        names, rows = read_segment(contents.open_segment(key))
        if count + len(rows) > SEGMENT_ROWS and group:
            store_group()
            count = 0
        group.append((names, rows))
        old.append(key)
        count += len(rows)
    if group:
        store_group()


def _refused(point_id: str) -> VaultFailure:
    return VaultFailure(
        "vault.collect-refused",
        f"Nothing is collected while it is unknown what recovery point {point_id} refers to.",
        evidence=[Evidence("its manifest or map cannot be read", point_key(point_id))],
        remedy=f"Mend the vault from a copy, or give the point up: "
        f"`quiesce point delete {point_id}`.",
    )
