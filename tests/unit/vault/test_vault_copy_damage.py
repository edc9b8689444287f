"""What the source has lost is named, and the rest is copied; what the target has lost is mended."""

from __future__ import annotations

from datetime import timedelta

import pytest
from blake3 import blake3
from copy_scene import ALL, DISKS, CopyScene
from faulty_store import Fault, FaultyStore, Rule
from paper_store import PaperStore
from vault_scene import FakeClock, disk_of, turned

from quiesce.model.failure import Failure
from quiesce.vault.copy.copying import plan_copy, shortfall
from quiesce.vault.format.pack import pack_key
from quiesce.vault.stores.store import Store


def own_pack(copies: CopyScene, job: str, tmp: PaperStore) -> str:
    """The key of the pack that a copy without this job's point would not bring."""
    others = tuple(other for other in ALL if other != job)
    copies.copy(tmp, points=others)
    (key,) = set(copies.source.keys("packs/")) - set(tmp.keys("packs/"))
    return key


def spoil(store: PaperStore, key: str, how: str) -> None:
    data, at = store.objects.pop(key)
    if how != "missing":
        middle = len(data) // 2
        store.objects[key] = (turned(data, middle) if how == "turned" else data[:middle], at)


@pytest.mark.parametrize("how", ["turned", "missing", "cut"])
def test_a_damaged_pack_costs_its_points_which_are_named_and_no_other(
    copies: CopyScene, target: PaperStore, clock: FakeClock, how: str
) -> None:
    key = own_pack(copies, "db-1", PaperStore(clock))
    spoil(copies.source, key, how)
    report = copies.copy(target)
    assert [(u.point_id, u.vm) for u in report.unfit] == [(copies.points["db-1"].id, "db")]
    assert copies.jobs_in(target) == {"web-1", "web-2"}
    there = copies.opened(target).vault
    assert there.verify("chunks").intact
    said = shortfall(report)
    assert said is not None
    assert said.code == "vault.copy-incomplete"
    assert copies.points["db-1"].id in said.evidence[0].fact


def test_damage_that_a_base_shares_costs_both_points(
    copies: CopyScene, target: PaperStore, clock: FakeClock
) -> None:
    alone = PaperStore(clock)
    copies.copy(alone, points=("web-1",))
    shared = next(k for k in alone.keys("packs/"))
    spoil(copies.source, shared, "missing")
    report = copies.copy(target)
    assert {u.point_id for u in report.unfit} >= {
        copies.points["web-1"].id,
        copies.points["web-2"].id,
    }
    copies.jobs_in(target)


@pytest.mark.parametrize("how", ["turned", "cut"])
def test_a_damaged_manifest_costs_its_point(
    copies: CopyScene, target: PaperStore, how: str
) -> None:
    spoil(copies.source, f"points/{copies.points['db-1'].id}", how)
    for keyless in (False, True):
        report = copies.copy(target, keyless=keyless)
        assert not report.complete
        assert {u.point_id for u in report.unfit} == {copies.points["db-1"].id}
        assert copies.jobs_in(target) == {"web-1", "web-2"}


def test_without_a_key_a_damaged_pack_is_named_and_the_target_says_which_points_suffer(
    copies: CopyScene, target: PaperStore, clock: FakeClock
) -> None:
    key = own_pack(copies, "db-1", PaperStore(clock))
    spoil(copies.source, key, "turned")
    report = copies.copy(target, keyless=True)
    assert [bad.object for bad in report.bad] == [key]
    assert shortfall(report) is not None
    (hurt,) = copies.opened(target).vault.verify("structure").hurt
    assert hurt.point_id == copies.points["db-1"].id


def test_a_damaged_index_segment_costs_nothing(copies: CopyScene, target: PaperStore) -> None:
    spoil(copies.source, copies.source.keys("index/")[0], "turned")
    assert copies.copy(target).complete
    assert copies.jobs_in(target) == ALL
    assert copies.opened(target).vault.status().damaged_segments == 0


