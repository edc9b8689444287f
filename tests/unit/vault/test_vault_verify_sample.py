"""Chunks that are drawn, restored, and what they say of all others."""

from __future__ import annotations

import pytest
from paper_store import PaperStore
from small_vault import SMALL_CHUNK, WEB, small_scene
from vault_scene import FakeClock, Scene

from quiesce.model.failure import Failure
from quiesce.vault.upkeep.budget import Budget
from quiesce.vault.upkeep.verify_report import Verdict


@pytest.fixture
def scene(web_and_mail: Scene) -> Scene:
    return web_and_mail


def test_a_sample_is_restored_and_repeated_by_its_seed(scene: Scene) -> None:
    report = scene.vault.verify("sample", sample=40)
    assert report.sample is not None
    assert report.sample.restored == report.sample.wanted == 40
    assert report.sample.size_bytes == 40 * SMALL_CHUNK
    assert report.sample.damaged_share_below == pytest.approx(0.072, abs=0.001)
    assert report.verdict is Verdict.NOTHING_FOUND
    again = scene.reopened().vault.verify("sample", sample=40, seed=report.sample.seed)
    assert again.sample == report.sample


def test_a_sample_comes_to_every_chunk_of_every_point(scene: Scene, paper: PaperStore) -> None:
    """However the dice fall, enough draws find one chunk in forty-five."""
    paper.spoil(scene.place_of("web", 29)[0])
    report = scene.reopened().vault.verify("sample", sample=400, seed=1)
    assert report.verdict is Verdict.DAMAGED
    assert report.sample is not None
    assert report.sample.failed
    assert report.sample.damaged_share_below is None
    assert all("disk sda" in why for why in report.sample.failed)
    assert [health.vm for health in report.points if not health.intact] == ["web"]
    # It is on record: the next backup stores the chunk anew.
    assert scene.reopened().backup("web-2", WEB).stored_bytes > 0


@pytest.mark.parametrize("leaf", [True, False], ids=["leaf", "node"])
def test_a_sample_does_not_pass_over_what_a_damaged_part_of_a_map_leads_to(
    scene: Scene, paper: PaperStore, leaf: bool
) -> None:
    """A disk up to 8 GiB has one node: without it nothing of the disk can be drawn."""
    paper.spoil(*scene.map_part_of("web", leaf=leaf))
    there = scene.reopened()
    report = there.vault.verify("sample", sample=60, seed=1)
    assert report.verdict is Verdict.DAMAGED
    assert report.sample is not None
    assert report.sample.failed
    assert report.sample.restored + len(report.sample.failed) == 60
    assert all("disk sda, its map" in why for why in report.sample.failed)
    assert report.sample.damaged_share_below is None
    assert [health.vm for health in report.hurt] == ["web"]
    assert len(report.findings) == len(paper.keys("damage/")) == 1
    with pytest.raises(Failure) as refused:
        there.restore(there.vault.points("web")[0])
    assert refused.value.code == "vault.corrupt-chunk"
    # It is on record: the next backup stores it anew, for both points.
    scene.reopened().backup("web-2", WEB)
    healed = scene.reopened()
    assert [healed.restore(point) for point in healed.vault.points("web")] == [WEB, WEB]
    again = healed.vault.verify("sample", sample=60, seed=1)
    assert again.verdict is Verdict.NOTHING_FOUND
    assert again.sample is not None
    assert again.sample.restored == 60


def test_a_sample_tells_of_what_no_pack_holds_any_more(scene: Scene, paper: PaperStore) -> None:
    """Neither a pack nor a segment is left that could be found damaged or missing."""
    del paper.objects[scene.map_part_of("web")[0]]
    for key in paper.keys("index/"):
        del paper.objects[key]
    report = scene.reopened().vault.verify("sample", sample=60, seed=1)
    assert report.findings == ()
    assert report.sample is not None
    assert report.sample.failed
    assert report.verdict is Verdict.DAMAGED
    assert [health.vm for health in report.hurt] == ["web"]


def test_a_sample_that_its_limit_ends_tells_of_the_failures_up_to_there(
    scene: Scene, paper: PaperStore
) -> None:
    paper.spoil(*scene.map_part_of("web", leaf=True))
    least = scene.reopened().vault.verify("sample", budget=Budget(requests=0)).requests
    limit = Budget(requests=least + 12)
    report = scene.reopened().vault.verify("sample", sample=400, seed=1, budget=limit)
    assert report.stopped_by == "requests"
    assert report.sample is not None
    assert report.sample.failed
    assert report.verdict is Verdict.DAMAGED


def test_a_sample_of_nothing_but_zeros_ends(paper: PaperStore, clock: FakeClock) -> None:
    scene = small_scene(paper, clock)
    scene.backup("empty", bytes(64 * SMALL_CHUNK))
    report = scene.vault.verify("sample", sample=10)
    assert report.sample is not None
    assert report.sample.restored == 0
    assert report.sample.damaged_share_below is None
