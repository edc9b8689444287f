"""How far a verification comes within a budget, where the next one goes on, and what it may say of
the rest."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from faulty_store import FaultyStore
from hypothesis import given
from hypothesis import strategies as st
from paper_store import PaperStore
from small_vault import small_disk, stored
from vault_scene import FakeClock, Scene

from quiesce.model.failure import Failure, InputFailure
from quiesce.vault.upkeep.budget import Budget, Meter
from quiesce.vault.upkeep.forecast import forecast_packs
from quiesce.vault.upkeep.verify_packs import verify_packs
from quiesce.vault.upkeep.verify_report import Cursor, Verdict, VerifyMode, VerifyReport


@pytest.fixture
def scene(web_and_mail: Scene) -> Scene:
    return web_and_mail


@pytest.mark.parametrize("mode", ["packs", "chunks"])
def test_what_does_not_fit_in_a_budget_is_never_called_intact(
    scene: Scene, paper: PaperStore, mode: str
) -> None:
    limit = stored(paper) // 3
    report = scene.vault.verify(mode, budget=Budget(bytes=limit))
    assert report.verdict is Verdict.NOTHING_FOUND
    assert not report.intact
    assert report.stopped_by == "bytes"
    assert 0 < report.covered_share <= 1 / 3
    assert report.bytes_read <= limit
    assert report.total_bytes == stored(paper)
    assert report.points == (), "no point is said to be whole of which nothing was looked at"


@pytest.mark.parametrize("mode", ["packs", "chunks"])
def test_a_round_in_many_runs_looks_at_every_pack_once(
    scene: Scene, paper: PaperStore, mode: str
) -> None:
    reports: list[VerifyReport] = []
    cursor = ""
    while not reports or cursor:
        watched = FaultyStore(paper)
        there = scene.reopened(watched)
        budget = Budget(bytes=stored(paper) // 3)
        reports.append(there.vault.verify(mode, budget=budget, cursor=cursor))
        cursor = reports[-1].cursor
        assert len(reports) < 20
    assert len(reports) >= 3
    assert sum(report.packs_checked for report in reports) == len(paper.keys("packs/"))
    shares = [report.covered_share for report in reports]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert reports[-1].verdict is Verdict.INTACT
    assert {health.vm for health in reports[-1].points} == {"web", "mail"}


def test_packs_stored_while_a_round_goes_on_are_left_to_the_next_one(
    scene: Scene, paper: PaperStore, clock: FakeClock
) -> None:
    before = set(paper.keys("packs/"))
    first = scene.vault.verify("packs", budget=Budget(bytes=stored(paper) // 2))
    clock.advance(hours=1)
    scene.backup("web-2", small_disk(*range(301, 340, 2)))
    rest = scene.reopened().vault.verify("packs", cursor=first.cursor)
    assert first.packs_checked + rest.packs_checked == len(before) < rest.packs
    assert rest.covered_share == 1.0


@pytest.mark.parametrize("mode", list(VerifyMode))
def test_a_budget_of_requests_ends_every_mode_and_it_says_so(
    scene: Scene, paper: PaperStore, mode: VerifyMode
) -> None:
    whole = scene.reopened().vault.verify(mode).requests
    least = scene.reopened().vault.verify(mode, budget=Budget(requests=0)).requests
    assert least < whole
    for allowed in (0, whole // 2, whole - 1):
        report = scene.reopened().vault.verify(mode, budget=Budget(requests=allowed))
        assert report.requests <= max(allowed, least)
        assert report.stopped_by == "requests"
        assert report.verdict is Verdict.NOTHING_FOUND
    assert scene.reopened().vault.verify(mode, budget=Budget(requests=2 * whole)).stopped_by == ""


def test_a_walk_through_the_maps_goes_on_after_the_last_point_it_came_to(scene: Scene) -> None:
    for number in range(6):
        scene.clock.advance(hours=1)
        scene.backup(f"more-{number}", small_disk(*range(401 + number, 500, 2)), vm=f"vm-{number}")
    seen: list[str] = []
    cursor, runs = "", 0
    base = scene.reopened().vault.verify("structure").requests
    while runs == 0 or cursor:
        runs += 1
        there = scene.reopened()
        report = there.vault.verify("structure", budget=Budget(requests=base - 6), cursor=cursor)
        assert report.examined == (not report.cursor)
        seen += [health.vm for health in report.points]
        cursor = report.cursor
        assert runs < 10
    assert runs > 1
    assert sorted(seen) == sorted(["web", "mail", *(f"vm-{number}" for number in range(6))])


def test_a_point_that_exceeds_the_limit_by_itself_is_come_to_again_and_it_says_so(
    scene: Scene,
) -> None:
    """No part begins again with the points that an earlier one has looked at."""
    limit = Budget(requests=scene.reopened().vault.verify("structure").requests + 4)
    scene.clock.advance(hours=1)
    disks = {f"sd{n}": small_disk(*range(5001 + 100 * n, 5061 + 100 * n, 2)) for n in range(12)}
    scene.backup("big-1", disks, vm="big")
    first = scene.reopened().vault.verify("structure", budget=limit)
    assert {health.vm for health in first.points} == {"web", "mail"}
    assert not first.stuck
    cursor = first.cursor
    for _ in range(3):
        report = scene.reopened().vault.verify("structure", budget=limit, cursor=cursor)
        assert (report.points, report.cursor, report.stuck) == ((), first.cursor, True)
    rest = scene.reopened().vault.verify("structure", cursor=first.cursor)
    assert [health.vm for health in rest.points] == ["big"]
    assert not rest.stuck


def test_time_ends_it_between_two_packs() -> None:
    now = [0.0]
    meter = Meter(Budget(seconds=60), monotonic=lambda: now[0])
    assert meter.reserve(1, 1000) == ""
    now[0] = 60.0
    assert meter.reserve(1, 1000) == "time"
    assert (meter.requests, meter.bytes) == (1, 1000)


@given(st.text(max_size=80))
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(InputFailure) as caught:
        Cursor.parse(text)
    assert caught.value.code == "vault.cursor-unknown"


@pytest.mark.parametrize("damaged", [True, False])
@pytest.mark.parametrize("known", ["", "0123456789abcdef"])
def test_a_cursor_is_read_as_it_was_written(damaged: bool, known: str) -> None:
    at = datetime(2026, 11, 23, 6, 0, 0, 25, tzinfo=UTC)
    cursor = Cursor(VerifyMode.CHUNKS, "maps", "00ff", at, damaged, known)
    assert Cursor.parse(str(cursor)) == cursor
    for more in ("x", ":", ":hurt:00", ":damaged:xy", ":damaged:00:00"):
        with pytest.raises(InputFailure):
            Cursor.parse(f"{replace(cursor, damaged=False, known='')}{more}")


def test_a_cursor_of_another_mode_is_refused(scene: Scene) -> None:
    cursor = scene.vault.verify("packs", budget=Budget(bytes=0)).cursor
    with pytest.raises(Failure) as caught:
        scene.vault.verify("chunks", cursor=cursor)
    assert caught.value.code == "vault.cursor-unknown"


@pytest.mark.parametrize("mode", list(VerifyMode))
def test_a_forecast_is_about_what_a_verification_costs(
    scene: Scene, paper: PaperStore, mode: VerifyMode
) -> None:
    for number in range(5):
        scene.backup(f"more-{number}", small_disk(*range(401 + number, 500, 2)), vm=f"vm-{number}")
    watched = FaultyStore(paper)
    there = scene.reopened(watched)
    expected = there.vault.forecast(mode, sample=30)
    before = len(watched.log)
    report = there.vault.verify(mode, sample=30)
    made = len(watched.log) - before
    assert made / 2 <= expected.requests <= 2 * made
    assert abs(report.requests - made) <= len(paper.keys("points/")) + 4
    if mode in (VerifyMode.PACKS, VerifyMode.CHUNKS):
        assert stored(paper) <= expected.bytes <= 2 * stored(paper)


def test_a_forecast_without_a_key_is_what_it_costs(scene: Scene, paper: PaperStore) -> None:
    expected = forecast_packs(paper)
    report = verify_packs(paper)
    assert abs(expected.requests - report.requests) <= 2
    assert stored(paper) <= expected.bytes <= 1.5 * stored(paper)
