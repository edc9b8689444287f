"""A round in parts says of damage what one in a single run says, whichever part comes to it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
from faulty_store import Fault, FaultyStore, Rule
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_store import PaperStore
from small_vault import small_disk, small_packs, small_scene, stored
from vault_scene import FakeClock, Scene

from quiesce.model.failure import Failure
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


def read_only(paper: PaperStore) -> FaultyStore:
    far = FaultyStore(paper)
    far.rules.append(Rule("put", Fault.READ_ONLY, "", 0))
    far.rules.append(Rule("delete", Fault.READ_ONLY, "", 0))
    return far


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


@pytest.mark.parametrize("writable", [True, False])
def test_a_map_that_one_part_could_not_read_is_not_forgotten_by_the_next(
    scene: Scene, paper: PaperStore, writable: bool
) -> None:
    """Where it is recorded, and where it cannot be."""
    paper.spoil(*scene.map_part_of("vm-0"))
    scene = scene.reopened(None if writable else read_only(paper))
    first = first_part(scene, "structure")
    assert [health.vm for health in first.hurt] == ["vm-0"]
    assert bool(paper.keys("damage/")) == writable
    assert rest_of(scene, "structure", first).verdict is Verdict.DAMAGED


def in_quarters(scene: Scene, paper: PaperStore, mode: str) -> list[VerifyReport]:
    """A whole round, each part by a process of its own."""
    reports: list[VerifyReport] = []
    while not reports or reports[-1].cursor:
        limit = Budget(bytes=stored(paper) // 4)
        cursor = reports[-1].cursor if reports else ""
        reports.append(scene.reopened().vault.verify(mode, budget=limit, cursor=cursor))
        assert len(reports) < 20
    assert len(reports) > 2
    return reports


@pytest.mark.parametrize("mode", ["packs", "chunks"])
def test_damage_that_could_not_be_recorded_is_not_forgotten_by_later_parts(
    scene: Scene, paper: PaperStore, mode: str
) -> None:
    spoiled = paper.keys("packs/")[0]
    paper.spoil(spoiled)
    reports = in_quarters(scene.reopened(read_only(paper)), paper, mode)
    assert [finding.object for finding in reports[0].findings] == [spoiled]
    assert reports[-1].damaged_before
    assert reports[-1].verdict is Verdict.DAMAGED


@cache
def eight_points() -> tuple[PaperStore, FakeClock, dict[str, bytes]]:
    clock = FakeClock()
    paper = PaperStore(clock)
    disks = {}
    with small_packs():
        there = small_scene(paper, clock)
        for number in range(8):
            clock.advance(hours=1)
            # Of each two neighbours the later one shares what the earlier one has.
            content = disk(number) if number % 2 == 0 else disk(number - 1) + disk(number)
            disks[there.backup(f"p-{number}", content, vm=f"vm-{number}").id] = content
    return paper, clock, disks


def reads(scene: Scene, point_id: str, content: bytes) -> bool:
    try:
        return scene.restore(point_id) == content
    except Failure:
        return False


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(["packs", "chunks"]),
    harms=st.lists(st.tuples(st.integers(0, 99), st.floats(0, 0.999)), max_size=2),
    removed=st.booleans(),
    limits=st.lists(st.integers(20, 90), min_size=1, max_size=6),
    found_first=st.booleans(),
)
def test_a_round_in_any_parts_ends_as_the_points_read(
    mode: str,
    harms: list[tuple[int, float]],
    removed: bool,
    limits: list[int],
    found_first: bool,
) -> None:
    paper, clock, disks = eight_points()
    scene = Scene.at(paper.copy(), clock)
    there = scene.store
    assert isinstance(there, PaperStore)
    for which, at in harms:
        key = there.keys("packs/")[which % len(there.keys("packs/"))]
        if removed:
            del there.objects[key]
        else:
            there.spoil(key, int(at * len(there.objects[key][0])))
    if found_first:
        scene.reopened().vault.verify(mode)
    report, more = scene.reopened().vault.verify(mode, budget=Budget(requests=limits[0])), 0
    for limit in [*limits[1:], *range(60, 600, 20)]:
        if not report.cursor:
            break
        more = more + 20 if report.stuck else more
        budget = Budget(requests=limit + more)
        report = scene.reopened().vault.verify(mode, budget=budget, cursor=report.cursor)
    assert report.cursor == ""
    after = scene.reopened()
    whole = all(reads(after, point_id, content) for point_id, content in disks.items())
    assert report.verdict is (Verdict.INTACT if whole else Verdict.DAMAGED)


def spoilt_record(scene: Scene, paper: PaperStore, *, copied: bool = False) -> str:
    """A record of damage that cannot be read any more; or one that is whole, and a copy of another,
    as whoever may only add can make it."""
    key, copy = "damage/" + "ab" * 16, "damage/" + "cd" * 16
    values = {"at": scene.clock(), "pack": "00" * 32, "chunks": ["11" * 32]}
    scene.vault.contents.records.put(key, "damage", values)
    if copied:
        paper.put(copy, paper.get(key, limit_bytes=10_000))
        return copy
    paper.spoil(key)
    return key


def refusal(scene: Scene) -> str:
    """Why nothing can be collected now."""
    try:
        scene.reopened().vault.plan_collect()
    except Failure as failure:
        return failure.code
    return ""


@pytest.mark.parametrize("copied", [True, False], ids=["a copy under another name", "rotten"])
@pytest.mark.parametrize("mode", ["packs", "chunks"])
def test_a_round_in_parts_ends_with_an_unreadable_record_removed(
    scene: Scene, paper: PaperStore, mode: str, copied: bool
) -> None:
    """Which is the remedy of a collection that it keeps from running."""
    record = spoilt_record(scene, paper, copied=copied)
    assert refusal(scene) == "vault.collect-refused"
    *earlier, last = in_quarters(scene, paper, mode)
    for report in earlier:
        assert report.verdict is Verdict.DAMAGED
        assert (record, False) in {(f.object, f.healed) for f in report.findings}
    assert last.verdict is Verdict.INTACT
    assert (record, True) in {(f.object, f.healed) for f in last.findings}
    assert record not in paper.keys("damage/")
    assert refusal(scene) == ""


def test_a_record_that_cannot_be_removed_keeps_the_last_part_from_being_intact(
    scene: Scene, paper: PaperStore
) -> None:
    record = spoilt_record(scene, paper)
    last = in_quarters(scene.reopened(read_only(paper)), paper, "packs")[-1]
    assert last.verdict is Verdict.DAMAGED
    assert [(f.object, f.healed) for f in last.findings] == [(record, False)]


def test_a_record_that_is_younger_than_the_round_stays(scene: Scene, paper: PaperStore) -> None:
    """It may tell of a pack that the round had found whole before."""
    first = scene.reopened().vault.verify("packs", budget=Budget(bytes=stored(paper) // 2))
    scene.clock.advance(hours=1)
    record = spoilt_record(scene, paper)
    last = rest_of(scene, "packs", first)
    assert last.verdict is Verdict.DAMAGED
    assert paper.keys("damage/") == [record]
    assert scene.reopened().vault.verify("packs").verdict is Verdict.INTACT
    assert paper.keys("damage/") == []


def test_a_record_stays_while_the_damage_of_the_round_is_not_all_recorded(
    scene: Scene, paper: PaperStore
) -> None:
    """It may be the one that told of it."""
    record = spoilt_record(scene, paper)
    paper.spoil(paper.keys("packs/")[0])
    limit = Budget(bytes=stored(paper) // 2)
    far = read_only(paper)
    first = scene.reopened(far).vault.verify("packs", budget=limit)
    last = rest_of(scene, "packs", first)
    assert last.verdict is Verdict.DAMAGED
    assert paper.keys("damage/") == [record]
    assert scene.reopened().vault.verify("packs").verdict is Verdict.DAMAGED
    assert record not in paper.keys("damage/")
