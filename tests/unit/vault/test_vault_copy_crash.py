"""A copy that dies at any object, and beside whoever else works in either vault."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from copy_scene import ALL, CopyScene, left_over
from faulty_store import DEATHS, Call, Fault, FaultyStore, Killed, Rule
from paper_store import PaperStore
from vault_scene import FakeClock, disk_of

from quiesce.model.failure import Failure


@pytest.fixture(scope="module")
def copies() -> CopyScene:
    return CopyScene(FakeClock())


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that some points are committed while packs of others are still to come."""
    monkeypatch.setattr("quiesce.vault.copy.plan._BATCH_PACKS", 1)


def calls_of(copies: CopyScene, where: str, keyless: bool) -> int:
    source, target = FaultyStore(copies.source.copy()), FaultyStore(PaperStore(copies.clock))
    copies.copy(target, source=source, keyless=keyless)
    return len((source if where == "source" else target).log)


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("keyless", [False, True])
@pytest.mark.parametrize("where", ["source", "target"])
def test_killed_at_any_call_and_gone_on_with_nothing_is_lost_and_nothing_left_over(
    copies: CopyScene, where: str, keyless: bool, death: Fault
) -> None:
    calls = calls_of(copies, where, keyless)
    killed = 0
    for number in range(1, calls + 1):
        source, target = copies.source.copy(), PaperStore(copies.clock)
        dying = FaultyStore(source if where == "source" else target)
        dying.faults = lambda call, n=number: death if call.number == n else None
        # A call that is refused anyhow, such as a look at what is not there, has no "afterwards".
        with contextlib.suppress(Killed):
            copies.copy(
                target if where == "source" else dying,
                source=dying if where == "source" else source,
                keyless=keyless,
            )
        killed += dying.dead
        if target.keys("format"):
            copies.jobs_in(target)  # whatever has arrived is whole
        assert copies.copy(target, source=source, keyless=keyless).complete
        assert copies.jobs_in(target) == ALL
        assert left_over(source, target) == set()
        assert left_over(copies.source, source) == set()
        assert copies.opened(target).vault.plan_collect().mark == ()
    assert killed >= 12
    assert 4 * killed >= 3 * calls


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.PARTIAL, Fault.THROTTLED])
@pytest.mark.parametrize("prefix", ["sessions/", "keys/", "format", "packs/", "index/", "points/"])
def test_one_refused_write_ends_the_copy_and_the_next_try_brings_the_rest(
    copies: CopyScene, prefix: str, fault: Fault
) -> None:
    target = PaperStore(copies.clock)
    failing = FaultyStore(target)
    failing.rules.append(Rule("put", fault, prefix))
    with pytest.raises(Failure) as caught:
        copies.copy(failing)
    assert caught.value.retryable
    assert copies.copy(target).complete
    assert copies.jobs_in(target) == ALL


def during(copies: CopyScene, prefix: str, work: Callable[[PaperStore], None]) -> PaperStore:
    """Copy, and let `work` happen in the target right before the first put of `prefix`."""
    target = PaperStore(copies.clock)
    watched = FaultyStore(target)
    left = [work]

    def before(call: Call) -> None:
        if left and call.operation == "put" and call.key.startswith(prefix):
            left.pop()(target)

    watched.before = before
    copies.copy(watched)
    assert left == []
    return target


@pytest.mark.parametrize("keyless", [False, True])
def test_a_collection_in_the_target_takes_nothing_that_is_arriving(
    clock: FakeClock, keyless: bool
) -> None:
    """The worst case: packs were marked long ago, and their points come now."""
    copies = CopyScene(clock)
    target = PaperStore(clock)
    copies.copy(target)
    there = copies.opened(target)
    there.delete(*there.vault.points())
    clock.advance(hours=30)
    there.vault.collect(there.vault.plan_collect())  # marks the packs, drops the points
    clock.advance(hours=30)
    watched = FaultyStore(target)
    collected: list[int] = []

    def before(call: Call) -> None:
        if call.operation == "put" and call.key.startswith("points/") and not collected:
            collected.append(1)
            other = copies.opened(target).vault
            other.collect(other.plan_collect())

    watched.before = before
    copies.copy(watched, keyless=keyless)
    assert collected
    assert copies.jobs_in(target) == ALL
    copies.opened(target).collect_fully()
    assert copies.jobs_in(target) == ALL


def test_beside_a_collection_that_runs_in_the_target_a_copy_waits_for_another_time(
    copies: CopyScene,
) -> None:
    target = PaperStore(copies.clock)
    copies.copy(target)
    copies.opened(target).vault.contents.records.put(
        "sessions/gc", "lease", {"at": copies.clock(), "holder": "0" * 32}
    )
    with pytest.raises(Failure) as caught:
        copies.copy(target)
    assert caught.value.code == "vault.collect-running"
    assert target.keys("sessions/") == ["sessions/gc"]


@pytest.mark.parametrize("keyless", [False, True])
def test_a_collection_in_the_source_takes_nothing_that_is_still_to_be_read(
    clock: FakeClock, keyless: bool
) -> None:
    copies = CopyScene(clock)
    target, source = PaperStore(clock), FaultyStore(copies.source)
    done: list[int] = []

    def before(call: Call) -> None:
        if call.operation == "get" and call.key.startswith("packs/"):
            if not done:
                copies.here.delete(copies.points["web-1"])
            done.append(1)
            collected = copies.here.vault.collect(copies.here.vault.plan_collect())
            assert collected.delete == ()
            clock.advance(hours=14)  # under the day after which a record is of a dead one

    source.before = before
    report = copies.copy(target, source=source, keyless=keyless)
    assert len(done) >= 3
    assert not report.bad
    assert copies.jobs_in(target) >= {"web-2", "db-1"}
    copies.here.collect_fully()
    assert copies.jobs_in(copies.source) == {"web-2", "db-1"}


def test_a_backup_beside_a_copy_is_brought_by_the_next_one(clock: FakeClock) -> None:
    copies = CopyScene(clock)
    disk = disk_of(50, 51)

    def back_up(_: PaperStore) -> None:
        copies.here.backup("late", disk)

    target = during(copies, "packs/", back_up)
    assert copies.jobs_in(target) == ALL
    report = copies.copy(target)
    assert len(report.points) == 1
    assert copies.opened(target).restore(report.points[0]) == disk


def test_a_copy_that_slept_for_a_day_commits_nothing(clock: FakeClock) -> None:
    copies = CopyScene(clock)
    target = PaperStore(clock)
    watched = FaultyStore(target)

    def before(call: Call) -> None:
        if call.operation == "put" and call.key.startswith("index/"):
            clock.advance(hours=26)

    watched.before = before
    with pytest.raises(Failure) as caught:
        copies.copy(watched)
    assert caught.value.code == "vault.session-expired"
    assert caught.value.message.startswith("This copy gave no sign for so long that ")
    assert target.keys("points/") == []
    assert copies.copy(target).complete


def test_a_second_copy_between_the_same_places_takes_the_first_ones_place(
    clock: FakeClock,
) -> None:
    copies = CopyScene(clock)
    target = PaperStore(clock)
    watched = FaultyStore(target)
    second: list[int] = []

    def before(call: Call) -> None:
        if call.operation == "put" and call.key.startswith("index/") and not second:
            second.append(1)
            copies.copy(target)

    watched.before = before
    with pytest.raises(Failure) as caught:
        copies.copy(watched)
    assert caught.value.code == "vault.session-expired"
    assert caught.value.message.startswith("Another copy from and to the same places has begun")
    assert copies.jobs_in(target) == ALL
