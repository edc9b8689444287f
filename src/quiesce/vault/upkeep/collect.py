"""Executing a garbage collection: see `collect_plan` for what it does and why it is safe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from datetime import datetime

from quiesce.model.failure import StorageFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.lease import leased
from quiesce.vault.contents.reserve import reserve_kept_afterwards
from quiesce.vault.format.manifest import point_key
from quiesce.vault.format.pack import pack_key
from quiesce.vault.upkeep.collect_plan import (
    CLOCK_SKEW,
    MARGIN,
    CollectPlan,
    LockedObject,
    Look,
    ReadManifests,
    Waiting,
    look,
    look_at_writers,
)
from quiesce.vault.upkeep.compaction import Beat, layout, rewrite_segments
from quiesce.vault.upkeep.lately import Deletions, note_key
from quiesce.vault.upkeep.pace import Pace, Show, unseen
from quiesce.vault.upkeep.pack_check import stop_if
from quiesce.vault.upkeep.repack import Copied, copy_out


def execute_collect(
    contents: Contents,
    plan: CollectPlan,
    read_manifests: ReadManifests,
    *,
    on_progress: Show = unseen,
    cancelled: Callable[[], bool] = lambda: False,
) -> CollectPlan:
    """Do what was planned, as far as it is still right now: never more. What was done. It may end
    anywhere, and does so soon after `cancelled` says so.

    :raise VaultFailure: vault.collect-running, vault.clock-ahead, vault.lease-locked,
        vault.collect-refused
    :raise JobFailure: job.cancelled
    """
    with reserve_kept_afterwards(contents), leased(contents, judges_by_age=True) as lease:

        def beat() -> None:
            stop_if(cancelled)
            lease.beat()

        contents.store.give_back_reserve()
        pace = Pace(on_progress)
        removal = _Removal(contents, beat)
        # The clock may have been set right since the plan was made.
        expired = set(plan.expired_sessions)
        if expired:
            expired.intersection_update(look_at_writers(contents, read_manifests).expired)
        removed = tuple(key for key in sorted(expired) if removal.delete(key))
        # Looked up again after the dead writers' records are gone: what they have committed by
        # now counts, and they can commit no more.
        wanted = plan.repack
        seen = look(contents, read_manifests, wanted.below, wanted.limit_bytes, pace, beat)
        now = seen.plan
        contents.save_index()
        mark = tuple(pack for pack in now.mark if pack in plan.mark)
        repack = tuple(pack for pack in now.repack.packs if pack in wanted.packs)
        _put_mark(contents, seen, (*mark, *repack))
        due_at = contents.clock() + MARGIN
        manifests = tuple(point for point in now.manifests if point in plan.manifests)
        for point_id in manifests:
            if removal.delete(point_key(point_id)):
                removal.delete(f"deleted/{point_id}")
        delete = frozenset(now.delete) & frozenset(plan.delete)
        deletions = Deletions(contents, seen.marks)
        deleted = _delete_packs(contents, delete, seen.sizes, removal, deletions, pace)
        ripe = frozenset(now.ripe_marks) & frozenset(plan.ripe_marks)
        revive = frozenset(now.revive) & frozenset(plan.revive)
        _settle_marks(seen, ripe, revive, removal, deletions)
        notes = {note_key(mark.key) for mark in seen.marks}
        for info in contents.store.list("tmp/"):
            if info.key not in notes and info.modified_at < contents.clock() - MARGIN:
                removal.delete(info.key)
        # Last, when what could be freed is free.
        copied = _copy_out(contents, seen, repack, pace, beat)
        contents.refresh()
        _forget_damage(contents, removal)
        emptied = set(repack).difference(name for name, _ in copied.left)
        return replace(
            now,
            waiting=(*now.waiting, *_just_marked((*mark, *emptied), seen.sizes, due_at)),
            mark=mark,
            mark_bytes=sum(seen.sizes[name] for name in mark),
            delete=tuple(sorted(deleted)),
            delete_bytes=sum(seen.sizes[name] for name in deleted),
            manifests=manifests,
            ripe_marks=tuple(sorted(ripe)),
            revive=tuple(sorted(revive)),
            expired_sessions=removed,
            repack=replace(now.repack, packs=repack),
            locked=tuple(removal.locked),
            copied_bytes=copied.stored_bytes,
            left=copied.left,
        )


def _just_marked(
    packs: Sequence[bytes], sizes: Mapping[bytes, int], due_at: datetime
) -> tuple[Waiting, ...]:
    if not packs:
        return ()
    return (Waiting(due_at, len(packs), sum(sizes[name] for name in packs)),)


def _put_mark(contents: Contents, seen: Look, packs: Sequence[bytes]) -> None:
    marked = {pack for mark in seen.marks for pack in mark.packs}
    new = [pack for pack in packs if pack not in marked]
    contents.records.put_marks(new, contents.clock())
    contents.index.retire(packs)


def _copy_out(
    contents: Contents, seen: Look, packs: Sequence[bytes], pace: Pace, beat: Beat
) -> Copied:
    if not packs:
        return Copied(0, ())
    sizes = dict(zip(seen.plan.repack.packs, seen.plan.repack.each_bytes, strict=True))
    pace.begin("Copying out of packs", sum(sizes[name] for name in packs))
    return copy_out(
        contents,
        seen.snapshot,
        seen.references.live,
        packs,
        beat=beat,
        on_copied=lambda name: pace.advance(sizes[name]),
    )


class _Removal:
    """Deletes objects; what a retention lock keeps is noted, and stays."""

    def __init__(self, contents: Contents, beat: Beat) -> None:
        self.contents = contents
        self.beat = beat
        self.locked: list[LockedObject] = []

    def delete(self, key: str) -> bool:
        """Whether it is gone."""
        self.beat()
        try:
            self.contents.store.delete(key)
        except StorageFailure as failure:
            if failure.code != "storage.locked":
                raise
            self.locked.append(LockedObject(key, str(failure)))
            return False
        return True


def _delete_packs(
    contents: Contents,
    packs: Set[bytes],
    sizes: Mapping[bytes, int],
    removal: _Removal,
    deletions: Deletions,
    pace: Pace,
) -> frozenset[bytes]:
    """Those that are gone. Index segments come first, so that none tells of what is not there."""
    pace.begin("Writing the index")
    told = rewrite_segments(contents, packs, beat=removal.beat) if packs else frozenset()
    if not packs and layout(contents).untidy:
        rewrite_segments(contents, packs, beat=removal.beat)
    for pack in sorted(packs & told):
        why = (
            "an index segment that tells of it is kept by a retention lock, or no list shows it yet"
        )
        removal.locked.append(LockedObject(pack_key(pack), why))
    gone = set()
    pace.begin("Deleting packs", sum(sizes[pack] for pack in packs - told))
    for pack in sorted(packs - told):
        deletions.note(packs)
        if removal.delete(pack_key(pack)):
            gone.add(pack)
        pace.advance(sizes[pack])
    return frozenset(gone)


def _settle_marks(
    seen: Look, ripe: Set[str], revive: Set[bytes], removal: _Removal, deletions: Deletions
) -> None:
    """Remove ripe marks of which no pack was listed when this run began. Until then the mark stays:
    a list that is late may still show a deleted pack, and nobody must refer to that. See `lately`.

    Packs that are needed after all are taken out of theirs: the others are marked anew, and the
    mark goes in a run to which the new one is old. So whoever lists marks before that run and
    reads them after it has seen one of the two, or misses the old one and looks for the new."""
    contents = removal.contents
    now = contents.clock()
    standing = {mark.key: mark for mark in seen.marks}
    for mark in [mark for mark in seen.marks if mark.key in ripe]:
        rest = {pack for pack in mark.packs if pack in seen.sizes and pack not in revive}
        others = [other for other in standing.values() if other.key != mark.key]
        if rest:
            if revive.isdisjoint(mark.packs):
                continue
            new = tuple(sorted(rest.difference(*(other.packs for other in others))))
            for fresh in contents.records.put_marks(new, now):
                standing[fresh.key] = fresh
            old = [other for other in others if other.at + CLOCK_SKEW <= now]
            if not rest <= {pack for other in old for pack in other.packs}:
                continue
        if deletions.settled(mark.key) and removal.delete(mark.key):
            del standing[mark.key]


def _forget_damage(contents: Contents, removal: _Removal) -> None:
    """Records of packs that are neither stored nor told of by the index: those are collected. A
    pack that is told of and missing may come back from a copy, as damaged as it was."""
    known = frozenset(contents.pack_sizes()).union(*contents.segments().values())
    for key, pack in contents.records.damaged_packs():
        if pack not in known:
            removal.delete(key)