def test_without_a_key_a_damaged_index_segment_is_named_and_rebuilt_by_the_target(
    copies: CopyScene, target: PaperStore
) -> None:
    key = copies.source.keys("index/")[0]
    spoil(copies.source, key, "turned")
    report = copies.copy(target, keyless=True)
    assert [bad.object for bad in report.bad] == [key]
    assert copies.jobs_in(target) == ALL


def test_a_bit_that_turned_on_the_way_is_no_damage(copies: CopyScene, target: PaperStore) -> None:
    source = FaultyStore(copies.source)
    source.rules.append(Rule("get", Fault.WRONG_BYTES, "packs/", at=1))
    assert copies.copy(target, source=source).complete
    assert copies.jobs_in(target) == ALL


def test_a_source_that_goes_away_ends_the_copy_and_is_no_damage(
    copies: CopyScene, target: PaperStore
) -> None:
    source = FaultyStore(copies.source)
    source.rules.append(Rule("get", Fault.EXPIRED, "packs/", at=2))
    with pytest.raises(Failure) as caught:
        copies.copy(target, source=source)
    assert caught.value.code == "storage.auth-failed"
    assert copies.copy(target).complete


@pytest.mark.parametrize("keyless", [False, True])
@pytest.mark.parametrize("how", ["cut", "missing"])
def test_what_the_target_lost_is_brought_again(
    copies: CopyScene, target: PaperStore, how: str, keyless: bool
) -> None:
    copies.copy(target)
    for key in target.keys("packs/"):
        spoil(target, key, how)
    report = copies.copy(target, keyless=keyless)
    assert report.packs == len(copies.source.keys("packs/"))
    assert copies.jobs_in(target) == ALL


def test_what_a_check_of_the_target_found_damaged_is_brought_again(
    copies: CopyScene, target: PaperStore
) -> None:
    copies.copy(target)
    for key in target.keys("packs/"):
        spoil(target, key, "turned")
    there = copies.opened(target).vault
    assert not there.verify("chunks").intact
    copies.copy(target)
    assert copies.jobs_in(target) == ALL
    assert copies.opened(target).vault.verify("chunks").intact


def test_a_vault_is_mended_from_its_copy(copies: CopyScene, target: PaperStore) -> None:
    copies.copy(target)
    for key in copies.source.keys("packs/"):
        spoil(copies.source, key, "missing")
    assert copies.copy(copies.source, source=target).complete
    assert copies.jobs_in(copies.source) == ALL


@pytest.mark.parametrize("keyless", [False, True])
@pytest.mark.parametrize("how", ["turned", "cut"])
def test_a_damaged_manifest_of_the_target_is_replaced(
    copies: CopyScene, target: PaperStore, how: str, keyless: bool
) -> None:
    copies.copy(target)
    point_id = copies.points["db-1"].id
    spoil(target, f"points/{point_id}", how)
    assert not copies.opened(target).vault.verify("structure").intact
    report = copies.copy(target, keyless=keyless)
    assert (report.points, report.points_there, report.packs) == ((point_id,), 2, 0)
    assert shortfall(report) is None
    assert target.objects[f"points/{point_id}"][0] == copies.source.objects[f"points/{point_id}"][0]
    assert copies.jobs_in(target) == ALL
    assert copies.opened(target).vault.verify("chunks").intact


def test_a_manifest_of_the_target_that_only_the_key_tells_from_a_whole_one_is_replaced(
    copies: CopyScene, target: PaperStore
) -> None:
    """Its checksum was made anew, by whoever could write there."""
    copies.copy(target)
    key = f"points/{copies.points['db-1'].id}"
    spoil(target, key, "turned")
    inner = target.objects[key][0][:-32]
    target.change(key, inner + blake3(inner).digest())
    assert copies.copy(target, keyless=True).points == ()
    assert copies.copy(target).points == (copies.points["db-1"].id,)
    assert copies.jobs_in(target) == ALL


