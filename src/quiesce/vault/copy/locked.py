"""Retention locks in the target of a copy, where it asks for them: before a point arrives, all that
it needs there is locked as long as if it were backed up now."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from quiesce.model.failure import Failure, VaultFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.manifests import Manifests
from quiesce.vault.stores.locking import locking
from quiesce.vault.stores.store import ObjectMissing, Store
from quiesce.vault.upkeep.holding import hold_everything, hold_maps


def hold_points(
    here: Contents | None,
    there: Contents | None,
    target: Store,
    points: Iterable[str],
    beat: Callable[[], None],
) -> dict[str, Failure]:
    """`here` and `there`, the source's contents and the target's, are None without a key: then all
    packs are locked. The points of which the target does not have all, and why."""
    if locking(target) is None:
        return {}
    if here is None or there is None:
        hold_everything(target)
        return {}
    manifests = Manifests(here)
    lost: dict[str, Failure] = {}
    for point_id in points:
        try:
            maps = manifests.load(point_id).maps
        except (ObjectMissing, VaultFailure):
            continue  # deleted or damaged since it was looked at: it does not arrive
        try:
            hold_maps(there, maps, (), beat)
        except VaultFailure as failure:
            lost[point_id] = failure
    return lost
