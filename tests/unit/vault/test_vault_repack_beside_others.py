"""Live chunks move while writers, readers and other collections are at it, clocks disagree, lists
are late, and whoever moves them is killed."""

from __future__ import annotations

import pytest
from faulty_store import Call, FaultyStore, Killed
from paper_store import PaperStore, StaleLists
from repack_scene import KEPT, OLD, assert_sound, collect, collect_to_the_end, packs, run_writer
from small_vault import SMALL_CHUNK, stored
from vault_scene import FakeClock, Scene

from quiesce.model.failure import Failure
from quiesce.vault.format.pack import pack_key
from quiesce.vault.stores.store import Store


@pytest.fixture
def scene(mostly_dead: Scene) -> Scene:
    return mostly_dead


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
        sizes.add(stored(left.store))
        assert [info.key for info in here.list("sessions/")] == []
    assert max(sizes) < stored(scene.store) / 1.3, "nothing that is in nobody's use stays for good"


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
    other.commit(writer, len(OLD))
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
    other.commit(writer, len(OLD))
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
    other.commit(writer, len(OLD))
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
    other.commit(writer, len(OLD))
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