def test_a_manifest_of_the_target_in_a_bad_sector_is_replaced(
    copies: CopyScene, target: PaperStore
) -> None:
    copies.copy(target)
    key = f"points/{copies.points['db-1'].id}"
    faulty = FaultyStore(target)
    faulty.rules.append(Rule("get", Fault.BEFORE, key, at=0))
    assert copies.copy(faulty).points == (copies.points["db-1"].id,)
    assert [call.operation for call in faulty.log if call.key == key][-2:] == ["delete", "put"]


@pytest.mark.parametrize("keyless", [False, True])
def test_a_damaged_manifest_of_the_source_replaces_no_whole_one(
    copies: CopyScene, target: PaperStore, keyless: bool
) -> None:
    copies.copy(target)
    before = dict(target.objects)
    for job, how in (("db-1", "turned"), ("web-2", "cut")):
        spoil(copies.source, f"points/{copies.points[job].id}", how)
    copies.copy(target, keyless=keyless)
    assert {key: target.objects[key] for key in target.keys("points/")} == {
        key: stored for key, stored in before.items() if key.startswith("points/")
    }
    assert copies.jobs_in(target) == ALL


@pytest.mark.parametrize("keyless", [False, True])
def test_a_manifest_that_is_damaged_at_both_ends_is_named(
    copies: CopyScene, target: PaperStore, keyless: bool
) -> None:
    copies.copy(target)
    key = f"points/{copies.points['db-1'].id}"
    for store in (copies.source, target):
        spoil(store, key, "turned")
    report = copies.copy(target, keyless=keyless)
    assert [unfit.point_id for unfit in report.unfit] == [copies.points["db-1"].id]
    said = shortfall(report)
    assert said is not None
    assert copies.points["db-1"].id in said.evidence[0].fact


def test_a_damaged_manifest_that_a_retention_lock_of_the_target_keeps_is_named_and_the_rest_arrives(
    copies: CopyScene, target: PaperStore, clock: FakeClock
) -> None:
    copies.copy(target)
    key = f"points/{copies.points['db-1'].id}"
    spoil(target, key, "turned")
    target.kept_until[key] = clock() + timedelta(days=7)
    new = copies.here.backup("web-3", DISKS["web-1"])
    report = copies.copy(target)
    assert report.points == (new.id,)
    assert [(u.point_id, u.code) for u in report.unfit] == [
        (copies.points["db-1"].id, "storage.locked")
    ]
    clock.advance(days=8)
    assert copies.copy(target).complete
    assert copies.opened(target).restore(copies.points["db-1"]) == DISKS["db-1"]


def test_what_a_damaged_pack_held_that_a_lock_of_the_target_keeps_is_brought_in_new_packs(
    copies: CopyScene, target: PaperStore, clock: FakeClock
) -> None:
    copies.copy(target)
    for key in target.keys("packs/"):
        target.spoil(key)
        target.kept_until[key] = clock() + timedelta(days=7)
    assert not copies.opened(target).vault.verify("chunks").intact
    report = copies.copy(target)
    assert report.complete
    assert any("where it may not be deleted" in note for note in report.notes)
    for job, point in copies.points.items():
        assert copies.opened(target).restore(point) == DISKS[job]


def test_a_copy_without_the_key_says_that_it_sees_no_damage_of_its_target(
    copies: CopyScene, target: PaperStore
) -> None:
    copies.copy(target)
    assert not any("records of damage" in note for note in copies.copy(target, keyless=True).notes)
    target.spoil(target.keys("packs/")[0])
    copies.opened(target).vault.verify("chunks")
    assert any("records of damage" in note for note in copies.copy(target, keyless=True).notes)


@pytest.mark.parametrize("collected", [False, True])
def test_a_point_whose_manifest_the_vault_lost_comes_back_from_a_copy(
    copies: CopyScene, target: PaperStore, collected: bool
) -> None:
    """The vault alone cannot know that there was one, and collects its data: see vault-safety."""
    copies.copy(target)
    del copies.source.objects[f"points/{copies.points['db-1'].id}"]
    here = copies.here = copies.here.reopened()
    assert here.vault.verify("chunks").intact
    assert copies.jobs_in(copies.source) == {"web-1", "web-2"}
    if collected:
        before = len(copies.source.keys("packs/"))
        here.collect_fully()
        assert len(copies.source.keys("packs/")) < before
    copies.copy(target)
    assert copies.jobs_in(target) == ALL
    assert copies.copy(copies.source, source=target, points=("db-1",)).complete
    assert copies.jobs_in(copies.source) == ALL
    assert copies.opened(copies.source).vault.verify("chunks").intact


