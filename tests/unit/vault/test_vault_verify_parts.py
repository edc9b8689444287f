"""A round in parts says of damage what one in a single run says, whichever part comes to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faulty_store import Fault, FaultyStore, Rule
from paper_store import PaperStore
from small_vault import small_disk, small_packs, small_scene, stored
from vault_scene import FakeClock, Scene

from quiesce.vault.upkeep.budget import Budget
from quiesce.vault.upkeep.verify_report import Verdict, VerifyReport

MODES = ["structure", "packs", "chunks"]


def disk(number: int) -> bytes:
    return small_disk(*range(1001 + 100 * number, 1060 + 100 * number, 2))


@pytest.fixture
def scene(paper: PaperStore, clock: FakeClock) -> Iterator[Scene]:
    """Eight VMs with a point each, of which no two share anything; the oldest is of vm-0."""
    with small_packs():
        there = small_scene(paper, clock)
        for number in range(8):
            clock.advance(hours=1)
            there.backup(f"p-{number}", disk(number), vm=f"vm-{number}")
        clock.advance(hours=1)
        yield there.reopened()


def first_part(scene: Scene, mode: str) -> VerifyReport:
    """Of a round that its limit ends in the midst of the walk through the maps: some points have
    been looked at, vm-0 among them, and some have not."""
    requests = scene.reopened().vault.verify(mode).requests
    for fewer in range(requests):
        limit = Budget(requests=requests - fewer)
        part = scene.reopened().vault.verify(mode, budget=limit)
        if 3 <= len(part.points) < 8:
            assert part.stopped_by == "requests"
            return part
    raise AssertionError("no limit ends it there")


def rest_of(scene: Scene, mode: str, part: VerifyReport) -> VerifyReport:
    return scene.reopened().vault.verify(mode, cursor=part.cursor)


@pytest.mark.parametrize("mode", MODES)
def test_damage_of_points_before_the_cursor_is_not_called_healed(
    scene: Scene, paper: PaperStore, mode: str
) -> None:
    pack, at = scene.place_of("vm-0", 3)
    paper.spoil(pack, at + 5)
    assert scene.reopened().vault.verify("chunks").verdict is Verdict.DAMAGED
    first = first_part(scene, mode)
    assert [health.vm for health in first.hurt] == ["vm-0"]
    last = rest_of(scene, mode, first)
    assert "vm-0" not in {health.vm for health in last.points}
    assert last.cursor == ""
    assert last.damaged_before
    assert last.verdict is Verdict.DAMAGED
    assert [finding.healed for finding in last.findings] == [False]


@pytest.mark.parametrize("mode", MODES)
def test_damage_that_hurts_no_point_is_called_healed_by_the_last_part(
    scene: Scene, paper: PaperStore, mode: str
) -> None:
    paper.spoil(scene.place_of("vm-0", 3)[0])
    assert scene.reopened().vault.verify("chunks").verdict is Verdict.DAMAGED
    scene.clock.advance(hours=1)
    scene.reopened().backup("again", disk(0), vm="vm-0")
    first = first_part(scene, mode)
    last = rest_of(scene, mode, first)
    assert first.points
    assert last.points
    assert len(first.points) + len(last.points) == 9, "none was looked at twice"
    assert last.verdict is Verdict.INTACT
    assert [finding.healed for finding in last.findings] == [True]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_known_as_damaged_since_an_earlier_part_makes_the_walk_begin_again(
    scene: Scene, paper: PaperStore, mode: str
) -> None:
    first = first_part(scene, mode)
    assert first.verdict is Verdict.NOTHING_FOUND
    pack, _ = scene.place_of("vm-0", 3)
    del paper.objects[pack]
    last = rest_of(scene, mode, first)
    assert len(last.points) == 8
    assert [health.vm for health in last.hurt] == ["vm-0"]
    assert last.verdict is Verdict.DAMAGED


def test_a_map_that_one_part_could_not_read_is_not_forgotten_by_the_next(
    scene: Scene, paper: PaperStore
) -> None:
    """Also where the first may not record it."""
    paper.spoil(*scene.map_part_of("vm-0"))
    first = first_part(scene, "structure")
    assert [health.vm for health in first.hurt] == ["vm-0"]
    assert rest_of(scene, "structure", first).verdict is Verdict.DAMAGED


@pytest.mark.parametrize("mode", ["packs", "chunks"])
def test_damage_that_could_not_be_recorded_is_not_forgotten_by_later_parts(
    scene: Scene, paper: PaperStore, mode: str
) -> None:
    pack, at = scene.place_of("vm-0", 3)
    paper.spoil(pack, at + 5)
    reports: list[VerifyReport] = []
    while not reports or reports[-1].cursor:
        far = FaultyStore(paper)
        far.rules.append(Rule("put", Fault.READ_ONLY, "", 0))
        limit = Budget(bytes=stored(paper) // 4)
        cursor = reports[-1].cursor if reports else ""
        reports.append(scene.reopened(far).vault.verify(mode, budget=limit, cursor=cursor))
        assert len(reports) < 20
    assert len(reports) > 2
    (finder,) = (n for n, report in enumerate(reports) if report.findings)
    assert finder < len(reports) - 1
    assert reports[-1].damaged_before
    assert reports[-1].verdict is Verdict.DAMAGED
