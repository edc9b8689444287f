"""A vault with some points, a place to copy it to, and what a user sees of the copy."""

from __future__ import annotations

from paper_store import PaperStore
from vault_scene import KEY, FakeClock, Scene, disk_of

from quiesce.model.point import RecoveryPoint
from quiesce.vault import Vault
from quiesce.vault.copy.copying import CopyReport, execute_copy, plan_copy
from quiesce.vault.stores.store import Store

DISKS = {
    "web-1": disk_of(1, 2, 3, 0),
    "web-2": disk_of(1, 7, 3, 8),
    "db-1": disk_of(2, 30, 31),
}
ALL = set(DISKS)


class CopyScene:
    """`web-1`, `web-2` (an increment) and `db-1` are jobs; each point stands under its job."""

    def __init__(self, clock: FakeClock, source: Store | None = None) -> None:
        self.clock = clock
        self.source = source or PaperStore(clock)
        self.here = Scene.create(self.source, clock)
        self.points: dict[str, RecoveryPoint] = {}
        for job, base, changed in (
            ("web-1", "", None),
            ("web-2", "web-1", {"sda": {1, 3}}),
            ("db-1", "", None),
        ):
            clock.advance(minutes=1)
            self.points[job] = self.here.backup(
                job, DISKS[job], vm=job.partition("-")[0], base=base, changed=changed
            )

    def copy(
        self,
        target: Store,
        *,
        source: Store | None = None,
        keyless: bool = False,
        vms: tuple[str, ...] = (),
        points: tuple[str, ...] = (),
        newest: int | None = None,
        with_keys: bool = False,
    ) -> CopyReport:
        plan = plan_copy(
            source or self.source,
            target,
            keys=None if keyless else self.here.vault.contents.keys,
            vms=vms,
            points=tuple(self.points[job].id for job in points),
            newest=newest,
            with_keys=with_keys,
            clock=self.clock,
        )
        return execute_copy(plan, clock=self.clock, packs_at_once=1)

    def opened(self, target: Store) -> Scene:
        return Scene(Vault.open(target, KEY, clock=self.clock), self.clock)

    def jobs_in(self, target: Store) -> set[str]:
        """Jobs whose points the target has; each restores bit for bit, or this fails."""
        there = self.opened(target)
        for point in there.vault.points():
            assert there.restore(point) == DISKS[point.job_id]
        return {point.job_id for point in there.vault.points()}


def left_over(source: PaperStore, target: PaperStore) -> set[str]:
    """Objects of the target that have no place in a finished copy. Index segments are its own, and
    pieces in tmp/ are what a folder keeps of a write that died."""
    own = {key for key in target.objects if key.partition("/")[0] not in ("index", "tmp")}
    return own - source.objects.keys()
