"""The process dies at every single change of the store; and the store itself misbehaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faulty_store import DEATHS, Fault, FaultyStore, Killed, Rule
from paper_store import PaperStore
from store_sweep import ERRORS, LIES, Work, sweep
from sweep_works import WORKS
from vault_scene import KEY, FakeClock, Scene, disk_of

from quiesce.model.failure import Failure
from quiesce.vault import LocalStore, Vault
from quiesce.vault.format.slots import list_slots
from quiesce.vault.stores.store import ObjectMissing, Put

NEW = disk_of(1, 7, 3, 8)


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_work_killed_at_any_change_of_the_store_loses_nothing_and_leaves_nothing(
    work: Work,
) -> None:
    covered = sweep(work, DEATHS)
    print(covered)
    assert covered.losses == []
    assert covered.points >= 2 * covered.changes > 0
    # Names are random, so that a collection may have a change less than when it was measured.
    assert covered.outcomes["killed"] >= covered.points - 3


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_work_whose_store_fails_or_lies_loses_nothing_and_leaves_nothing(work: Work) -> None:
    """A tenth of all calls × faults; `make vault-proof` takes all."""
    covered = sweep(work, ERRORS + LIES, every=10, first=len(work.name))
    print(covered)
    assert covered.losses == []
    assert covered.points > 0


def test_a_vault_half_made_is_no_vault_and_can_be_made_again(
    tmp_path: Path, clock: FakeClock
) -> None:
    for step in range(1, 3):
        for after in (False, True):
            store = LocalStore.create(tmp_path / f"{step}{after}")
            dying = FaultyStore(store)
            dying.die_at = (step, after)
            with pytest.raises(Killed):
                Vault.create(dying, KEY)
            code = ""
            try:
                Vault.create(store, KEY)
            except Failure as failure:
                code = failure.code
            assert code == ("vault.exists" if (step, after) == (2, True) else "")
            (slot,) = (slot.id for slot in list_slots(store) if slot.kind)
            with pytest.raises(Failure) as caught:
                Vault.open(store, KEY).remove_key(slot)
            assert caught.value.code == "vault.last-key", "the slot half made is no key"
            Vault.open(store, KEY)


def test_a_vault_is_made_also_when_its_answer_comes_at_the_second_try(clock: FakeClock) -> None:
    store = FaultyStore(PaperStore(clock))
    store.rules.append(Rule("put", Fault.TWICE, "format"))
    Vault.create(store, KEY, clock=clock).add_key(KEY)


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
@pytest.mark.parametrize("prefix", ["sessions/", "packs/", "index/", "points/"])
def test_one_failed_write_fails_the_job_and_the_next_try_succeeds(
    scene: Scene, prefix: str, fault: Fault
) -> None:
    failing = FaultyStore(scene.store)
    failing.rules.append(Rule("put", fault, prefix))
    with pytest.raises(Failure) as caught:
        scene.reopened(failing).backup("job", NEW)
    assert caught.value.code == "storage.io-error"
    assert caught.value.retryable
    fresh = scene.reopened()
    assert fresh.restore(fresh.backup("job", NEW)) == NEW


def test_a_full_store_fails_with_its_code_and_leaves_no_half_point(scene: Scene) -> None:
    full = FaultyStore(scene.store)
    full.rules.append(Rule("put", Fault.FULL, "packs/", at=0))
    with pytest.raises(Failure) as caught:
        scene.reopened(full).backup("job", NEW)
    assert caught.value.code == "storage.full"
    assert scene.reopened().vault.points() == ()


def test_wrong_bytes_from_the_store_never_come_out_as_data(scene: Scene) -> None:
    point = scene.backup("job", NEW)
    lying = FaultyStore(scene.store)
    there = scene.reopened(lying)
    lying.rules.append(Rule("get_range", Fault.WRONG_BYTES, "packs/", at=0))
    with pytest.raises(Failure) as caught:
        there.restore(point)
    assert caught.value.code in ("vault.corrupt-chunk", "vault.pack-missing")


def test_an_unmounted_store_is_refused_and_never_filled_anew(scene: Scene) -> None:
    moved = scene.folder.with_name("elsewhere")
    scene.folder.rename(moved)
    scene.folder.mkdir()  # the empty mount point
    for act in (
        lambda: scene.backup("job", NEW),
        lambda: scene.vault.points(),
        lambda: LocalStore(scene.folder),
    ):
        with pytest.raises(Failure) as caught:
            act()
        assert caught.value.code == "storage.vanished"
    assert list(scene.folder.iterdir()) == []
    scene.folder.rmdir()
    moved.rename(scene.folder)
    assert scene.restore(scene.backup("job", NEW)) == NEW


def test_another_store_mounted_in_its_place_is_refused(scene: Scene, tmp_path: Path) -> None:
    scene.folder.rename(tmp_path / "elsewhere")
    LocalStore.create(scene.folder)
    with pytest.raises(Failure) as caught:
        scene.backup("job", NEW)
    assert caught.value.code == "storage.vanished"
    assert scene.packs() == []


def test_a_store_is_not_made_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(Failure) as caught:
        LocalStore.create(tmp_path)
    assert caught.value.code == "storage.not-empty"
    assert os.listdir(tmp_path) == ["photo.jpg"]


def test_an_object_is_created_once_and_never_overwritten(scene: Scene) -> None:
    assert scene.store.put("points/a", b"first") is Put.CREATED
    assert scene.store.put("points/a", b"second") is Put.ALREADY_THERE
    assert scene.store.get("points/a", limit_bytes=10) == b"first"
    scene.store.delete("points/a")
    scene.store.delete("points/a")
    with pytest.raises(ObjectMissing):
        scene.store.get("points/a", limit_bytes=10)


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "points/../../x", "a//b", "", "points/..x"])
def test_no_key_leads_out_of_the_store(scene: Scene, key: str) -> None:
    with pytest.raises(ValueError, match="not an object key"):
        scene.store.put(key, b"")
