"""A copy whose target has marked as garbage, long ago, what the copied points need."""

from __future__ import annotations

import pytest
from copy_scene import ALL, CopyScene
from faulty_store import Call, FaultyStore
from paper_store import PaperStore, StaleLists
from vault_scene import FakeClock, Scene

from quiesce.model.failure import Failure
from quiesce.vault.copy.copying import execute_copy, plan_copy
from quiesce.vault.stores.store import Store


class Marked:
    """A target that has all packs, marked and ripe, and none of the points."""

    def __init__(self, clock: FakeClock, late_seconds: float = 0) -> None:
        self.clock = clock
        self.copies = CopyScene(clock)
        self.target = PaperStore(clock)
        self.copies.copy(self.target)
        for key in self.target.keys("points/"):
            self.target.delete(key)
        self.seen = StaleLists(self.target, clock, late_seconds)
        self.watched = FaultyStore(self.seen)
        clock.advance(hours=10)
        self.collected: list[int] = []
        self.collect()
        assert self.target.keys("garbage/")
        self.collected.clear()
        clock.advance(hours=30)

    def collect(self) -> None:
        vault = Scene.at(self.seen, self.clock).vault
        self.collected.append(len(vault.collect(vault.plan_collect()).delete))

    def collect_before_points_come(self, call: Call) -> None:
        if call.operation == "put" and call.key.startswith("points/"):
            self.collect()

    def copy_is_refused(self, store: Store, *, keyless: bool = False) -> str:
        with pytest.raises(Failure) as caught:
            self.copies.copy(store, keyless=keyless)
        assert caught.value.retryable
        assert self.target.keys("points/") == []
        return caught.value.code


@pytest.mark.parametrize("keyless", [False, True])
def test_a_copy_that_no_list_of_its_target_shows_yet_counts_on_nothing_there(
    clock: FakeClock, keyless: bool
) -> None:
    there = Marked(clock, late_seconds=3600)
    there.watched.before = there.collect_before_points_come
    assert there.copy_is_refused(there.watched, keyless=keyless) == "vault.copy-unseen"
    clock.advance(minutes=90)
    # What the first try left behind is seen by now, and stands for the second.
    assert there.copies.copy(there.watched, keyless=keyless).complete
    assert there.collected
    assert not any(there.collected)
    there.collect()
    clock.advance(hours=2)
    there.collect()
    assert there.copies.jobs_in(there.target) == ALL


def test_a_copy_stays_visible_while_it_renews_its_record(clock: FakeClock) -> None:
    there = Marked(clock, late_seconds=3600)
    there.copy_is_refused(there.watched)
    clock.advance(minutes=90)
    lost = there.target.keys("packs/")[0]
    there.target.delete(lost)  # something has to travel, which takes over an hour

    def before(call: Call) -> None:
        if call.operation == "put" and call.key == lost:
            clock.advance(minutes=70)
        there.collect_before_points_come(call)

    there.watched.before = before
    there.copies.copy(there.watched)
    assert there.collected
    assert not any(there.collected)
    assert there.copies.jobs_in(there.target) == ALL


def test_the_record_of_a_copy_stays_until_lists_show_its_points(clock: FakeClock) -> None:
    copies, target = CopyScene(clock), PaperStore(clock)
    late = StaleLists(target, clock, 3600)
    assert copies.copy(late).complete
    assert len(target.keys("sessions/")) == 1
    clock.advance(hours=2)
    assert copies.copy(late).complete
    clock.advance(hours=2)
    assert copies.copy(late).complete
    clock.advance(hours=30)
    vault = copies.opened(late).vault
    vault.collect(vault.plan_collect())
    assert target.keys("sessions/") == []


def test_a_lease_that_is_being_renewed_is_a_lease(clock: FakeClock) -> None:
    there = Marked(clock)
    records = there.copies.opened(there.target).vault.contents.records
    records.put("sessions/gc", "lease", {"at": clock(), "holder": "0" * 32})
    renewed = there.target.objects.pop("sessions/gc")
    seen: list[Call] = []

    def before(call: Call) -> None:
        if seen and seen[-1].key == "sessions/gc":
            there.target.objects["sessions/gc"] = renewed
        seen.append(call)

    there.watched.before = before
    assert there.copy_is_refused(there.watched) == "vault.collect-running"


@pytest.mark.parametrize("hours", [-30, 10])
def test_a_copy_takes_no_running_collection_for_dead_however_wrong_its_own_clock_is(
    clock: FakeClock, hours: int
) -> None:
    """It would count on what that collection is about to delete."""
    there = Marked(clock)
    copies = there.copies
    wrong = clock.seen_by(hours=hours)

    def copy() -> bool:
        keys = copies.here.vault.contents.keys
        plan = plan_copy(copies.source, there.target, keys=keys, clock=wrong)
        return execute_copy(plan, clock=wrong, packs_at_once=1).complete

    collecting = FaultyStore(there.target)

    def before(call: Call) -> None:
        if call.operation == "delete" and call.key.startswith("packs/"):
            with pytest.raises(Failure) as caught:
                copy()
            assert caught.value.code == "vault.collect-running"

    vault = Scene.at(collecting, clock).vault
    collecting.before = before
    assert vault.collect(vault.plan_collect()).delete
    assert copy()
    assert copies.jobs_in(there.target) == ALL


@pytest.mark.parametrize("keyless", [False, True])
def test_what_vanished_while_the_copy_looked_is_not_counted_on(
    clock: FakeClock, keyless: bool
) -> None:
    """A collection whose lease was just being renewed goes on, deletes and ends."""
    there = Marked(clock)

    looked: list[Call] = []

    def before(call: Call) -> None:
        if call.key == "sessions/gc":
            looked.append(call)
            if len(looked) == 2:
                for key in there.target.keys("packs/"):
                    there.target.delete(key)

    there.watched.before = before
    if not keyless:
        assert there.copy_is_refused(there.watched) == "vault.copy-unseen"
        there.watched.before = lambda call: None
    assert there.copies.copy(there.watched, keyless=keyless).complete
    assert there.copies.jobs_in(there.target) == ALL
