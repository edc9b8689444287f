"""Packs that little lives in: their live chunks move."""

from __future__ import annotations

import pytest
from faulty_store import Fault, FaultyStore, Rule
from paper_store import PaperStore
from repack_scene import (
    KEPT,
    OLD,
    assert_sound,
    collect,
    collect_to_the_end,
    packs,
    run_writer,
)
from small_vault import SMALL_CHUNK, small_disk, small_packs, small_scene, stored
from vault_scene import FakeClock, Scene

from quiesce.vault.format.pack import pack_key


@pytest.fixture
def scene(mostly_dead: Scene) -> Scene:
    return mostly_dead


def test_a_plan_says_what_is_copied_and_freed_and_changes_nothing(
    scene: Scene, paper: PaperStore
) -> None:
    before = paper.keys()
    plan = scene.vault.plan_collect().repack
    assert len(plan.packs) == 1
    assert 2 * SMALL_CHUNK < plan.copy_bytes < 4 * SMALL_CHUNK
    assert plan.frees_bytes > 4 * SMALL_CHUNK
    assert plan.later == ()
    assert paper.keys() == before
    assert scene.vault.plan_collect(repack_below=0).repack.packs == ()
    assert scene.vault.plan_collect(repack_below=0.1).repack.packs == ()


def test_what_lives_moves_and_the_rest_is_freed_after_the_margin(scene: Scene) -> None:
    before = stored(scene.store)
    plan = scene.vault.plan_collect()
    (old,) = plan.repack.packs
    done = scene.vault.collect(plan)
    assert done.repack.packs == (old,)
    assert 2 * SMALL_CHUNK < done.copied_bytes <= plan.repack.copy_bytes + 100
    assert pack_key(old) in packs(scene), "readers may be at it still"
    assert_sound(scene, KEPT)
    collect_to_the_end(scene)
    assert pack_key(old) not in packs(scene)
    assert stored(scene.store) < before / 1.5
    assert_sound(scene, KEPT)
    assert list(scene.store.list("garbage/")) == []


def test_nothing_moves_twice(scene: Scene) -> None:
    collect(scene)
    scene.clock.advance(hours=1)
    again = scene.reopened().vault.plan_collect()
    assert again.repack.packs == ()
    assert again.waiting_bytes > 0


def test_a_run_is_limited_in_bytes_and_the_next_one_goes_on(
    paper: PaperStore, clock: FakeClock
) -> None:
    with small_packs():
        scene = small_scene(paper, clock)
        doomed = [
            scene.backup(f"job-{n}", small_disk(*range(n, n + 16, 2)), vm=f"vm-{n}")
            for n in range(101, 501, 100)
        ]
        kept = [small_disk(n, n + 2, n + 1001) for n in range(101, 501, 100)]
        for number, disk in enumerate(kept):
            scene.backup(f"kept-{number}", disk, vm=f"mail-{number}")
        clock.advance(hours=4)
        scene.delete(*doomed)
        clock.advance(hours=4)
        scene = scene.reopened()
        whole = scene.vault.plan_collect().repack
        assert len(whole.packs) == 4
        limit = whole.copy_bytes // 2 + 200
        plan = scene.vault.plan_collect(repack_bytes=limit)
        assert len(plan.repack.packs) == len(plan.repack.later) == 2
        assert plan.repack.copy_bytes <= limit
        assert plan.repack.frees_bytes + plan.repack.later_frees_bytes == whole.frees_bytes
        moved = set(scene.vault.collect(plan).repack.packs)
        clock.advance(hours=4)
        rest = scene.reopened().vault.plan_collect(repack_bytes=limit)
        assert set(rest.repack.packs) == set(whole.packs) - moved
        scene.vault.collect(rest)
        assert_sound(scene, *kept)


def test_a_store_that_is_nearly_full_is_not_filled_by_copying(
    scene: Scene, paper: PaperStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper, "free_bytes", lambda: SMALL_CHUNK)
    plan = scene.vault.plan_collect().repack
    assert plan.packs == ()
    assert len(plan.later) == 1


def test_a_damaged_chunk_keeps_its_pack_and_the_rest_is_collected(
    scene: Scene, paper: PaperStore
) -> None:
    (old,) = scene.vault.plan_collect().repack.packs
    paper.spoil(pack_key(old))
    done = scene.reopened()
    done.vault.collect(plan := done.vault.plan_collect())
    assert plan.repack.packs == (old,), "nobody has looked at it yet"
    fresh = scene.reopened()
    assert [health.vm for health in fresh.vault.verify("chunks").hurt] == ["mail"]
    assert scene.reopened().vault.plan_collect().repack.packs == ()
    collect_to_the_end(scene)
    assert pack_key(old) in packs(scene), "evidence, and perhaps mendable"
    assert scene.reopened().backup("healing", KEPT, vm="mail").stored_bytes > 0
    collect_to_the_end(scene)
    assert pack_key(old) not in packs(scene)
    assert_sound(scene, KEPT, KEPT)


def test_many_small_packs_become_few(paper: PaperStore, clock: FakeClock) -> None:
    scene = small_scene(paper, clock)
    disks = [small_disk(2 * n + 1, 2 * n + 201) for n in range(70)]
    for number, disk in enumerate(disks):
        scene.backup(f"job-{number}", disk, vm=f"vm-{number}")
    clock.advance(hours=4)
    assert len(packs(scene)) == 70
    collect_to_the_end(scene)
    assert len(packs(scene)) == 1
    assert_sound(scene, *disks)


def test_a_pack_under_a_retention_lock_waits_and_is_reported(
    scene: Scene, paper: PaperStore
) -> None:
    (old,) = scene.vault.plan_collect().repack.packs
    locked = FaultyStore(paper)
    locked.rules.append(Rule("delete", Fault.LOCKED, "packs/", at=0))
    reports = []
    for _ in range(4):
        there = scene.reopened(locked)
        reports.append(there.vault.collect(there.vault.plan_collect()))
        scene.clock.advance(hours=30)
    assert all(report.delete == () for report in reports)
    for report in reports[1:]:
        assert pack_key(old) in {held.key for held in report.locked}
        assert all("storage.locked" in held.why for held in report.locked)
    assert len(list(scene.store.list("garbage/"))) == 1, "it stays marked"
    assert_sound(scene, KEPT)
    fresh = scene.reopened()
    writer, target = run_writer(fresh, "again", OLD)
    target.put(0, memoryview(OLD))
    fresh.commit(writer, len(OLD))
    collect_to_the_end(scene)  # the lock has run out
    assert pack_key(old) not in packs(scene)
    assert_sound(scene, KEPT, OLD)


def test_a_segment_under_a_retention_lock_keeps_its_packs_and_is_not_written_again_and_again(
    scene: Scene, paper: PaperStore
) -> None:
    (old,) = scene.vault.plan_collect().repack.packs
    locked = FaultyStore(paper)
    locked.rules.append(Rule("delete", Fault.LOCKED, "index/", at=0))
    for _ in range(6):
        there = scene.reopened(locked)
        report = there.vault.collect(there.vault.plan_collect())
        scene.clock.advance(hours=30)
    assert pack_key(old) in {held.key for held in report.locked}
    segments = len(list(scene.store.list("index/")))
    assert segments < 8
    assert scene.reopened().vault.status().missing_packs == 0
    collect_to_the_end(scene)
    assert pack_key(old) not in packs(scene)
    assert_sound(scene, KEPT)
