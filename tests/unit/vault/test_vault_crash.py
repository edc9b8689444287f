"""The process dies at every single change of the store; and the store itself misbehaves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from faulty_store import Fault, FaultyStore, Killed, Rule
from vault_scene import KEY, FakeClock, Scene, disk_of

from quiesce.model.failure import Failure
from quiesce.vault import LocalStore, Vault
from quiesce.vault.store import ObjectMissing, Put

OLD = disk_of(1, 2, 3, 0)
NEW = disk_of(1, 7, 3, 8)


def changes_of(scene: Scene, work: object) -> int:
    watched = FaultyStore(scene.store)
    work(scene.reopened(watched))  # type: ignore[operator]
    return watched.changes


def copy_of(scene: Scene, to: Path) -> Scene:
    shutil.copytree(scene.folder, to)
    return Scene(Vault.open(LocalStore(to), KEY, clock=scene.clock), scene.clock)


def test_a_writer_killed_at_any_store_operation_leaves_all_or_nothing(
    scene: Scene, tmp_path: Path
) -> None:
    old = scene.backup("old", OLD)

    def increment(there: Scene) -> None:
        there.backup("new", NEW, base="old", changed={"sda": {1, 3}})

    steps = changes_of(copy_of(scene, tmp_path / "measure"), increment)
    assert steps >= 5
    for step in range(1, steps + 1):
        for after in (False, True):
            there = copy_of(scene, tmp_path / f"{step}{after}")
            dying = FaultyStore(there.store)
            dying.die_at = (step, after)
            with pytest.raises(Killed):
                increment(there.reopened(dying))
            fresh = there.reopened()
            assert fresh.restore(old) == OLD
            committed = [point for point in fresh.vault.points() if point.job_id == "new"]
            assert all(fresh.restore(point) == NEW for point in committed)
            assert fresh.vault.verify("chunks").intact
            increment(fresh)  # the job runs again
            (point,) = (point for point in fresh.vault.points() if point.job_id == "new")
            assert there.reopened().restore(point) == NEW
            fresh.collect_fully()
            assert there.reopened().restore(point) == NEW
            assert there.reopened().restore(old) == OLD


def test_a_collection_killed_at_any_store_operation_loses_nothing(
    scene: Scene, tmp_path: Path
) -> None:
    old = scene.backup("old", OLD)
    scene.delete(scene.backup("gone", disk_of(21, 22)))
    scene.clock.advance(hours=2)
    scene.vault.collect(scene.vault.plan_collect())
    scene.clock.advance(hours=30)

    def collect(there: Scene) -> None:
        there.vault.collect(there.vault.plan_collect())

    steps = changes_of(copy_of(scene, tmp_path / "measure"), collect)
    assert steps >= 5
    for step in range(1, steps + 1):
        for after in (False, True):
            there = copy_of(scene, tmp_path / f"{step}{after}")
            dying = FaultyStore(there.store)
            dying.die_at = (step, after)
            with pytest.raises(Killed):
                collect(there.reopened(dying))
            assert there.reopened().restore(old) == OLD
            again = there.reopened()
            assert again.restore(again.backup("gone again", disk_of(21, 22))) == disk_of(21, 22)
            again.collect_fully()
            assert again.restore(old) == OLD
            assert len(there.packs()) == 2
            assert there.reopened().vault.verify("chunks").intact


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
            Vault.open(store, KEY)


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
