"""Retention locks in the target of a copy, where it asks for them: before a point arrives, all that
it needs there is locked as long as if it were backed up now."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from quiesce.model.failure import Failure, VaultFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.manifests import Manifests
from quiesce.vault.format.manifest import DiskMapRef
from quiesce.vault.stores.locking import locking
from quiesce.vault.stores.store import ObjectMissing, Store
from quiesce.vault.upkeep.holding import hold_everything, hold_maps


class TargetLocks:
    """Of one copy. `here` and `there`, the source's contents and the target's, are None without a
    key: then all packs are locked."""

    def __init__(self, here: Contents | None, there: Contents | None, target: Store) -> None:
        self._here = here
        self._there = there
        self._target = target
        self._held: tuple[DiskMapRef, ...] = ()

    def hold(self, points: Iterable[str], beat: Callable[[], None]) -> dict[str, Failure]:
        """Those of these points that nothing was locked for, and why: the target does not have all
        that they need, or their manifest was not read; `ObjectMissing` when it is gone."""
        locks = locking(self._target)
        if locks is None or locks.terms() is None:
            return {}
        if self._here is None or self._there is None:
            hold_everything(self._target)
            return {}
        manifests = Manifests(self._here)
        maps: dict[str, tuple[DiskMapRef, ...]] = {}
        lost: dict[str, Failure] = {}
        for point_id in points:
            try:
                maps[point_id] = manifests.load(point_id).maps
            except (ObjectMissing, VaultFailure) as failure:
                lost[point_id] = failure
        together = tuple(part for each in maps.values() for part in each)
        if not together:
            return lost
        try:
            # What points share with each other, and with those before, is read once.
            hold_maps(self._there, together, self._held, beat)
        except VaultFailure:
            for point_id, each in maps.items():
                try:
                    hold_maps(self._there, each, self._held, beat)
                except VaultFailure as failure:
                    lost[point_id] = failure
        self._held = together
        return lost
