"""A host that may add and read, and delete nothing: who takes it over destroys no backup."""

from __future__ import annotations

import pytest
from faulty_store import Fault, FaultyStore, Rule
from paper_store import PaperStore
from vault_scene import FakeClock, Scene, disk_of

from quiesce.model.failure import Failure


@pytest.fixture
def store(clock: FakeClock) -> PaperStore:
    return PaperStore(clock)


def append_only(store: PaperStore) -> FaultyStore:
    host = FaultyStore(store)
    host.rules.append(Rule("delete", Fault.LOCKED, at=0))
    return host


def test_a_host_that_may_not_delete_backs_up_for_hours_and_again(
    store: PaperStore, clock: FakeClock
) -> None:
    Scene.create(store, clock)
    host = append_only(store)
    host.before = lambda call: clock.advance(minutes=20)
    scene = Scene.at(host, clock)
    first = scene.backup("first", disk_of(1, 2))
    again = scene.backup("second", disk_of(1, 3), base="first", changed={"sda": {1}})
    assert host.shown[Fault.LOCKED] >= 2
    assert len(store.keys("sessions/")) > 2
    assert scene.reopened().restore(first) == disk_of(1, 2)
    assert scene.reopened().restore(again) == disk_of(1, 3)


def test_a_job_that_runs_again_needs_no_deletion_either(
    store: PaperStore, clock: FakeClock
) -> None:
    Scene.create(store, clock)
    for change in range(1, 4):
        host = append_only(store)
        host.rules.append(Rule("put", Fault.KILLED_AFTER, at=change))
        with pytest.raises(BaseException) as died:
            Scene.at(host, clock).backup("one", disk_of(1, 2))
        assert not isinstance(died.value, Failure)
    scene = Scene.at(append_only(store), clock)
    assert scene.restore(scene.backup("one", disk_of(1, 2))) == disk_of(1, 2)


def test_what_a_host_left_is_cleared_up_by_whoever_may(store: PaperStore, clock: FakeClock) -> None:
    scene = Scene.create(store, clock)
    host = Scene.at(append_only(store), clock)
    kept, gone = host.backup("kept", disk_of(1)), host.backup("gone", disk_of(7))
    assert store.keys("sessions/")
    scene.delete(gone)
    scene.collect_fully()
    assert store.keys("sessions/") == []
    assert len(store.keys("packs/")) == 1
    assert Scene.at(store, clock).restore(kept) == disk_of(1)
