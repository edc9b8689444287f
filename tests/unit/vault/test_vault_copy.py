"""A copy of a vault is a vault: it opens with the same key and restores the same disks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from cloud_scene import Place
from copy_scene import ALL, DISKS, CopyScene, left_over
from faulty_store import Fault, FaultyStore, Rule
from paper_store import PaperStore
from vault_scene import KEY, FakeClock, Scene, disk_of

from quiesce.model.failure import Failure
from quiesce.model.progress import Progress
from quiesce.vault import KeyFile, LocalStore, Vault
from quiesce.vault.copy.copying import execute_copy, plan_copy
from quiesce.vault.stores.nowhere import Nowhere


@pytest.mark.parametrize("keyless", [False, True])
def test_every_point_of_a_copy_restores_bit_for_bit(
    copies: CopyScene, target: PaperStore, keyless: bool
) -> None:
    report = copies.copy(target, keyless=keyless)
    assert report.complete
    assert len(report.points) == 3
    assert copies.jobs_in(target) == ALL
    assert copies.opened(target).vault.verify("chunks").intact
    assert left_over(copies.source, target) == set()


@pytest.mark.parametrize("keyless", [False, True])
def test_a_second_copy_sends_only_what_is_new(
    copies: CopyScene, target: PaperStore, keyless: bool
) -> None:
    copies.copy(target, keyless=keyless)
    assert copies.copy(target, keyless=keyless).packs == 0
    disk = DISKS["db-1"] + disk_of(40)
    new = copies.here.backup("db-2", disk, vm="db")
    report = copies.copy(target, keyless=keyless)
    assert (report.points, report.packs, report.points_there) == ((new.id,), 1, 3)
    assert copies.opened(target).restore(new) == disk


def test_a_copy_of_a_copy_is_as_good(copies: CopyScene, target: PaperStore) -> None:
    second = PaperStore(copies.clock)
    copies.copy(target)
    assert copies.copy(second, source=target).complete
    assert copies.jobs_in(second) == ALL


def test_a_plan_says_what_would_travel_and_writes_nothing(
    copies: CopyScene, target: PaperStore
) -> None:
    before = set(copies.source.keys())
    plan = plan_copy(copies.source, target, keys=copies.here.vault.contents.keys)
    assert plan.makes_vault
    assert plan.points[0] == copies.points["db-1"].id  # the newest first
    assert plan.size_bytes == copies.here.vault.status().stored_bytes
    assert target.keys() == []
    assert set(copies.source.keys()) == before


def test_progress_ends_at_the_whole(copies: CopyScene, target: PaperStore) -> None:
    plan = plan_copy(copies.source, target, keys=copies.here.vault.contents.keys)
    seen: list[Progress] = []
    execute_copy(plan, seen.append)
    assert seen[-1].done_bytes == seen[-1].total_bytes == plan.size_bytes
    assert all(a.done_bytes <= b.done_bytes for a, b in pairwise(seen))


@pytest.mark.parametrize(
    ("filters", "jobs"),
    [
        ({"vms": ("web",)}, {"web-1", "web-2"}),
        ({"points": ("web-1",)}, {"web-1"}),
        ({"newest": 1}, {"web-2", "db-1"}),
        ({"vms": ("web",), "newest": 1}, {"web-2"}),
    ],
)
def test_filters_choose_points_and_only_their_packs_travel(
    copies: CopyScene, target: PaperStore, filters: dict[str, object], jobs: set[str]
) -> None:
    copies.copy(target, **filters)  # type: ignore[arg-type]
    assert copies.jobs_in(target) == jobs
    there = copies.opened(target).vault
    assert there.verify("chunks").intact
    assert there.plan_collect().mark == ()
    assert copies.copy(target).complete  # and later the rest
    assert copies.jobs_in(target) == ALL


def test_filters_need_the_key(copies: CopyScene, target: PaperStore) -> None:
    with pytest.raises(Failure) as caught:
        copies.copy(target, keyless=True, vms=("web",))
    assert caught.value.code == "vault.copy-needs-key"
    assert target.keys() == []


@pytest.mark.parametrize(
    ("filters", "code"),
    [({"vms": ("nobody",)}, "vault.vm-unknown"), ({"newest": 0}, "input.invalid")],
)
def test_a_filter_that_means_nothing_is_told(
    copies: CopyScene, target: PaperStore, filters: dict[str, object], code: str
) -> None:
    with pytest.raises(Failure) as caught:
        copies.copy(target, **filters)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_another_vault_is_no_target_and_stays_as_it_is(
    copies: CopyScene, target: PaperStore
) -> None:
    Vault.create(target, KEY)
    before = target.keys()
    for keyless in (False, True):
        with pytest.raises(Failure) as caught:
            copies.copy(target, keyless=keyless)
        assert caught.value.code == "vault.copy-other-vault"
    assert target.keys() == before


def test_a_vault_is_not_copied_onto_itself(copies: CopyScene) -> None:
    before = set(copies.source.keys())
    with pytest.raises(Failure) as caught:
        copies.copy(FaultyStore(copies.source))
    assert caught.value.code == "vault.copy-onto-itself"
    assert set(copies.source.keys()) == before


@pytest.mark.parametrize("keyless", [False, True])
def test_deleted_points_are_not_copied_and_stay_where_they_are_copied_already(
    copies: CopyScene, target: PaperStore, keyless: bool
) -> None:
    copies.here.delete(copies.points["web-1"])
    copies.copy(target, keyless=keyless)
    assert copies.jobs_in(target) == {"web-2", "db-1"}
    copies.here.delete(copies.points["db-1"])
    copies.copy(target, keyless=keyless)
    assert copies.jobs_in(target) == {"web-2", "db-1"}


def test_a_point_deleted_at_the_target_stays_deleted_and_that_is_said(
    copies: CopyScene, target: PaperStore
) -> None:
    copies.copy(target)
    copies.opened(target).delete(copies.points["db-1"])
    report = copies.copy(target)
    assert any("Deleted at the target" in note for note in report.notes)
    assert copies.jobs_in(target) == {"web-1", "web-2"}


@pytest.mark.parametrize("fault", [Fault.READ_ONLY, Fault.LOCKED])
@pytest.mark.parametrize("keyless", [False, True])
def test_a_source_that_cannot_be_written_is_copied_and_labelled(
    copies: CopyScene, target: PaperStore, fault: Fault, keyless: bool
) -> None:
    source = FaultyStore(copies.source)
    source.rules.append(Rule("put", fault, at=0))
    report = copies.copy(target, source=source, keyless=keyless)
    assert any("The source cannot be written" in note for note in report.notes)
    assert copies.jobs_in(target) == ALL
    assert source.puts == source.deletes == []


def test_a_writable_source_carries_no_label_and_no_trace(
    copies: CopyScene, target: PaperStore
) -> None:
    before = set(copies.source.keys())
    assert copies.copy(target).notes == ()
    assert set(copies.source.keys()) == before


def test_a_copy_back_brings_no_key_that_was_taken_away(
    copies: CopyScene, target: PaperStore
) -> None:
    copies.copy(target)
    (old,) = copies.source.keys("keys/")
    copies.here.vault.add_key(KeyFile.generate())
    copies.here.vault.remove_key(old.rpartition("slot-")[2])
    report = copies.copy(copies.source, source=target)
    assert old not in copies.source.keys("keys/")
    assert any(old.rpartition("slot-")[2] in note for note in report.notes)


def test_a_key_added_later_opens_the_copy_after_the_next_one_with_keys(
    copies: CopyScene, target: PaperStore
) -> None:
    copies.copy(target)
    second = KeyFile.generate()
    slot = copies.here.vault.add_key(second)
    copies.copy(target)
    assert not [key for key in target.keys("keys/") if slot in key]
    report = copies.copy(target, with_keys=True)
    assert any(slot in note for note in report.notes)
    assert Vault.open(target, second).config.vault_id == copies.here.vault.config.vault_id


def test_a_target_without_room_is_told_before_anything_travels(
    copies: CopyScene, target: PaperStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "free_bytes", lambda: 1000)
    with pytest.raises(Failure) as caught:
        copies.copy(target)
    assert caught.value.code == "storage.full"
    assert " KiB more to store, 1000 B free" in caught.value.evidence[0].fact
    assert target.keys() == []


def test_a_cancelled_copy_leaves_whole_points_or_none_and_goes_on(
    copies: CopyScene, target: PaperStore
) -> None:
    plan = plan_copy(copies.source, target, keys=copies.here.vault.contents.keys)
    with pytest.raises(Failure) as caught:
        execute_copy(plan, cancelled=lambda: bool(target.keys("packs/")), packs_at_once=1)
    assert caught.value.code == "job.cancelled"
    assert target.keys("sessions/") == []
    sent = len(target.keys("packs/"))
    assert 0 < sent < len(plan.packs)
    assert copies.jobs_in(target) == set()
    assert copies.copy(target).packs == len(plan.packs) - sent
    assert copies.jobs_in(target) == ALL


def test_a_folder_is_copied_to_a_folder(tmp_path: Path, clock: FakeClock) -> None:
    copies = CopyScene(clock, LocalStore.create(tmp_path / "here"))
    target = LocalStore.create(tmp_path / "there")
    assert copies.copy(target).complete
    assert copies.jobs_in(target) == ALL
    assert (tmp_path / "there" / "reserve").stat().st_size >= 1024 * 1024


def test_points_come_in_batches_the_newest_first(
    copies: CopyScene, target: PaperStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quiesce.vault.copy.plan._BATCH_PACKS", 1)
    dying = FaultyStore(target)
    dying.rules.append(Rule("put", Fault.BEFORE, "packs/", at=2))
    with pytest.raises(Failure):
        copies.copy(dying)
    assert copies.jobs_in(target) <= {"db-1"}
    copies.copy(target)
    assert copies.jobs_in(target) == ALL


def test_a_scene_without_points_is_copied_too(target: PaperStore, clock: FakeClock) -> None:
    empty = Scene.create(PaperStore(clock), clock)
    plan = plan_copy(empty.store, target, keys=empty.vault.contents.keys)
    execute_copy(plan)
    assert Vault.open(target, KEY).points() == ()


def test_a_vault_is_copied_to_any_kind_of_store_and_back(copies: CopyScene, place: Place) -> None:
    there, back = place.create(), PaperStore(copies.clock)
    assert copies.copy(there).complete
    assert copies.copy(there).packs == 0
    assert copies.jobs_in(place.open()) == ALL
    assert copies.copy(back, source=place.open(), keyless=True).complete
    assert copies.jobs_in(back) == ALL


@pytest.mark.parametrize("inner", ["here/copy", "."])
def test_folders_within_each_other_are_no_vault_and_its_copy(
    tmp_path: Path, clock: FakeClock, inner: str
) -> None:
    source = LocalStore.create(tmp_path / "here")
    here = Scene.create(source, clock)
    with pytest.raises(Failure) as caught:
        plan_copy(source, Nowhere(str(tmp_path / inner)), keys=here.vault.contents.keys)
    assert caught.value.code == "vault.copy-onto-itself"


def test_a_copy_on_the_same_file_system_is_labelled(tmp_path: Path, clock: FakeClock) -> None:
    source = LocalStore.create(tmp_path / "here")
    here = Scene.create(source, clock)
    plan = plan_copy(source, Nowhere(str(tmp_path / "there")), keys=here.vault.contents.keys)
    assert any("same file system" in note for note in plan.notes)
