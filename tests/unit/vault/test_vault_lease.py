"""Who collects garbage is left to it, and who died is not waited for, whatever any clock says; and
what a plan, a deletion or a retention policy may make of that."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from copy_scene import ALL
from faulty_store import Call, Fault, FaultyStore, Killed, Rule
from paper_store import PaperStore
from test_vault_copy_marked import Marked
from vault_scene import KEY, FakeClock, Scene, disk_of, put_all

from quiesce.model.failure import Failure, VaultFailure
from quiesce.model.point import PointDisk
from quiesce.model.snapshot import Route
from quiesce.vault import Vault
from quiesce.vault.contents.lease import Lease
from quiesce.vault.contents.records import LEASE_KEY
from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.store import Put

DISK = disk_of(1, 2, 3)

Work = Callable[[Vault], object]


def collect(vault: Vault) -> None:
    vault.collect(vault.plan_collect())


def rebuild(vault: Vault) -> None:
    vault.rebuild_index()


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(VaultFailure) as caught:
        work()
    return caught.value.code


# ── who lives ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("collector_hours", [-240, -7, 0])
@pytest.mark.parametrize("other_hours", [0, 7, 240])
@pytest.mark.parametrize("work", [collect, rebuild])
def test_a_running_collection_keeps_its_lease_and_copies_wait_however_wrong_clocks_are(
    clock: FakeClock, collector_hours: int, other_hours: int, work: Work
) -> None:
    """Else the copy counts on what that collection is about to delete."""
    there = Marked(clock)
    clock.advance(days=20)  # the marks are old to the slowest
    copies = there.copies
    watched = FaultyStore(there.target)
    collector = Vault.open(watched, KEY, clock=clock.seen_by(hours=collector_hours))
    refused: list[str] = []

    def before(call: Call) -> None:
        if call.operation == "delete" and call.key.startswith("packs/") and not refused:
            other = Vault.open(there.target, KEY, clock=clock.seen_by(hours=other_hours))
            lease = there.target.objects[LEASE_KEY]
            refused.append(refusal(lambda: work(other)))
            assert there.target.objects[LEASE_KEY] == lease
            refused.append(refusal(lambda: copies.copy(there.target)))

    watched.before = before
    assert collector.collect(collector.plan_collect()).delete
    ahead = work is collect and other_hours
    why = "vault.clock-ahead" if ahead else "vault.collect-running"
    assert refused == [why, "vault.collect-running"]
    assert copies.copy(there.target).complete
    assert copies.jobs_in(there.target) == ALL


@pytest.mark.parametrize("hours", [-240, 0, 24 * 365])
def test_the_lease_of_a_dead_rebuilding_lasts_six_hours_by_the_store_whatever_its_clock_said(
    scene: Scene, clock: FakeClock, hours: int
) -> None:
    scene.delete(scene.backup("one", DISK))
    clock.advance(days=2)
    dying = FaultyStore(scene.store)
    dying.rules.append(Rule("put", Fault.KILLED_AFTER, "index/"))
    vault = Vault.open(dying, KEY, clock=clock.seen_by(hours=hours))
    with pytest.raises(Killed):
        vault.rebuild_index()
    clock.advance(hours=5, minutes=59)
    assert refusal(lambda: collect(scene.reopened().vault)) == "vault.collect-running"
    clock.advance(minutes=1)
    collect(scene.reopened().vault)
    rebuild(scene.reopened().vault)
    assert [info.key for info in scene.store.list("sessions/")] == []


def test_a_lease_that_ends_while_it_is_looked_at_is_nobodys_to_remove(clock: FakeClock) -> None:
    """By then a third may hold the next."""
    store = PaperStore(clock)
    scene = Scene.create(store, clock)
    scene.vault.contents.records.put(LEASE_KEY, "lease", {"at": clock(), "holder": "0" * 32})
    clock.advance(hours=7)
    host = FaultyStore(store)
    collector = Scene.at(host, clock).vault

    def before(call: Call) -> None:
        if call.operation == "stat" and call.key == LEASE_KEY:
            store.delete(LEASE_KEY)

    host.before = before
    assert refusal(lambda: collect(collector)) == "vault.collect-running"
    assert LEASE_KEY not in host.deletes
    host.before = lambda call: None
    collect(collector)


def test_of_two_that_take_over_one_dead_lease_at_once_the_one_that_lost_it_stops_in_a_minute(
    clock: FakeClock,
) -> None:
    store = PaperStore(clock)
    Scene.create(store, clock).vault.contents.records.put_for_upkeep(LEASE_KEY, "lease", {})
    clock.advance(hours=7)
    slower = FaultyStore(store)
    quicker: list[Lease] = []

    def before(call: Call) -> None:
        if call.operation == "delete" and call.key == LEASE_KEY and not quicker:
            quicker.append(Lease(Scene.at(store, clock).vault.contents))

    slower.before = before
    holder = Lease(Scene.at(slower, clock).vault.contents)
    clock.advance(seconds=61)
    assert refusal(quicker[0].beat) == "vault.collect-running"
    quicker[0].release()
    holder.beat()


def test_what_tells_the_time_of_the_store_is_removed_and_takes_kept_back_space_if_it_must(
    clock: FakeClock,
) -> None:
    store = PaperStore(clock)
    scene = Scene.create(store, clock)
    scene.delete(scene.backup("one", DISK))
    clock.advance(days=2)
    scene.vault.contents.records.put(LEASE_KEY, "lease", {"at": clock(), "holder": "0" * 32})
    clock.advance(hours=7)
    full = FaultyStore(store)
    full.rules += [Rule("put", Fault.FULL, "tmp/", 1), Rule("put", Fault.FULL, "tmp/", 3)]
    collector = Scene.at(full, clock).vault
    assert collector.collect(collector.plan_collect()).mark
    assert full.calls["give_back_reserve"] >= 2
    assert sum(key.startswith("tmp/") for key in full.puts) == 2
    assert store.keys("tmp/") == []


def test_a_collection_that_dies_over_the_time_of_the_store_leaves_nothing_for_long(
    clock: FakeClock,
) -> None:
    store = PaperStore(clock)
    scene = Scene.create(store, clock)
    dying = FaultyStore(store)
    there = Scene.at(dying, clock).vault
    dying.rules.append(Rule("put", Fault.KILLED_AFTER, "tmp/"))
    with pytest.raises(Killed):
        collect(there)
    assert len(store.keys("tmp/")) == 1
    scene.collect_fully()
    assert store.keys("tmp/") == []


def test_a_collection_that_stands_still_over_the_time_of_the_store_says_that_another_came(
    clock: FakeClock,
) -> None:
    store = PaperStore(clock)
    Scene.create(store, clock)
    host = FaultyStore(store)
    sleepy = Scene.at(host, clock).vault
    other = Scene.at(store, clock).vault

    def before(call: Call) -> None:
        if call.operation == "stat" and call.key.startswith("tmp/"):
            clock.advance(hours=30)
            collect(other)

    host.before = before
    assert refusal(lambda: collect(sleepy)) == "vault.collect-running"


# ── who stands still ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("passes", "jumps"),
    [(5, 0), (30, 0), (0, -7), (0, 7)],
    ids=["stands still", "sleeps", "set back", "set ahead"],
)
def test_a_collection_whose_lease_others_may_think_dead_stops_though_nobody_took_it(
    clock: FakeClock, passes: int, jumps: int
) -> None:
    """A copy that found the lease old counts on what is marked."""
    store = PaperStore(clock)
    scene = Scene.create(store, clock)
    scene.delete(*[scene.backup(f"job-{n}", disk_of(10 * n + 1)) for n in range(3)])
    clock.advance(hours=30)
    collect(scene.vault)
    clock.advance(hours=60)
    watched = FaultyStore(store)
    wrong_by = [0]
    vault = Vault.open(watched, KEY, clock=lambda: clock.now + timedelta(hours=wrong_by[0]))

    def before(call: Call) -> None:
        if call.operation == "delete" and call.key.startswith("packs/"):
            clock.advance(hours=passes)
            wrong_by[0] = jumps

    watched.before = before
    plan = vault.plan_collect()
    assert len(plan.delete) == 3
    assert refusal(lambda: vault.collect(plan)) == "vault.collect-running"
    assert len(store.keys("packs/")) == 2
    assert LEASE_KEY not in store.objects
    scene.reopened().collect_fully()
    assert store.keys("packs/") == []


# ── plans and deletions by wrong clocks ──────────────────────────────────────────────────────────


def test_a_plan_of_a_clock_that_was_set_right_since_takes_no_living_writer_for_dead(
    clock: FakeClock,
) -> None:
    store = PaperStore(clock)
    scene = Scene.create(store, clock)
    dead = Scene.at(store, clock).vault.writer("mail", "dead")
    clock.advance(days=3)
    writer = scene.vault.writer("web", "two")
    put_all(writer.disk("sda", len(DISK)), DISK)
    wrong_by = [30]
    collector = Vault.open(store, KEY, clock=lambda: clock.now + timedelta(hours=wrong_by[0]))
    plan = collector.plan_collect()
    assert len(plan.expired_sessions) == 2
    wrong_by[0] = 0
    assert collector.collect(plan).expired_sessions == (dead._session,)
    assert dead._session not in store.objects
    point = scene.commit(writer, len(DISK))
    assert Scene.at(store, clock).restore(point) == DISK


@pytest.mark.parametrize("hours", [-30, 24 * 365])
def test_a_point_deleted_by_a_wrong_clock_stays_for_writers_from_before_and_no_longer(
    clock: FakeClock, hours: int
) -> None:
    """It may be the base of one; and somebody writes at any time."""
    store = PaperStore(clock)
    scene = Scene.create(store, clock)
    base = scene.backup("one", DISK)
    clock.advance(days=5)
    writer = Scene.at(store, clock).vault.writer("web", "two")
    writer.disk("sda", len(DISK), base_generation="one")
    clock.advance(hours=1)
    wrong = Vault.open(store, KEY, clock=clock.seen_by(hours=hours))
    wrong.execute(wrong.plan_deletion([base.id]))
    for _ in range(4):
        clock.advance(hours=10)
        writer._beat()
        collector = Scene.at(store, clock).vault
        plan = collector.collect(collector.plan_collect())
        assert (plan.manifests, plan.held_points) == ((), 1)
    Scene.at(store, clock).vault.writer("mail", "three")
    point = writer.commit(
        taken_at=clock(),
        route=Route.HOST,
        consistency=base.consistency,
        freeze=None,
        disks=(PointDisk("sda", len(DISK), "raw", "two", True),),
    )
    assert Scene.at(store, clock).restore(point) == DISK
    clock.advance(hours=1)
    collector = Scene.at(store, clock).vault
    assert collector.collect(collector.plan_collect()).manifests == (base.id,)


# ── retention policies ───────────────────────────────────────────────────────────────────────────


class UnderPolicy(PaperStore):
    """A container whose policy keeps every object for 30 days from when it was put."""

    def put(self, key: str, data: Buffer) -> Put:
        put = super().put(key, data)
        self.kept_until[key] = self._until(key)
        return put

    def _until(self, key: str) -> datetime:
        return self.objects[key][1] + timedelta(days=30)


@pytest.mark.parametrize("work", [collect, rebuild])
def test_where_a_policy_keeps_the_lease_garbage_waits_for_it_and_backups_go_on(
    clock: FakeClock, work: Work
) -> None:
    store = UnderPolicy(clock)
    scene = Scene.create(store, clock)
    first = scene.backup("one", DISK)
    scene.delete(first)
    clock.advance(days=2)
    collect(scene.reopened().vault)
    assert refusal(lambda: work(scene.reopened().vault)) == "vault.collect-running"
    for day in range(3):
        clock.advance(days=1)
        assert refusal(lambda: work(scene.reopened().vault)) == "vault.lease-locked"
        point = scene.reopened().backup(f"later-{day}", disk_of(7, day + 8))
        assert scene.reopened().restore(point) == disk_of(7, day + 8)
    clock.advance(days=27)
    work(scene.reopened().vault)
    assert refusal(lambda: collect(scene.reopened().vault)) == "vault.collect-running"


def test_a_long_collection_whose_lease_a_policy_keeps_from_being_renewed_says_so(
    clock: FakeClock,
) -> None:
    store = UnderPolicy(clock)
    scene = Scene.create(store, clock)
    scene.delete(scene.backup("one", DISK))
    clock.advance(days=2)
    host = FaultyStore(store)
    vault = Scene.at(host, clock).vault

    def before(call: Call) -> None:
        if call.operation == "put" and call.key.startswith("garbage/"):
            clock.advance(hours=2)

    host.before = before
    plan = vault.plan_collect()
    assert plan.mark
    assert refusal(lambda: vault.collect(plan)) == "vault.lease-locked"


def test_a_verification_beside_a_lease_that_a_policy_keeps_says_what_it_could_not_mend(
    clock: FakeClock,
) -> None:
    store = UnderPolicy(clock)
    scene = Scene.create(store, clock)
    scene.backup("one", DISK)
    clock.advance(days=2)
    collect(scene.reopened().vault)
    clock.advance(days=1)
    store.put("damage/" + "0" * 32, b"rotten")
    (finding,) = scene.reopened().vault.verify("packs").findings
    assert (finding.object, finding.healed) == ("damage/" + "0" * 32, False)


def test_an_unreadable_failure_of_the_store_is_no_policy(clock: FakeClock) -> None:
    store = PaperStore(clock)
    scene = Scene.create(store, clock)
    scene.vault.contents.records.put(LEASE_KEY, "lease", {"at": clock(), "holder": "0" * 32})
    clock.advance(hours=7)
    host = FaultyStore(store)
    host.rules.append(Rule("delete", Fault.THROTTLED, LEASE_KEY))
    with pytest.raises(Failure) as caught:
        collect(Scene.at(host, clock).vault)
    assert caught.value.code == "storage.rate-limit"
