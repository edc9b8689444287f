"""Garbage that waits for its second phase: how much, until when, and for whom."""

from __future__ import annotations

from datetime import timedelta

import pytest
from paper_store import PaperStore
from vault_scene import FakeClock, Scene, disk_of

from quiesce.service.collecting import told
from quiesce.service.vault_views import collect_view
from quiesce.vault.upkeep.collect_plan import CLOCK_SKEW, MARGIN


@pytest.fixture
def scene(paper: PaperStore, clock: FakeClock) -> Scene:
    """A point that is deleted, half a day after it was made."""
    scene = Scene.create(paper, clock)
    point = scene.backup("one", disk_of(1, 2, 3))
    clock.advance(hours=12)
    scene.delete(point)
    return scene


def collected(scene: Scene) -> list[str]:
    """What a collection by another process says of itself."""
    there = scene.reopened().vault
    return told(collect_view(there.collect(there.plan_collect()), executed=True))


def planned(scene: Scene) -> list[str]:
    return told(collect_view(scene.reopened().vault.plan_collect()))


def test_what_is_marked_says_at_once_when_it_may_go(scene: Scene, clock: FakeClock) -> None:
    due = clock() + MARGIN
    words = collected(scene)
    assert words[0].startswith("Marked as garbage, for a day at least: 1 pack, ")
    assert words[1].startswith("Marked, and waiting for its second phase: 1 pack, ")
    assert words[1].endswith(f"May be deleted from {due:%Y-%m-%d %H:%M} UTC (in 1 d 0 h) on.")


def test_a_plan_tells_the_hour_and_how_long_it_is_until_then(
    scene: Scene, clock: FakeClock, paper: PaperStore
) -> None:
    collected(scene)
    due = clock() + MARGIN
    clock.advance(hours=21)
    (waiting,) = scene.reopened().vault.plan_collect().waiting
    (key,) = paper.keys("packs/")
    assert (waiting.due_at, waiting.packs, waiting.held_by) == (due, 1, 0)
    assert waiting.size_bytes == len(paper.objects[key][0])
    (line,) = planned(scene)
    assert f"{due:%Y-%m-%d %H:%M} UTC (in 3 h 00 min) on." in line
    clock.advance(hours=3)
    assert scene.reopened().vault.plan_collect().waiting == ()
    assert collected(scene)[0].startswith("Deleted: 1 pack, ")
    assert paper.keys("packs/") == []


def test_packs_are_told_by_the_mark_that_lets_them_go_first(scene: Scene, clock: FakeClock) -> None:
    collected(scene)
    first = clock() + MARGIN
    other = scene.backup("two", disk_of(8, 9), vm="mail")
    clock.advance(hours=12)
    scene.delete(other)
    collected(scene)
    plan = scene.reopened().vault.plan_collect()
    assert [(each.due_at, each.packs) for each in plan.waiting] == [
        (first, 1),
        (clock() + MARGIN, 1),
    ]
    assert plan.waiting_bytes == sum(each.size_bytes for each in plan.waiting)


def test_a_backup_that_may_rely_on_it_is_named_as_the_reason(
    scene: Scene, clock: FakeClock, paper: PaperStore
) -> None:
    collected(scene)
    due = clock() + MARGIN
    clock.advance(hours=1)
    writer = scene.reopened().vault.writer("web", "slow")
    writer.disk("sda", 10).put(0, memoryview(bytes(10)))
    for _ in range(13):
        clock.advance(hours=2)
        writer._beat()
        collected(scene)
    (line,) = planned(scene)
    assert line.endswith(
        f"May be deleted from {due:%Y-%m-%d %H:%M} UTC (due by now) on, once the backup or copy "
        "that may rely on it has ended."
    )
    assert paper.keys("packs/")
    writer.abandon()
    (line,) = planned(scene)
    assert line.startswith("To delete: 1 pack, ")


def test_a_deleted_point_that_a_backup_may_build_on_is_told(scene: Scene, clock: FakeClock) -> None:
    writer = scene.reopened().vault.writer("web", "slow")
    writer.disk("sda", 10).put(0, memoryview(bytes(10)))
    clock.advance(hours=4)
    (line,) = planned(scene)
    assert line == (
        "1 deleted point may be what a backup or copy builds on that began before the deletion: "
        "what it holds is not marked before that has ended."
    )
    writer.abandon()
    assert planned(scene)[0].startswith("To mark as garbage")


def test_what_was_stored_lately_and_nothing_refers_to_says_when_it_may_be_marked(
    paper: PaperStore, clock: FakeClock
) -> None:
    scene = Scene.create(paper, clock)
    scene.delete(scene.backup("one", disk_of(1, 2)))
    made = clock()
    clock.advance(hours=1)
    unmarked = scene.reopened().vault.plan_collect().unmarked
    assert unmarked is not None
    assert unmarked.packs == 1
    assert abs(unmarked.from_at - (made + CLOCK_SKEW)) < timedelta(seconds=1)
    (line,) = planned(scene)
    assert line.startswith("Stored lately, and nothing refers to it yet or any more: 1 pack, ")
    assert "UTC (in 2 h 00 min), nor while" in line
    clock.advance(hours=3)
    assert scene.reopened().vault.plan_collect().unmarked is None


def test_an_empty_vault_waits_for_nothing(paper: PaperStore, clock: FakeClock) -> None:
    scene = Scene.create(paper, clock)
    assert planned(scene)[0].startswith("There is no garbage to mark or to delete now.")


def test_packs_that_were_copied_out_of_wait_too(
    scene: Scene, clock: FakeClock, paper: PaperStore
) -> None:
    """Of the deleted point's pack another point needs a chunk: it is copied out of."""
    scene.backup("two", disk_of(1), vm="mail")
    clock.advance(hours=12)
    there = scene.reopened().vault
    done = there.collect(there.plan_collect())
    assert done.repack.packs
    assert done.waiting[-1].packs == len(done.mark) + len(done.repack.packs)
    assert done.waiting[-1].due_at == clock() + MARGIN
    again = scene.reopened().vault.plan_collect()
    assert [(w.due_at, w.packs, w.size_bytes) for w in again.waiting] == [
        (w.due_at, w.packs, w.size_bytes) for w in done.waiting
    ]
