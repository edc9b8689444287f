"""Of a mark one pack is needed again: the others stay marked for whoever looks, at any time."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from faulty_store import Call, Fault, FaultyStore, Rule
from paper_store import PaperStore, StaleLists
from repack_scene import packs
from vault_scene import FakeClock, Scene, disk_of, put_all

from quiesce.vault.contents import records
from quiesce.vault.contents.records import PACKS_IN_MARK
from quiesce.vault.format.config import CHUNK_BYTES
from quiesce.vault.format.sealed import LIMIT_BYTES
from quiesce.vault.upkeep.collect_plan import CollectPlan

NEEDED_AGAIN, GARBAGE = disk_of(1, 2, 3), disk_of(4, 5, 6)
SIZE = 3 * CHUNK_BYTES


class TwoMarked:
    """Two packs under one mark that is ripe; a point that came meanwhile needs the one of them."""

    def __init__(self, clock: FakeClock, late_seconds: float = 0) -> None:
        self.clock = clock
        self.store = PaperStore(clock)
        Scene.create(self.store, clock)
        self.seen = StaleLists(self.store, clock, late_seconds)
        self.gate = FaultyStore(self.seen)
        self.collector = Scene.at(self.gate, clock)
        clock.advance(hours=2)
        doomed = [self.collector.backup(str(n), d) for n, d in enumerate((NEEDED_AGAIN, GARBAGE))]
        clock.advance(hours=5)
        self.collector.delete(*doomed)
        clock.advance(hours=5)
        earlier = Scene.at(self.seen, clock)
        writer = earlier.vault.writer("web", "before the mark")
        put_all(writer.disk("sda", SIZE), NEEDED_AGAIN)
        clock.advance(hours=1)
        assert len(self.collect().mark) == 2
        clock.advance(hours=1)
        self.door = FaultyStore(self.seen)
        self.service = Scene.at(self.door, clock)  # has the index of both packs open from here on
        self.kept = earlier.commit(writer, SIZE, "kept")
        clock.advance(hours=30)

    def collect(self) -> CollectPlan:
        return self.collector.vault.collect(self.collector.vault.plan_collect())

    def restored(self, point: str) -> bytes:
        return Scene.at(self.store, self.clock).restore(point)


def test_whoever_reads_the_marks_while_one_is_trimmed_sees_what_stays_marked(
    clock: FakeClock,
) -> None:
    """The list shows the mark before, the reading comes after; a lock keeps its pack till then."""
    two = TwoMarked(clock)
    two.gate.rules.append(Rule("delete", Fault.LOCKED, "packs/", at=0))
    trimmed: list[CollectPlan] = []

    def trim(call: Call) -> None:
        if call.operation == "get" and call.key.startswith("garbage/") and not trimmed:
            trimmed.append(two.collect())

    two.door.before = trim
    clock.advance(minutes=1)
    writer = two.service.vault.writer("new", "after the mark")
    assert len(trimmed[0].revive) == len(trimmed[0].locked) == 1
    put_all(writer.disk("sda", SIZE), GARBAGE)
    clock.advance(hours=1)
    two.gate.rules.clear()
    assert len(two.collect().delete) == 1
    point = two.service.commit(writer, SIZE, "new")
    clock.advance(hours=2)
    assert two.restored(point.id) == GARBAGE
    assert two.restored(two.kept.id) == NEEDED_AGAIN


def test_a_late_list_shows_what_was_deleted_when_its_mark_was_trimmed_as_marked(
    clock: FakeClock,
) -> None:
    two = TwoMarked(clock, late_seconds=3600)
    collected = two.collect()
    assert len(collected.revive) == len(collected.delete) == 1
    clock.advance(minutes=10)
    writer = two.service.vault.writer("new", "after the mark")
    put_all(writer.disk("sda", SIZE), GARBAGE)
    clock.advance(hours=1)
    point = two.service.commit(writer, SIZE, "new")
    clock.advance(hours=2)
    assert two.restored(point.id) == GARBAGE


def test_who_slept_between_list_and_reading_looks_for_the_mark_that_took_the_others_place(
    clock: FakeClock,
) -> None:
    two = TwoMarked(clock, late_seconds=3600)
    lock = Rule("delete", Fault.LOCKED, "packs/", at=0)
    two.gate.rules.append(lock)
    slept: list[CollectPlan] = []

    def sleep(call: Call) -> None:
        if call.operation == "get" and call.key.startswith("garbage/") and not slept:
            slept.append(two.collect())
            clock.advance(hours=4)
            two.gate.rules.clear()
            slept.append(two.collect())

    two.door.before = sleep
    writer = two.service.vault.writer("new", "after the mark")
    assert [len(plan.delete) for plan in slept] == [0, 1]
    put_all(writer.disk("sda", SIZE), GARBAGE)
    point = two.service.commit(writer, SIZE, "new")
    clock.advance(hours=2)
    assert two.restored(point.id) == GARBAGE


@pytest.mark.parametrize("hours", [1, 3, 30])
@pytest.mark.parametrize("packs_in_mark", [1, PACKS_IN_MARK])
def test_a_trimmed_mark_goes_in_the_end_and_what_it_named_too(
    clock: FakeClock, hours: int, packs_in_mark: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "PACKS_IN_MARK", packs_in_mark)
    two = TwoMarked(clock)
    for _ in range(200 // hours):
        two.collect()
        clock.advance(hours=hours)
    assert two.store.keys("garbage/") == []
    assert len(two.store.keys("packs/")) == 1
    assert two.restored(two.kept.id) == NEEDED_AGAIN


def test_of_two_marks_that_name_the_same_packs_one_stays_while_a_pack_of_them_is_there(
    clock: FakeClock,
) -> None:
    two = TwoMarked(clock)
    records = two.collector.vault.contents.records
    (mark,) = records.garbage()
    values = {"at": mark.at, "packs": [pack.hex() for pack in mark.packs]}
    records.put("garbage/twin", "garbage", values)
    two.gate.rules.append(Rule("delete", Fault.LOCKED, "packs/", at=0))
    for _ in range(4):
        kept = two.collect()
        assert len(kept.locked) == 1
        locked = kept.locked[0].key.rpartition("/")[2]
        marked = {pack.hex() for mark in records.garbage() for pack in mark.packs}
        assert locked in marked
        clock.advance(hours=30)


class CollectedTwice:
    """A pack was deleted this minute, and another collection, whose list does not show it any
    more, has run since. Others' lists show it still."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.store = PaperStore(clock)
        self.point = Scene.create(self.store, clock).backup("first", GARBAGE)
        self.seen = StaleLists(self.store, clock, 3600, lambda key: key.startswith("packs/"))
        self.service = Scene.at(self.seen, clock)  # has the index open from here on
        self.prompt = Scene.at(self.store, clock)
        self.prompt.delete(self.point)
        clock.advance(hours=30)
        assert len(self.collect(self.prompt).mark) == 1
        clock.advance(hours=30)
        assert len(self.collect(Scene.at(self.seen, clock)).delete) == 1
        self.collect(self.prompt)

    def collect(self, scene: Scene) -> CollectPlan:
        return scene.vault.collect(scene.vault.plan_collect())


