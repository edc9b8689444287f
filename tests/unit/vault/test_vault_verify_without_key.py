"""Packs and sealed objects checked by whoever has no key."""

from __future__ import annotations

import pytest
from paper_store import PaperStore
from small_vault import stored
from vault_scene import Scene

from quiesce.model.failure import JobFailure
from quiesce.model.progress import Progress
from quiesce.vault.upkeep.budget import Budget
from quiesce.vault.upkeep.verify_packs import verify_packs
from quiesce.vault.upkeep.verify_report import Verdict


@pytest.fixture
def scene(web_and_mail: Scene) -> Scene:
    return web_and_mail


def test_packs_are_checked_without_any_key(scene: Scene, paper: PaperStore) -> None:
    seen: list[Progress] = []
    report = verify_packs(paper, on_progress=seen.append)
    assert report.findings == ()
    assert report.covered_share == 1.0
    assert report.packs_checked == len(paper.keys("packs/"))
    assert report.bytes_read == seen[-1].done_bytes == seen[-1].total_bytes == stored(paper)
    assert report.verdict is Verdict.NOTHING_FOUND, "what is missing cannot be told without a key"


@pytest.mark.parametrize("folder", ["packs", "points", "index"])
def test_any_flipped_bit_is_found_without_a_key(
    scene: Scene, paper: PaperStore, folder: str
) -> None:
    victim = paper.keys(f"{folder}/")[0]
    for at in range(0, len(paper.objects[victim][0]), 97):
        paper.spoil(victim, at)
        report = verify_packs(paper)
        assert [finding.object for finding in report.findings] == [victim]
        assert report.verdict is Verdict.DAMAGED
        paper.spoil(victim, at)


def test_a_check_without_a_key_goes_on_where_it_stopped(scene: Scene, paper: PaperStore) -> None:
    checked, cursor = 0, ""
    budget = Budget(requests=len(paper.keys()) // 2 + 8)
    for _ in range(10):
        report = verify_packs(paper, budget=budget, cursor=cursor)
        checked += report.packs_checked
        assert report.requests <= budget.requests  # type: ignore[operator]
        cursor = report.cursor
        if not cursor:
            break
    assert checked == len(paper.keys("packs/"))
    with pytest.raises(JobFailure):
        verify_packs(paper, cancelled=lambda: True)


def test_a_check_without_a_key_comes_to_every_sealed_object_in_small_steps(
    scene: Scene, paper: PaperStore
) -> None:
    spoiled = [paper.keys("points/")[-1], paper.keys("index/")[0]]
    for key in spoiled:
        paper.spoil(key)
    found: list[str] = []
    cursor = ""
    for budget in (Budget(bytes=1), *[Budget(requests=len(paper.keys()) // 2 + 8)] * 10):
        report = verify_packs(paper, budget=budget, cursor=cursor)
        found += [finding.object for finding in report.findings]
        cursor = report.cursor
        if not cursor:
            break
    assert not cursor
    assert sorted(found) == sorted(spoiled)