@pytest.mark.parametrize("keyless", [False, True])
def test_a_copy_reads_each_manifest_of_the_target_once(
    copies: CopyScene, target: PaperStore, keyless: bool
) -> None:
    copies.copy(target)
    there = FaultyStore(target)
    copies.copy(there, keyless=keyless)
    read = [call.key for call in there.log if call.operation == "get"]
    assert sorted(key for key in read if key.startswith("points/")) == target.keys("points/")


def test_packs_that_were_repacked_at_the_source_do_not_travel_again(
    copies: CopyScene, target: PaperStore
) -> None:
    """The target holds each chunk already, under the name of another pack."""
    copies.copy(target)
    other = PaperStore(copies.clock)
    copies.copy(other, points=("db-1",))
    plan = plan_copy(copies.source, target, keys=copies.here.vault.contents.keys)
    assert plan.packs == ()
    fresh = copies.opened(other)
    fresh.backup("again", DISKS["web-1"])  # the same chunks in a pack of this replica's own
    back = plan_copy(other, target, keys=copies.here.vault.contents.keys)
    assert sum(pack.size_bytes for pack in back.packs) < 64 * 1024  # map parts at most


def damage_and_heal(copies: CopyScene, target: Store) -> str:
    """One chunk of `big-1` was damaged, found by a check, and stored anew by the next full backup;
    others in the same pack are needed still. The target has it
    from before."""
    disk = b"".join(disk_of(n) for n in range(100, 140))
    before = set(copies.source.keys("packs/"))
    copies.points["big-1"] = copies.here.backup("big-1", disk, vm="big")
    (key,) = set(copies.source.keys("packs/")) - before
    copies.copy(target)
    copies.source.spoil(key, 5000)
    assert not copies.here.vault.verify("chunks").intact
    copies.points["big-2"] = copies.here.backup("big-2", disk, vm="big")
    return key


@pytest.fixture
def big(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    disk = b"".join(disk_of(n) for n in range(100, 140))
    for job in ("big-1", "big-2"):
        monkeypatch.setitem(DISKS, job, disk)
    return {"big-1", "big-2"}


def test_once_damage_is_healed_a_new_copy_brings_every_point(
    copies: CopyScene, target: PaperStore, big: set[str]
) -> None:
    key = damage_and_heal(copies, PaperStore(copies.clock))
    report = copies.copy(target)
    assert shortfall(report) is None
    assert any(key in note for note in report.notes)
    assert key not in target.keys("packs/")
    assert copies.jobs_in(target) == ALL | big
    assert copies.opened(target).vault.verify("chunks").intact
    again = copies.copy(target)
    assert (shortfall(again), again.packs, again.points) == (None, 0, ())


def test_a_copy_mends_a_pack_that_is_damaged_and_that_no_point_waits_for(
    copies: CopyScene, target: PaperStore, big: set[str]
) -> None:
    key = damage_and_heal(copies, target)
    assert copies.source.objects[key][0] != target.objects[key][0]
    assert copies.copy(copies.source, source=target).packs == 1
    assert copies.source.objects[key][0] == target.objects[key][0]
    assert not copies.source.keys("damage/")
    assert copies.copy(copies.source, source=target).packs == 0
    assert not copies.opened(copies.source).vault.verify("chunks").findings


def test_the_name_of_a_damaged_pack_is_a_key_of_the_store(copies: CopyScene) -> None:
    assert all(
        pack_key(bytes.fromhex(key.rpartition("/")[2])) == key
        for key in copies.source.keys("packs/")
    )
    assert disk_of(1) != disk_of(2)
