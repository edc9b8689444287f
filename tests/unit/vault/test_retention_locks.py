"""Retention locks: what a point needs cannot be destroyed by anybody for as long as was asked."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paper_bucket import MONTH, PaperBucket, host_of, read_after_attack
from small_vault import small_disk, small_packs, small_scene
from vault_scene import FakeClock, Scene, disk_of

from quiesce.model.failure import Failure
from quiesce.service.collecting import told
from quiesce.service.vault_views import collect_view
from quiesce.vault import LocalStore
from quiesce.vault.copy.copying import execute_copy, plan_copy
from quiesce.vault.format.diskmap import FANOUT, ids_of
from quiesce.vault.format.pack import Kind, pack_key
from quiesce.vault.stores.locking import LockingStore, can_lock
from quiesce.vault.stores.locks import Lock, Mode, Terms, terms_of


@pytest.fixture
def scene(host: LockingStore, clock: FakeClock) -> Scene:
    scene = Scene.create(host, clock)
    host.ask_for(MONTH)
    return scene


def ends(bucket: PaperBucket, folder: str) -> list[float]:
    """In days from now."""
    now = bucket.clock()
    locks = [bucket.locks.get(key) for key in bucket.keys(folder)]
    return [round((lock.until - now) / timedelta(days=1), 1) if lock else 0 for lock in locks]


def test_without_being_asked_nothing_is_locked(
    bucket: PaperBucket, host: LockingStore, clock: FakeClock
) -> None:
    Scene.create(host, clock).backup("one", disk_of(1))
    assert not bucket.locks
    assert bucket.asked["look"] == bucket.asked["lock"] == 0


def test_all_that_a_point_needs_is_locked_before_it_exists(
    bucket: PaperBucket, scene: Scene, clock: FakeClock
) -> None:
    point = scene.backup("one", disk_of(1, 2))
    for folder in ("packs/", "index/", "points/", "keys/", "format", "quiesce-store", "locks/"):
        assert ends(bucket, folder)
        assert min(ends(bucket, folder)) >= 30
    assert all(lock.mode is Mode.COMPLIANCE for lock in bucket.locks.values())
    assert read_after_attack(bucket, clock() + MONTH.time, point.id) == disk_of(1, 2)


def test_an_increment_weeks_later_locks_the_old_packs_that_it_refers_to(
    bucket: PaperBucket, scene: Scene, clock: FakeClock
) -> None:
    scene.backup("one", disk_of(1, 2))
    clock.advance(days=28)
    point = scene.backup("two", disk_of(1, 3), base="one", changed={"sda": {1}})
    assert min(ends(bucket, "packs/")) >= 30
    assert read_after_attack(bucket, clock() + MONTH.time, point.id) == disk_of(1, 3)


def test_a_full_backup_that_finds_its_chunks_stored_locks_them_for_longer(
    bucket: PaperBucket, scene: Scene, clock: FakeClock
) -> None:
    scene.backup("one", disk_of(1, 2))
    clock.advance(days=29)
    point = scene.backup("other", disk_of(1, 2), vm="twin")
    assert read_after_attack(bucket, clock() + MONTH.time, point.id) == disk_of(1, 2)


def test_what_no_new_point_needs_is_not_locked_for_longer(
    bucket: PaperBucket, scene: Scene, clock: FakeClock
) -> None:
    scene.backup("old", disk_of(7))
    (old,) = bucket.keys("packs/")
    until = bucket.locks[old].until
    clock.advance(days=28)
    scene.backup("new", disk_of(1))
    assert bucket.locks[old].until == until


def test_what_was_stored_before_anybody_asked_is_locked_with_the_next_point(
    bucket: PaperBucket, host: LockingStore, clock: FakeClock
) -> None:
    scene = Scene.create(host, clock)
    scene.backup("one", disk_of(1, 2))
    host.ask_for(MONTH)
    point = scene.backup("two", disk_of(1, 3), base="one", changed={"sda": {1}})
    assert read_after_attack(bucket, clock() + MONTH.time, point.id) == disk_of(1, 3)


def test_increments_cost_hardly_any_requests_until_the_slack_is_used_up(
    bucket: PaperBucket, clock: FakeClock
) -> None:
    host = host_of(bucket, clock)
    chunks = list(range(1, 200, 2))
    with small_packs():
        scene = small_scene(host, clock)
        host.ask_for(MONTH)
        scene.backup("0", small_disk(*chunks))
        packs = len(bucket.keys("packs/"))
        assert packs > 8
        costs = []
        for day in range(1, 13):
            clock.advance(days=1)
            bucket.asked.clear()
            chunks[day] = 1001 + 2 * day
            changed = {"sda": {day}}
            scene.backup(str(day), small_disk(*chunks), base=str(day - 1), changed=changed)
            costs.append(bucket.asked["look"] + bucket.asked["lock"])
    # The time is asked for at the first put, before the locks and after them.
    assert costs[:5] == [3] * 5
    # From then on each object costs one request in six days, its lock's extension.
    objects = len(bucket.objects)
    assert max(costs) >= packs
    assert sum(costs) < 12 * 3 + 2 * objects


def test_a_machine_that_has_forgotten_asks_the_store_and_believes_it(
    bucket: PaperBucket, scene: Scene, clock: FakeClock
) -> None:
    scene.backup("one", disk_of(1, 2))
    bucket.asked.clear()
    other = Scene.at(host_of(bucket, clock), clock)
    other.backup("two", disk_of(1, 2), vm="twin")
    assert bucket.asked["look"] > 3
    assert bucket.asked["lock"] == 0


def test_what_one_command_has_learned_the_next_one_knows(
    bucket: PaperBucket, clock: FakeClock, tmp_path: Path
) -> None:
    host = host_of(bucket, clock, tmp_path)
    Scene.create(host, clock)
    host.ask_for(MONTH)
    Scene.at(host, clock).backup("one", disk_of(1, 2))
    bucket.asked.clear()
    scene = Scene.at(host_of(bucket, clock, tmp_path), clock)
    scene.backup("two", disk_of(1, 3), base="one", changed={"sda": {1}})
    assert bucket.asked["look"] == 3
    assert bucket.asked["lock"] == 0


@pytest.mark.parametrize("damage", [b"", b"{}", b"0" * 64 + b'\n{"map/x":9}', b"\xff"])
def test_a_damaged_memory_is_no_memory(
    bucket: PaperBucket, clock: FakeClock, tmp_path: Path, damage: bytes
) -> None:
    host = host_of(bucket, clock, tmp_path)
    scene = Scene.create(host, clock)
    host.ask_for(MONTH)
    scene.backup("one", disk_of(1))
    (tmp_path / "compliance").write_bytes(damage)
    clock.advance(days=29)
    again = Scene.at(host_of(bucket, clock, tmp_path), clock)
    point = again.backup("two", disk_of(1), base="one")
    assert read_after_attack(bucket, clock() + MONTH.time, point.id) == disk_of(1)


@pytest.mark.parametrize("hours", [-400 * 24, -1, 1, 40 * 365 * 24])
def test_a_host_with_a_wrong_clock_commits_no_point_and_sets_no_lock(
    bucket: PaperBucket, scene: Scene, clock: FakeClock, hours: int
) -> None:
    bucket.ahead = -timedelta(hours=hours)
    locks = dict(bucket.locks)
    wrong = Scene.at(host_of(bucket, clock), clock)
    with pytest.raises(Failure) as refused:
        wrong.backup("one", disk_of(1))
    assert refused.value.code == "storage.clock-apart"
    assert ("ahead of" if hours > 0 else "behind") in refused.value.evidence[0].fact
    assert bucket.locks == locks
    assert not bucket.keys("points/")


def test_small_differences_are_settled_by_the_stores_time(
    bucket: PaperBucket, scene: Scene, clock: FakeClock
) -> None:
    bucket.ahead = timedelta(minutes=9)
    other = Scene.at(host_of(bucket, clock), clock)
    point = other.backup("one", disk_of(1))
    at = clock() + bucket.ahead + MONTH.time
    assert read_after_attack(bucket, at, point.id) == disk_of(1)


def test_credentials_that_may_not_lock_commit_no_point(
    bucket: PaperBucket, scene: Scene, clock: FakeClock
) -> None:
    bucket.may_lock = False
    with pytest.raises(Failure) as refused:
        scene.backup("one", disk_of(1))
    assert refused.value.code == "storage.lock-denied"
    assert not bucket.keys("points/")


def test_a_lock_that_lasts_longer_is_left_alone(
    bucket: PaperBucket, scene: Scene, clock: FakeClock
) -> None:
    scene.backup("one", disk_of(1))
    (pack,) = bucket.keys("packs/")
    years = Lock(Mode.COMPLIANCE, clock() + timedelta(days=900))
    bucket.locks[pack] = years
    clock.advance(days=29)
    scene.backup("two", disk_of(1), vm="twin")
    assert bucket.locks[pack] == years


def test_a_lock_in_compliance_mode_is_extended_as_one_whoever_has_set_it(
    bucket: PaperBucket, host: LockingStore, clock: FakeClock
) -> None:
    scene = Scene.create(host, clock)
    host.ask_for(Terms(Mode.GOVERNANCE, 30))
    scene.backup("one", disk_of(1))
    (pack,) = bucket.keys("packs/")
    for machine in (host, host_of(bucket, clock)):
        bucket.locks[pack] = Lock(Mode.COMPLIANCE, clock() + timedelta(days=3))
        clock.advance(days=7)
        Scene.at(machine, clock).backup(f"at {clock()}", disk_of(1), vm="twin")
        assert bucket.locks[pack].mode is Mode.COMPLIANCE
        assert bucket.locks[pack].until >= clock() + timedelta(days=30)


def test_collection_goes_on_and_what_it_hides_stays_until_its_lock_ends(
    bucket: PaperBucket, scene: Scene, clock: FakeClock
) -> None:
    gone = scene.backup("gone", disk_of(7, 8))
    committed = clock()
    kept = scene.backup("kept", disk_of(1, 2))
    scene.delete(gone)
    scene.collect_fully()
    assert len(bucket.keys("packs/")) == 1
    assert scene.reopened().restore(kept) == disk_of(1, 2)
    assert read_after_attack(bucket, committed + MONTH.time, gone.id) == disk_of(7, 8)


def test_a_collection_says_until_when_what_it_deletes_is_only_hidden(
    bucket: PaperBucket, scene: Scene, clock: FakeClock
) -> None:
    gone = scene.backup("gone", disk_of(7, 8))
    (pack,) = bucket.keys("packs/")
    until = bucket.locks[pack].until
    scene.delete(gone)
    for _ in range(2):
        clock.advance(hours=30)
        plan = scene.vault.plan_collect()
        assert plan.hidden_until is None or plan.delete
        done = scene.vault.collect(plan)
    assert [pack_key(name) for name in done.delete] == [pack]
    assert done.hidden_until is not None
    assert abs(done.hidden_until - until) < timedelta(seconds=1)
    guessed = host_of(bucket, clock).last_end(bucket.keys("keys/"), looks=0)
    assert guessed == clock() + MONTH.time + MONTH.slack
    assert "hidden, until its retention lock ends" in " ".join(told(collect_view(done)))


def test_a_copy_locks_what_it_brings_and_what_was_there(
    bucket: PaperBucket, clock: FakeClock
) -> None:
    source = Scene.create(PaperBucket(clock), clock)
    source.backup("one", disk_of(1, 2))
    target = host_of(bucket, clock)
    contents = source.vault.contents

    def copy() -> None:
        plan = plan_copy(source.store, target, keys=contents.keys, clock=clock)
        execute_copy(plan, clock=clock)

    copy()
    target.ask_for(MONTH)
    clock.advance(days=3)
    point = source.backup("two", disk_of(1, 3), base="one", changed={"sda": {1}})
    copy()
    assert read_after_attack(bucket, clock() + MONTH.time, point.id) == disk_of(1, 3)
    clock.advance(days=28)
    third = source.backup("three", disk_of(1, 4), base="two", changed={"sda": {1}})
    plan = plan_copy(source.store, target, keys=None, clock=clock)
    execute_copy(plan, clock=clock)
    assert read_after_attack(bucket, clock() + MONTH.time, third.id) == disk_of(1, 4)


def test_a_base_that_turns_out_to_be_damaged_fails_one_backup_and_is_built_on_no_more(
    bucket: PaperBucket, clock: FakeClock
) -> None:
    scene = small_scene(host_of(bucket, clock), clock)
    can_lock(scene.store).ask_for(MONTH)
    disk = [1, 3, *[0] * (FANOUT - 2), 5, 7]
    base = scene.backup("one", small_disk(*disk))
    (part,) = scene.vault.manifest(base.id).maps
    nodes = scene.vault.contents.read_blob(Kind.MAP, part.nodes[0])
    leaf = list(ids_of(nodes))[1]
    place = scene.vault.contents.index.find(leaf)
    assert place is not None
    key = pack_key(scene.vault.contents.index.name_of(place.pack))
    data, at = bucket.objects[key]
    turned = bytes([data[place.offset] ^ 1])
    bucket.objects[key] = (data[: place.offset] + turned + data[place.offset + 1 :], at)

    disk[0] = 9
    other = Scene.at(host_of(bucket, clock), clock)
    with pytest.raises(Failure) as refused:
        other.backup("two", small_disk(*disk), base="one", changed={"sda": {0}})
    assert refused.value.code == "vault.corrupt-chunk"
    again = Scene.at(host_of(bucket, clock), clock)
    with pytest.raises(Failure) as refused:
        again.backup("two", small_disk(*disk), base="one", changed={"sda": {0}})
    assert refused.value.code == "vault.base-missing"
    point = again.backup("two", small_disk(*disk))
    assert read_after_attack(bucket, clock() + MONTH.time, point.id) == small_disk(*disk)


def test_the_strictest_of_what_was_asked_counts_until_less_is_asked_for(
    bucket: PaperBucket, host: LockingStore, clock: FakeClock
) -> None:
    Scene.create(host, clock)
    host.ask_for(Terms(Mode.GOVERNANCE, 90))
    host.ask_for(Terms(Mode.COMPLIANCE, 7))
    assert host_of(bucket, clock).terms() == Terms(Mode.COMPLIANCE, 90)
    host.ask_for_less(Terms(Mode.GOVERNANCE, 7))
    assert host_of(bucket, clock).terms() == Terms(Mode.GOVERNANCE, 7)
    host.ask_for_less(None)
    assert host_of(bucket, clock).terms() is None


ASKED = st.from_regex(r"(governance|compliance)-[1-9][0-9]{0,2}", fullmatch=True)
BEFORE = st.text(min_size=1, max_size=5)
AFTER = BEFORE.filter(lambda text: text[0] not in "0123456789")


@given(st.lists(st.text(max_size=30) | st.tuples(BEFORE, ASKED) | st.tuples(ASKED, AFTER)))
@example([("compliance-30", "\n")])
def test_foreign_names_ask_for_nothing(names: list[str | tuple[str, str]]) -> None:
    assert terms_of(f"locks/{''.join(name)}" for name in names) is None


@pytest.mark.parametrize("days", ["0", "3651", "9999", "-1", "1e3", "030"])
def test_no_name_asks_for_more_than_ten_years_or_for_nothing(days: str) -> None:
    assert terms_of([f"locks/compliance-{days}"]) is None
    assert terms_of(["locks/governance-3650"]) == Terms(Mode.GOVERNANCE, 3650)


def test_a_folder_says_plainly_that_it_has_no_locks(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(Failure) as refused:
        can_lock(LocalStore.create(tmp_path / "vault"))
    assert refused.value.code == "storage.locks-unsupported"
