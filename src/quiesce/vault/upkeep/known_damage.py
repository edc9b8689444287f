"""Which points are hurt by what is known already, for whoever looks at a vault now and then."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
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
        """What a verification has found just now, which may be more than the index tells: a store
        may have refused its record. It stands until the vault changes."""
        with self._looking:
            self._contents.refresh()
            self._last = found
            self._seen = None if found.unseen else self._state(manifests, damaged)

    def look(
        self, manifests: Sequence[Manifest], damaged: Mapping[str, VaultFailure], budget: Budget
    ) -> DamageReport:
        """`manifests` and `damaged`, the failures of those that cannot be read, are of all points.
        Newest points are looked at first, as far as the budget reaches."""
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
        meter = Meter(budget)

        def check(parts: int) -> None:
            if meter.reserve(parts, 0):
                raise _Spent

        examiner = Examiner(contents, snapshot, check)
        done = seen
        try:
            for manifest in sorted(manifests, key=lambda m: m.point.taken_at, reverse=True):
                examiner.look_at(manifest)
        except _Spent:
            done = None  # the rest is worth another try
        found = examiner.result(newest_of_each_vm(manifests), lambda parts: None)
        unseen = len(manifests) - len(found.points)
        report = DamageReport.of((*found.points, *lost), now, unseen=unseen)
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
            self._contents.records.damage(),
        )
