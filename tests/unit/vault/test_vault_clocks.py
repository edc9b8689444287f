"""Processes whose clocks are wrong, each by up to an hour: nobody takes anything from another."""

from __future__ import annotations

import pytest
from faulty_store import Call, Fault, FaultyStore, Rule
from paper_store import PaperStore, StaleLists
from vault_scene import KEY, FakeClock, Scene, disk_of, put_all

from quiesce.model.failure import Failure
from quiesce.vault import Vault
from quiesce.vault.format.pack import pack_key

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
    put_all(target, DISK)
    clock.advance(minutes=1)
    for _ in range(60):
        collector = host(collector_minutes).vault
        collector.collect(collector.plan_collect())
        clock.advance(minutes=30)
        writer._beat()
    point = scene.commit(writer, len(DISK))
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


def test_a_point_whose_commit_got_no_answer_is_kept_until_lists_show_it(clock: FakeClock) -> None:
    store = PaperStore(clock)
    Scene.create(store, clock)
    seen = StaleLists(store, clock, 3600)
    scene = Scene.at(seen, clock)
    doomed = scene.backup("one", DISK)
    clock.advance(hours=5)
    scene.delete(doomed)
    clock.advance(hours=5)
    host = FaultyStore(seen)
    writer = Scene.at(host, clock).vault.writer("mail", "two")
    put_all(writer.disk("sda", len(DISK)), DISK)
    clock.advance(minutes=90)
    scene.vault.collect(scene.vault.plan_collect())
    for _ in range(9):
        clock.advance(hours=3)
        writer._beat()
    host.rules.append(Rule("put", Fault.AFTER, "points/"))
    with pytest.raises(Failure):
        scene.commit(writer, len(DISK))
    writer.abandon()
    clock.advance(minutes=10)
    scene.vault.collect(scene.vault.plan_collect())
    clock.advance(hours=2)
    again = Scene.at(store, clock).vault.writer("mail", "two")
    assert again.committed is not None
    assert Scene.at(store, clock).restore(again.committed) == DISK


def test_a_late_list_makes_no_writer_forget_a_pack_that_no_segment_tells_of(
    clock: FakeClock,
) -> None:
    store = PaperStore(clock)
    Scene.create(store, clock)
    scene = Scene.at(StaleLists(store, clock, 3600), clock)
    writer = scene.vault.writer("web", "one")
    put_all(writer.disk("sda", len(DISK)), DISK)
    writer._stream.flush()
    clock.advance(minutes=1)
    scene.vault.status()
    scene.commit(writer, len(DISK))
    clock.advance(hours=2)
    contents = Scene.at(store, clock).vault.contents
    told = frozenset().union(*contents.segments().values())
    assert {pack_key(name) for name in told} == set(store.keys("packs/"))


def test_a_mark_is_no_older_than_its_store_says_however_slow_its_collectors_clock_is(
    clock: FakeClock,
) -> None:
    """By its own time it would be ripe at once, and older than the writer."""
    store = PaperStore(clock)
    scene = Scene.create(store, clock)
    doomed = scene.backup("one", DISK)
    clock.advance(days=10)
    scene.delete(doomed)
    clock.advance(days=5)
    host = Scene.at(store, clock)
    writer = host.vault.writer("web", "two")
    put_all(writer.disk("sda", len(DISK)), DISK)
    clock.advance(minutes=30)
    slow = Vault.open(store, KEY, clock=clock.seen_by(hours=-30))
    assert len(slow.collect(slow.plan_collect()).mark) == 1
    scene.vault.collect(scene.vault.plan_collect())
    point = host.commit(writer, len(DISK))
    assert Scene.at(store, clock).restore(point) == DISK


@pytest.mark.parametrize("hours", [-30, -10, 4, 10, 30])
def test_a_writer_whose_clock_is_off_by_hours_keeps_its_new_packs_and_those_it_counts_on(
    clock: FakeClock, hours: int
) -> None:
    """By its own time a fast one began after the mark, and long after its own packs were stored."""
    store = PaperStore(clock)
    scene = Scene.create(store, clock)
    doomed = scene.backup("one", DISK)
    clock.advance(days=5)
    scene.delete(doomed)
    clock.advance(days=5)
    host = Scene.at(store, clock)
    writer = Vault.open(store, KEY, clock=clock.seen_by(hours=hours)).writer("web", "two")
    disk = DISK + disk_of(7, 8)
    put_all(writer.disk("sda", len(disk)), disk)
    writer._stream.flush()
    for _ in range(60):
        clock.advance(minutes=31)
        collector = Scene.at(store, clock).vault
        assert not collector.collect(collector.plan_collect()).delete
        writer._beat()
    point = host.commit(writer, len(disk))
    assert Scene.at(store, clock).restore(point) == disk


def test_a_dead_writer_whose_clock_was_far_ahead_holds_back_no_collection_for_as_long(
    clock: FakeClock,
) -> None:
    store = PaperStore(clock)
    scene = Scene.create(store, clock)
    doomed = scene.backup("one", DISK)
    scene.backup("two", disk_of(7))
    Vault.open(store, KEY, clock=clock.seen_by(days=400)).writer("web", "dead")
    scene.delete(doomed)
    deleted = 0
    for _ in range(4):
        clock.advance(days=5)
        deleted += len(scene.vault.collect(scene.vault.plan_collect()).delete)
    assert deleted
    assert not store.keys("sessions/")


def test_a_writer_that_a_collector_takes_for_dead_as_it_begins_says_so(clock: FakeClock) -> None:
    store = PaperStore(clock)
    Scene.create(store, clock)
    collector = Scene.at(store, clock).vault
    host = FaultyStore(store)
    there = Scene.at(host, clock)

    def before(call: Call) -> None:
        if call.operation == "stat" and call.key.startswith("sessions/"):
            clock.advance(hours=48)  # its machine sleeps
            collector.collect(collector.plan_collect())

    host.before = before
    with pytest.raises(Failure) as caught:
        there.vault.writer("web", "one")
    assert caught.value.code == "vault.session-expired"


def test_a_collector_whose_clock_is_hours_ahead_changes_nothing_and_says_so(
    clock: FakeClock,
) -> None:
    store = PaperStore(clock)
    scene = Scene.create(store, clock)
    scene.delete(scene.backup("one", DISK))
    clock.advance(days=5)
    ahead = Vault.open(store, KEY, clock=clock.seen_by(hours=4))
    plan, before = ahead.plan_collect(), store.keys("")
    with pytest.raises(Failure) as refused:
        ahead.collect(plan)
    assert refused.value.code == "vault.clock-ahead"
    assert store.keys("") == before
    nearly_right = Vault.open(store, KEY, clock=clock.seen_by(hours=2))
    assert nearly_right.collect(plan).mark
