"""Chunks that are drawn, restored, and what they say of all others."""

from __future__ import annotations

import pytest
from paper_store import PaperStore
from small_vault import SMALL_CHUNK, WEB, small_scene
from vault_scene import FakeClock, Scene

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


def test_a_sample_of_nothing_but_zeros_ends(paper: PaperStore, clock: FakeClock) -> None:
    scene = small_scene(paper, clock)
    scene.backup("empty", bytes(64 * SMALL_CHUNK))
    report = scene.vault.verify("sample", sample=10)
    assert report.sample is not None
    assert report.sample.restored == 0
    assert report.sample.damaged_share_below is None
