"""How far long work on a vault is, and how fast it goes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from paper_store import PaperStore
from repack_scene import KEPT, OLD
from small_vault import small_packs, small_scene
from vault_scene import FakeClock, Scene

from quiesce.model.failure import JobFailure
from quiesce.model.progress import Progress
from quiesce.vault.upkeep.pace import Pace


class Watch:
    def __init__(self) -> None:
        self.now = 0.0
        self.seen: list[Progress] = []
        self.pace = Pace(self.seen.append, lambda: self.now)

    def after(self, seconds: float, done_bytes: int) -> Progress:
        self.now += seconds
        self.pace.advance(done_bytes)
        return self.seen[-1]


def test_the_rate_is_that_of_the_phase_and_of_its_last_ten_seconds() -> None:
    watch = Watch()
    watch.now = 1000.0  # whatever went before
    watch.pace.begin("first", 1000)
    assert watch.seen[-1] == Progress(0, 1000, phase="first")
    assert watch.after(1, 100).rate == 100
    now = watch.after(1, 300)
    assert (now.rate, now.eta_seconds) == (200, 3)
    for _ in range(20):
        now = watch.after(1, 10)
    assert now.rate == 10
    watch.pace.begin("second", 50, done_bytes=40)
    now = watch.after(2, 4)
    assert (now.done_bytes, now.rate, now.eta_seconds, now.phase) == (44, 2, 3, "second")


def test_no_more_is_done_than_there_is_to_do() -> None:
    watch = Watch()
    watch.pace.begin("some", 10)
    assert watch.after(1, 15).total_bytes == 15
    watch.pace.begin("unknown")
    now = watch.after(1, 15)
    assert (now.total_bytes, now.eta_seconds) == (0, None)


@pytest.fixture
def scene(paper: PaperStore, clock: FakeClock) -> Iterator[Scene]:
    with small_packs():
        scene = small_scene(paper, clock)
        old = scene.backup("one", OLD)
        scene.backup("two", KEPT)
        scene.delete(old)
        clock.advance(hours=30)
        yield scene


def test_a_collection_tells_of_each_of_its_phases_how_far_it_is(scene: Scene) -> None:
    told: dict[str, Progress] = {}
    for _ in range(3):
        seen: list[Progress] = []
        vault = scene.reopened().vault
        plan = vault.plan_collect(on_progress=seen.append)
        done = vault.collect(plan, on_progress=seen.append)
        for progress in seen:
            assert progress.done_bytes <= progress.total_bytes or not progress.total_bytes
        last = {progress.phase: progress for progress in seen if progress.total_bytes}
        if done.delete:
            assert last["Deleting packs"].total_bytes == done.delete_bytes > 0
        if done.repack.packs:
            assert last["Copying out of packs"].total_bytes == sum(done.repack.each_bytes) > 0
        told |= last
        scene.clock.advance(hours=30)
    assert told.keys() == {"Looking at points", "Deleting packs", "Copying out of packs"}
    for progress in told.values():
        assert progress.done_bytes == progress.total_bytes
        assert progress.rate > 0
        assert progress.eta_seconds == 0


def test_a_look_for_garbage_can_be_stopped(scene: Scene) -> None:
    with pytest.raises(JobFailure, match="cancelled"):
        scene.vault.plan_collect(cancelled=lambda: True)


@pytest.mark.parametrize("mode", ["packs", "chunks", "sample"])
def test_a_verification_tells_rate_and_time_left_of_each_phase(scene: Scene, mode: str) -> None:
    seen: list[Progress] = []
    scene.vault.verify(mode, sample=5, on_progress=seen.append)
    last = {progress.phase: progress for progress in seen}
    assert last.keys() == ({"sample"} if mode == "sample" else {"packs", "maps"})
    for progress in last.values():
        assert progress.done_bytes == progress.total_bytes > 0
        assert progress.rate > 0


def test_looking_at_what_a_deletion_frees_tells_how_far_it_is_and_can_be_stopped(
    scene: Scene,
) -> None:
    (point,) = scene.vault.points()
    seen: list[Progress] = []
    scene.vault.plan_deletion([point.id], on_progress=seen.append)
    assert seen[-1].done_bytes == seen[-1].total_bytes == point.size_bytes
    assert seen[-1].rate > 0
    with pytest.raises(JobFailure, match="cancelled"):
        scene.vault.plan_deletion([point.id], cancelled=lambda: True)
