"""Which points are hurt by what is known already, for whoever looks at a vault now and then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from quiesce.model.damage import DamageReport
from quiesce.model.failure import VaultFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.format.manifest import Manifest
from quiesce.vault.upkeep.budget import Budget, Meter
from quiesce.vault.upkeep.health import Examiner, lost_points, newest_of_each_vm


class _Spent(Exception):  # noqa: N818 - no error: the budget ended the walk
    pass


class KnownDamage:
    """Reads no chunk, and maps only while something is known to be missing or damaged, or points
    were hurt when they were last looked at, and only when the vault has changed since. What nobody
    has found yet is not in it: that takes a verification. Thread-safe; one look at a time."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._looking = threading.Lock()
        self._seen: object = None
        self._last: DamageReport | None = None

    def learn(
        self,
        found: DamageReport,
        manifests: Sequence[Manifest],
        damaged: Mapping[str, VaultFailure],
    ) -> None:
        """What a verification has found just now, which may be more than the index tells: a part
        of a map that cannot be read. It stands until the vault changes. One that has seen no damage
        and not all points says nothing."""
        if found.unseen and not found.hurt_points:
            return
        with self._looking:
            self._last = found
            self._seen = None if found.unseen else self._state(manifests, damaged)

    def look(
        self, manifests: Sequence[Manifest], damaged: Mapping[str, VaultFailure], budget: Budget
    ) -> DamageReport:
        """`manifests` and `damaged`, the failures of those that cannot be read, are of all points.
        Newest points are looked at first, as far as the budget reaches; what heals the damage is
        looked for with as many requests and bytes again, and a quarter of the time."""
        with self._looking:
            return self._look(manifests, damaged, budget)

    def _look(
        self, manifests: Sequence[Manifest], damaged: Mapping[str, VaultFailure], budget: Budget
    ) -> DamageReport:
        contents = self._contents
        contents.refresh()
        seen = self._state(manifests, damaged)
        now = contents.clock()
        if self._last is not None and self._seen == seen:
            return replace(self._last, at=now)
        hurt_before = self._last is not None and self._last.hurt_points > 0
        lost = lost_points(damaged)
        snapshot = contents.index.snapshot()
        if not (hurt_before or any(snapshot.losses())):
            report = replace(DamageReport.of(lost, now), looked_at=len(manifests) + len(lost))
            self._last, self._seen = report, seen
            return report
        examiner = Examiner(contents, snapshot, _within(budget))
        done = seen
        try:
            for manifest in sorted(manifests, key=lambda m: m.point.taken_at, reverse=True):
                examiner.look_at(manifest)
        except _Spent:
            done = None  # the rest is worth another try
        heals_known = True
        try:
            examiner.look_for_what_heals(newest_of_each_vm(manifests), _within(_quarter(budget)))
        except _Spent:
            heals_known, done = False, None
        found = examiner.result()
        unseen = len(manifests) - len(found.points)
        report = DamageReport.of((*found.points, *lost), now, unseen=unseen)
        report = replace(report, heals_known=heals_known)
        self._last, self._seen = report, done
        return report

    def _state(self, manifests: Sequence[Manifest], damaged: Mapping[str, VaultFailure]) -> object:
        """Equal as long as nothing has changed that tells which points are hurt."""
        snapshot = self._contents.index.snapshot()
        there = zip(snapshot.names, snapshot.present, strict=True)
        return (
            {manifest.point.id for manifest in manifests},
            set(damaged),
            {name for name, here in there if here},
            snapshot.damaged,
        )


def _within(budget: Budget) -> Callable[[int], None]:
    """To be called before so many parts of maps are read."""
    meter = Meter(budget)

    def check(parts: int) -> None:
        if meter.reserve(parts, 0):
            raise _Spent

    return check


def _quarter(budget: Budget) -> Budget:
    """A quarter of the time: a look takes little longer than its budget says."""
    return replace(budget, seconds=None if budget.seconds is None else budget.seconds / 4)
