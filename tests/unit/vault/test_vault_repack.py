"""Packs that little lives in: their live chunks move, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faulty_store import Call, Fault, FaultyStore, Killed, Rule
from paper_store import PaperStore, StaleLists
from small_vault import SMALL_CHUNK, small_disk, small_packs, small_scene
from vault_scene import LABEL, FakeClock, Scene

from quiesce.model.failure import Failure
from quiesce.model.point import PointDisk, RecoveryPoint
from quiesce.model.snapshot import Route
from quiesce.vault.format.pack import pack_key
from quiesce.vault.points.disk_writer import VaultDiskWriter
from quiesce.vault.points.writer import VaultPointWriter
from quiesce.vault.stores.store import Store

OLD = small_disk(*range(1, 40, 2))
KEPT = small_disk(1, 3, *range(101, 140, 2))
"""Shares two chunks with `OLD`: what is left of the packs of `OLD` when that is deleted."""


def stored(scene: Scene) -> int:
    return sum(info.size_bytes for info in scene.store.list("packs/"))


def packs(scene: Scene) -> set[str]:
    return {info.key for info in scene.store.list("packs/")}


def collect(scene: Scene, **options: float) -> None:
    scene.vault.collect(scene.vault.plan_collect(**options))  # type: ignore[arg-type]


def collect_to_the_end(scene: Scene, runs: int = 5) -> None:
    for _ in range(runs):
        scene.clock.advance(hours=30)
        collect(scene.reopened())


def assert_sound(scene: Scene, *disks: bytes) -> None:
    fresh = scene.reopened()
    assert sorted(fresh.restore(point) for point in fresh.vault.points()) == sorted(disks)
    assert fresh.vault.verify("chunks").intact


@pytest.fixture
def paper(clock: FakeClock) -> PaperStore:
    return PaperStore(clock)


@pytest.fixture
def scene(paper: PaperStore, clock: FakeClock) -> Iterator[Scene]:
    """A vault whose older packs hold two chunks that somebody needs, and many that nobody does."""
    with small_packs():
        scene = small_scene(paper, clock)
        old = scene.backup("old", OLD)
        scene.clock.advance(hours=4)
        scene.backup("kept", KEPT, vm="mail")
        scene.clock.advance(hours=4)
        scene.delete(old)
        scene.clock.advance(hours=4)
        yield scene.reopened()


def run_writer(scene: Scene, job: str, disk: bytes) -> tuple[VaultPointWriter, VaultDiskWriter]:
    writer = scene.vault.writer("web", job)
    return writer, writer.disk("sda", len(disk))


def commit(scene: Scene, writer: VaultPointWriter, disk: bytes) -> RecoveryPoint:
    row = PointDisk("sda", len(disk), "raw", "g", False)
    return writer.commit(
        taken_at=scene.clock(), route=Route.HOST, consistency=LABEL, freeze=None, disks=(row,)
    )


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
    before = stored(scene)
    plan = scene.vault.plan_collect()
    (old,) = plan.repack.packs
    done = scene.vault.collect(plan)
    assert done.repack.packs == (old,)
    assert 2 * SMALL_CHUNK < done.copied_bytes <= plan.repack.copy_bytes + 100
    assert pack_key(old) in packs(scene), "readers may be at it still"
    assert_sound(scene, KEPT)
    collect_to_the_end(scene)
    assert pack_key(old) not in packs(scene)
    assert stored(scene) < before / 1.5
    assert_sound(scene, KEPT)
    assert list(scene.store.list("garbage/")) == []


def test_nothing_moves_twice(scene: Scene) -> None:
    collect(scene)
    scene.clock.advance(hours=1)
    again = scene.reopened().vault.plan_collect()
    assert again.repack.packs == ()
    assert again.waiting_bytes > 0


def test_a_run_is_limited_in_bytes_and_the_next_one_goes_on(paper: PaperStore) -> None:
    clock = FakeClock()
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


def changes_of_a_collection(paper: PaperStore, clock: FakeClock) -> int:
    counted = FaultyStore(paper.copy())
    collect(Scene.at(counted, clock))
    return counted.changes


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("ripe", [False, True], ids=["copying", "deleting"])
def test_killed_at_any_change_it_loses_nothing_and_is_made_up_for(
    scene: Scene, paper: PaperStore, clock: FakeClock, ripe: bool, after: bool
) -> None:
    if ripe:
        collect(scene)
        clock.advance(hours=30)
    began = clock.now
    steps = changes_of_a_collection(paper, clock)
    assert steps >= 5
    sizes = set()
    for step in range(1, steps + 1):
        clock.now = began
        here = paper.copy()
        dying = FaultyStore(here)
        dying.die_at = step, after
        with pytest.raises(Killed):
            collect(Scene.at(dying, clock))
        left = Scene.at(here, clock)
        assert_sound(left, KEPT)
        collect_to_the_end(left)
        assert_sound(left, KEPT)
        sizes.add(stored(left))
        assert [info.key for info in here.list("sessions/")] == []
    assert max(sizes) < stored(scene) / 1.3, "nothing that is in nobody's use stays for good"


def test_a_writer_that_took_dead_chunks_of_the_pack_for_good_keeps_it(scene: Scene) -> None:
    """It began before the mark and deduplicates against what is not copied, even afterwards."""
    other = scene.reopened()
    writer, target = run_writer(other, "again", OLD)
    (old,) = scene.vault.plan_collect().repack.packs
    collect(scene)
    target.put(0, memoryview(OLD))
    for _ in range(3):
        scene.clock.advance(hours=20)
        writer._beat()
        collect(scene.reopened())
        assert pack_key(old) in packs(scene)
    commit(other, writer, OLD)
    collect_to_the_end(scene)
    assert_sound(scene, KEPT, OLD)


def test_a_writer_after_the_mark_does_not_rely_on_the_pack(scene: Scene) -> None:
    (old,) = scene.vault.plan_collect().repack.packs
    collect(scene)
    scene.clock.advance(hours=23)
    other = scene.reopened()
    writer, target = run_writer(other, "again", OLD)
    target.put(0, memoryview(OLD))
    scene.clock.advance(hours=7)
    collect(scene.reopened())
    assert pack_key(old) not in packs(scene), "this writer does not hold it"
    commit(other, writer, OLD)
    assert_sound(scene, KEPT, OLD)


def test_a_reader_that_knows_only_the_old_place_finds_the_new_one(scene: Scene) -> None:
    reader = scene.reopened()
    point = reader.vault.points("mail")[0]
    disk = reader.vault.reader(point.id, "sda")
    collect_to_the_end(scene)
    data = bytearray(disk.size_bytes)
    disk.read_into(0, memoryview(data))
    assert bytes(data) == KEPT


def test_another_collection_in_the_midst_of_it_stays_away(scene: Scene, paper: PaperStore) -> None:
    watched = FaultyStore(paper)
    refused: list[str] = []

    def another(call: Call) -> None:
        if call.operation == "put" and call.key.startswith(("packs/", "garbage/", "index/")):
            with pytest.raises(Failure) as caught:
                collect(scene.reopened())
            refused.append(caught.value.code)

    watched.before = another
    collect(scene.reopened(watched))
    assert set(refused) == {"vault.collect-running"}
    assert len(refused) >= 3
    collect_to_the_end(scene)
    assert_sound(scene, KEPT)


@pytest.mark.parametrize("prefix", ["packs/", "index/", "garbage/"])
def test_a_collection_that_sleeps_for_days_and_wakes_beside_another_loses_nothing(
    scene: Scene, paper: PaperStore, clock: FakeClock, prefix: str
) -> None:
    """Its lease is taken over, its packs come twice, what it marked is marked already."""
    for operation in ("put", "delete"):
        here = paper.copy()
        sleepy = FaultyStore(here)
        slept: list[str] = []

        def sleep(
            call: Call, here: PaperStore = here, slept: list[str] = slept, kind: str = operation
        ) -> None:
            if not slept and call.operation == kind and call.key.startswith(prefix):
                slept.append(call.key)
                collect_to_the_end(Scene.at(here, clock), runs=3)

        sleepy.before = sleep
        for _ in range(3):
            try:
                collect(Scene.at(sleepy, clock))
            except Failure as failure:
                assert failure.code == "vault.collect-running"  # noqa: PT017 - it may also end well
            clock.advance(hours=30)
        assert slept
        collect_to_the_end(Scene.at(here, clock))
        assert_sound(Scene.at(here, clock), KEPT)


@pytest.mark.parametrize("minutes", [-50, 50])
def test_clocks_that_disagree_lose_nothing(scene: Scene, minutes: int) -> None:
    """The writer says it began later, or earlier, than it did by the collection's clock."""
    other = scene.reopened()
    scene.clock.advance(minutes=minutes)
    writer, target = run_writer(other, "again", OLD)
    scene.clock.advance(minutes=-minutes)
    target.put(0, memoryview(OLD))
    for _ in range(4):
        collect(scene.reopened())
        scene.clock.advance(hours=8)
        writer._beat()
    commit(other, writer, OLD)
    collect_to_the_end(scene)
    assert_sound(scene, KEPT, OLD)


