"""Processes whose clocks are wrong, each by up to an hour: nobody takes anything from another."""

from __future__ import annotations

import pytest
from paper_store import PaperStore, StaleLists
from vault_scene import KEY, LABEL, FakeClock, Scene, disk_of

from quiesce.model.point import PointDisk
from quiesce.model.snapshot import Route
from quiesce.vault import Vault

DISK = disk_of(1, 2, 3)


@pytest.mark.parametrize("writer_minutes", [-60, 0, 60])
@pytest.mark.parametrize("collector_minutes", [-60, 0, 60])
@pytest.mark.parametrize("late_minutes", [0, 60])
def test_a_writer_keeps_what_it_counts_on_however_the_clocks_are_wrong(
    clock: FakeClock, writer_minutes: int, collector_minutes: int, late_minutes: int
) -> None:
    """It began just before the mark, is alive, and commits when the mark is long ripe."""
    store = PaperStore(clock)
    Scene.create(store, clock)
    seen = StaleLists(store, clock, late_minutes * 60)

    def host(minutes: int) -> Scene:
        wrong = clock.seen_by(minutes=minutes)
        return Scene(Vault.open(seen, KEY, clock=wrong), clock)

    scene = host(0)
    doomed = scene.backup("one", DISK)
    clock.advance(hours=2)
    host(0).delete(doomed)
    clock.advance(hours=12)
    writer = host(writer_minutes).vault.writer("web", "two")
    target = writer.disk("sda", len(DISK))
    for number in range(3):
        target.put(number, memoryview(DISK)[number * 131072 : (number + 1) * 131072])
    clock.advance(minutes=1)
    for _ in range(60):
        collector = host(collector_minutes).vault
        collector.collect(collector.plan_collect())
        clock.advance(minutes=30)
        writer._beat()
    point = writer.commit(
        taken_at=clock(),
        route=Route.HOST,
        consistency=LABEL,
        freeze=None,
        disks=(PointDisk("sda", len(DISK), "raw", "g", False),),
    )
    for _ in range(60):
        collector = host(collector_minutes).vault
        collector.collect(collector.plan_collect())
        clock.advance(minutes=30)
    assert Scene.at(store, clock).restore(point) == DISK


def test_a_late_list_keeps_no_backup_and_no_restore_from_a_pack_that_is_there(
    clock: FakeClock,
) -> None:
    store = PaperStore(clock)
    Scene.create(store, clock)
    seen = StaleLists(store, clock, 3600, lambda key: key.startswith("packs/"))
    scene = Scene.at(seen, clock)
    point = scene.backup("one", DISK)
    other = Scene.at(seen, clock)
    assert other.restore(point) == DISK
    again = other.backup("two", DISK, base="one", changed={"sda": set()})
    assert Scene.at(seen, clock).restore(again) == DISK