def test_what_a_late_list_shows_after_a_second_collection_is_not_relied_on(
    clock: FakeClock,
) -> None:
    twice = CollectedTwice(clock)
    point = twice.service.backup("second", GARBAGE)
    clock.advance(hours=2)
    assert Scene.at(twice.store, clock).restore(point) == GARBAGE


def test_marks_go_when_no_list_can_show_their_packs_any_more_and_nothing_is_left(
    clock: FakeClock,
) -> None:
    twice = CollectedTwice(clock)
    assert len(twice.store.keys("garbage/")) == 1
    clock.advance(hours=2)
    twice.collect(twice.prompt)
    assert len(twice.store.keys("garbage/")) == 1
    clock.advance(hours=2)
    twice.collect(twice.prompt)
    assert twice.store.keys("garbage/") == twice.store.keys("tmp/") == []


def test_the_time_of_a_deletion_stays_known_while_a_list_shows_that_of_an_earlier_one(
    clock: FakeClock,
) -> None:
    """A lock keeps one of two packs under a mark; what lies below tmp/ for a day is cleared."""
    store = PaperStore(clock)
    scene = Scene.create(StaleLists(store, clock, 3600, lambda key: key.startswith("tmp/")), clock)
    scene.delete(*(scene.backup(str(n), disk) for n, disk in enumerate((NEEDED_AGAIN, GARBAGE))))
    for deleted in (0, 1, 1):
        clock.advance(hours=30)
        if deleted == 0:
            store.kept_until[store.keys("packs/")[0]] = clock() + timedelta(hours=40)
        assert len(scene.vault.collect(scene.vault.plan_collect()).delete) == deleted
    assert [store.stat(key).modified_at for key in store.keys("tmp/")] == [clock()]


def test_a_collection_right_after_another_ends_well_though_lists_show_what_that_one_replaced(
    clock: FakeClock,
) -> None:
    late = StaleLists(
        PaperStore(clock), clock, 3600, lambda key: key.startswith(("packs", "index"))
    )
    scene = Scene.create(late, clock)
    kept = scene.backup("kept", NEEDED_AGAIN)
    scene.delete(scene.backup("first", GARBAGE))
    for hours, deleted in ((30, 0), (30, 1), (0, 0)):
        clock.advance(hours=hours)
        done = scene.vault.collect(scene.vault.plan_collect())
        assert len(done.delete) == deleted
    assert [pack.why for pack in done.locked] == [
        "an index segment that tells of it is kept by a retention lock, or no list shows it yet"
    ]
    assert scene.restore(kept) == NEEDED_AGAIN


def test_much_garbage_takes_several_marks_and_goes_as_that_of_one(
    web_and_mail: Scene, paper: PaperStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single mark of 12 TB was refused, and with it every later collection."""
    monkeypatch.setattr(records, "PACKS_IN_MARK", 2)
    scene = web_and_mail
    stored = packs(scene)
    scene.clock.advance(hours=4)
    scene.delete(*scene.vault.points())
    scene.clock.advance(hours=4)
    marked = scene.vault.collect(scene.vault.plan_collect()).mark
    assert len(marked) == len(stored) > 2
    told = scene.vault.contents.records.garbage()
    assert sorted(pack for mark in told for pack in mark.packs) == sorted(marked)
    assert {len(mark.packs) for mark in told} <= {1, 2}
    assert scene.reopened().vault.plan_collect().mark == ()
    scene.collect_fully()
    assert packs(scene) == set()
    scene.collect_fully()
    assert paper.keys("garbage/") == []


def test_a_mark_of_the_most_packs_can_be_stored() -> None:
    told = len(json.dumps({"packs": ["00" * 32] * 1000})) // 1000 + 1
    assert PACKS_IN_MARK * told < LIMIT_BYTES // 8