@pytest.mark.parametrize("hidden", ["garbage/", "packs/", "index/", "points/", "sessions/", ""])
def test_lists_that_are_late_lose_nothing(
    scene: Scene, paper: PaperStore, clock: FakeClock, hidden: str
) -> None:
    late: Store = StaleLists(paper, clock, 3000, lambda key: key.startswith(hidden))
    other = Scene.at(late, clock)
    writer, target = run_writer(other, "again", OLD)
    collect(Scene.at(late, clock))
    clock.advance(minutes=20)
    target.put(0, memoryview(OLD))
    for _ in range(5):
        clock.advance(hours=13)
        writer._beat()
        collect(Scene.at(late, clock))
    commit(other, writer, OLD)
    for _ in range(3):
        collect(Scene.at(late, clock))  # at once: the point may not be listed yet
        clock.advance(minutes=10)
    third = Scene.at(late, clock)
    third.backup("third", KEPT[:SMALL_CHUNK] + OLD[SMALL_CHUNK:], vm="web")
    for _ in range(4):
        collect(Scene.at(late, clock))
        clock.advance(minutes=30)
    collect_to_the_end(Scene.at(late, clock))
    clock.advance(hours=4)
    assert_sound(scene, KEPT, OLD, KEPT[:SMALL_CHUNK] + OLD[SMALL_CHUNK:])


def test_a_pack_that_a_late_list_still_shows_is_not_referred_to(
    scene: Scene, paper: PaperStore, clock: FakeClock
) -> None:
    """A process that has known the pack all along sees it deleted late, and its mark on time."""
    late: Store = StaleLists(paper, clock, 3000, lambda key: key.startswith("packs/"))
    (old,) = scene.vault.plan_collect().repack.packs
    long_lived = Scene.at(late, clock)
    collect(Scene.at(late, clock))
    clock.advance(hours=30)
    for _ in range(2):
        collect(Scene.at(late, clock))
        assert pack_key(old) not in packs(scene)
        assert pack_key(old) in {info.key for info in late.list("packs/")}
    long_lived.backup("again", OLD)
    assert_sound(scene, KEPT, OLD)


def test_a_damaged_chunk_keeps_its_pack_and_the_rest_is_collected(
    scene: Scene, paper: PaperStore
) -> None:
    (old,) = scene.vault.plan_collect().repack.packs
    data, at = paper.objects[pack_key(old)]
    paper.objects[pack_key(old)] = data[:100] + bytes([data[100] ^ 1]) + data[101:], at
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
    commit(fresh, writer, OLD)
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
