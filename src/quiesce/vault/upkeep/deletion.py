"""Deleting recovery points: a plan with its figures, then its execution.

Execution stores one small record per point; from then on the point is gone for everybody.
Manifest and data are removed later by garbage collection (`collect`), which waits for writers
that took the point as their base. Points do not depend on each other: any may be deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from quiesce.model.failure import NotFoundFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.reserve import reserve_kept_afterwards
from quiesce.vault.format.manifest import Manifest
from quiesce.vault.upkeep.pace import Pace, Show, unseen
from quiesce.vault.upkeep.pack_check import stop_if
from quiesce.vault.upkeep.references import References


@dataclass(frozen=True, slots=True)
class DeletionPlan:
    """What a deletion removes; nothing has happened yet.

    `freed_bytes` are packs that only these points need; what they share with points that stay
    is not counted. `unreadable` names those of the points whose manifest or map is damaged: then
    `freed_bytes` is too low.
    """

    point_ids: tuple[str, ...]
    points_left: int
    freed_bytes: int
    unreadable: tuple[str, ...]
    planned_at: datetime


def plan_deletion(
    contents: Contents,
    manifests: Sequence[Manifest],
    damaged: Sequence[str],
    point_ids: Sequence[str],
    *,
    on_progress: Show = unseen,
    cancelled: Callable[[], bool] = lambda: False,
) -> DeletionPlan:
    """`manifests` are all readable points, `damaged` the ids of the others.

    :raise NotFoundFailure: vault.point-unknown
    :raise JobFailure: job.cancelled
    """
    wanted = tuple(dict.fromkeys(point_ids))
    known = {manifest.point.id for manifest in manifests} | set(damaged)
    for point_id in wanted:
        if point_id not in known:
            raise NotFoundFailure(
                "vault.point-unknown", f"The vault has no recovery point {point_id!r}."
            )
    contents.refresh()
    snapshot = contents.index.snapshot()
    references = References(contents, snapshot)
    unreadable = {point_id for point_id in wanted if point_id in damaged}
    pace = Pace(on_progress)
    pace.begin("Looking at points", sum(m.point.size_bytes for m in manifests))

    def each(*, going: bool) -> Iterator[Manifest]:
        for manifest in manifests:
            if (manifest.point.id in wanted) is going:
                stop_if(cancelled)
                yield manifest
                pace.advance(manifest.point.size_bytes)

    unreadable |= references.add_readable(each(going=False))
    needed = references.live_packs()
    unreadable |= references.add_readable(each(going=True))
    sizes = dict(zip(snapshot.names, snapshot.sizes, strict=True))
    return DeletionPlan(
        point_ids=wanted,
        points_left=len(known) - len(wanted),
        freed_bytes=sum(sizes[pack] for pack in references.live_packs() - needed),
        unreadable=tuple(sorted(unreadable.intersection(wanted))),
        planned_at=contents.clock(),
    )


def execute_deletion(contents: Contents, plan: DeletionPlan) -> None:
    """Idempotent. Works in a store without a free byte, too: that is when it is wanted most."""
    with reserve_kept_afterwards(contents):
        for point_id in plan.point_ids:
            values = {"at": contents.clock()}
            contents.records.put_for_upkeep(f"deleted/{point_id}", "deleted", values)
