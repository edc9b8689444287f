"""The fault table: each cause is one that the catalogue explains, and each row says what it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from diagnosis_merge import Run, guests_at_once, merged, runs_of
from diagnosis_page import page
from diagnosis_score import Outcome, as_json, broken, from_json, score, totals

from quiesce.diagnosis.catalogue import catalogue
from quiesce.lab.faults.fault import Agents, Fault, Scene, fault
from quiesce.lab.faults.table import TABLE
from quiesce.model.snapshot import Consistency


def test_every_cause_is_explained_by_the_catalogue_and_every_other_name_for_it_has_a_reason():
    known = catalogue()
    for row in TABLE:
        assert row.words.endswith("."), row.name
        assert not row.accepted or row.because, row.name
        assert all(row.beside.values()), row.name
        for code in filter(None, (row.expected, *row.accepted, *row.beside)):
            assert code in known.entries, f"{row.name}: {code}"


def test_the_table_covers_sixty_faults_and_ci_takes_few_of_them():
    assert len(TABLE) >= 60
    assert len({row.name for row in TABLE}) == len(TABLE)
    assert 6 <= sum(row.quick for row in TABLE) <= 12


def test_a_fault_is_undone_also_when_the_backup_breaks():
    steps: list[str] = []

    def injector(_: Scene) -> Iterator[None]:
        """Something."""
        steps.append("in")
        yield
        steps.append("out")

    row = fault("unit-test", "vm", "vm.paused")(injector)
    from quiesce.lab.faults.fault import ROWS

    ROWS.remove(row)
    with pytest.raises(ValueError), row.inject(None):  # type: ignore[arg-type]
        raise ValueError
    assert steps == ["in", "out"]


# --- the score of one job


def _row(expected: str = "agent.not-running", **more: object) -> Fault:
    return Fault("x", "agent", "X.", expected, lambda _: None, **more)  # type: ignore[arg-type]


def _job(code: str, verdict: str, level: str = "file-system", **more: object) -> dict[str, object]:
    return {
        "point_id": "p" if level else "",
        "consistency": {"level": level} if level else None,
        "failure": None,
        "setbacks": [{"code": "agent.silent"}],
        "diagnoses": [{"code": code, "verdict": verdict, "seconds": 2.0, "candidates": []}],
        "mends": [],
        **more,
    }


@pytest.mark.parametrize(
    ("code", "verdict", "outcome"),
    [
        ("agent.not-running", "proven", Outcome.EXACT),
        ("agent.hung", "proven", Outcome.WRONG),
        ("agent.silent", "not proven", Outcome.NOT_PROVEN),
        ("agent.not-running", "not proven", Outcome.NOT_PROVEN),
    ],
)
def test_only_the_cause_that_was_set_in_and_is_stated_as_proven_is_exact(
    code: str, verdict: str, outcome: Outcome
):
    assert score(_row(), _job(code, verdict), 1.0).outcome is outcome


def _proven(*codes: str) -> list[dict[str, object]]:
    return [
        {"code": code, "verdict": "proven", "seconds": 2.0 + 30 * at, "candidates": []}
        for at, code in enumerate(codes)
    ]


@pytest.mark.parametrize(
    "codes", [("agent.not-running", "agent.hung"), ("agent.hung", "agent.not-running")]
)
def test_a_wrong_cause_beside_the_right_one_is_wrong_and_is_the_one_that_is_shown(
    codes: tuple[str, ...],
):
    result = score(_row(), _job("", "", diagnoses=_proven(*codes)), 1.0)
    assert (result.outcome, result.diagnosed) == (Outcome.WRONG, "agent.hung")


def test_what_a_fault_brings_with_it_may_be_proven_beside_its_cause_but_not_instead_of_it():
    row = _row("freeze.busy", beside={"freeze.mount-left-out": "the point is without it"})
    both = _job("", "", diagnoses=_proven("freeze.busy", "freeze.mount-left-out"))
    assert score(row, both, 1.0).outcome is Outcome.EXACT
    alone = _job("freeze.mount-left-out", "proven")
    assert score(row, alone, 1.0).outcome is Outcome.NOT_PROVEN


def test_the_seconds_are_of_the_first_diagnosis_and_of_what_came_before_the_right_one():
    first = _job("", "", diagnoses=_proven("agent.not-running", "agent.not-running"))
    assert score(_row(), first, 1.0).seconds == 2.0
    at_once = _job("", "", diagnoses=[{**_proven("agent.not-running")[0], "seconds": 0.0}])
    assert score(_row(), at_once, 1.0).seconds == 0.0
    tried = {"code": "agent.silent", "verdict": "not proven", "seconds": 9.0}
    second = _job("", "", diagnoses=[tried, *_proven("agent.not-running")])
    assert score(_row(), second, 1.0).seconds == 11.0


def test_a_cause_named_where_nothing_should_fail_is_wrong():
    assert score(_row(""), _job("agent.hung", "proven"), 1.0).outcome is Outcome.WRONG
    assert score(_row(""), _fine(), 1.0).outcome is Outcome.AVOIDED


def _fine(level: str = "file-system") -> dict[str, object]:
    return _job("x", "proven", level, setbacks=[], diagnoses=[])


@pytest.mark.parametrize("level", ["", "crash"])
def test_nothing_was_avoided_without_a_point_of_full_worth(level: str):
    assert score(_row(""), _fine(level), 1.0).outcome is Outcome.NOT_PROVEN


def test_a_refused_call_is_no_diagnosis_and_in_no_figure_but_its_own():
    refused = {"failure": {"code": "policy.in-progress"}, "refused": True}
    result = score(_row("policy.in-progress"), refused, 1.0)
    assert (result.outcome, result.seconds, result.failed) == (Outcome.REFUSED, None, False)
    figures = totals([result])
    assert (figures["refused"], figures["exact"], figures["median_seconds"]) == (1, 0, None)
    assert score(_row("vm.paused"), refused, 1.0).outcome is Outcome.NOT_PROVEN


def test_only_what_had_failed_can_be_healed():
    assert not score(_row(""), _fine(), 1.0).healed
    assert not score(_row(), _fine(), 1.0).healed
    tracking = _row("bitmap.missing", hurts=False)
    assert not score(tracking, _job("bitmap.missing", "proven"), 1.0).healed


def test_a_script_that_failed_is_not_healed_by_a_point_without_it():
    scripts = [row for row in TABLE if row.family == "script"]
    assert scripts
    for row in scripts:
        assert not score(row, _job(row.expected, "proven"), 1.0).healed, row.name


def test_a_crash_consistent_point_of_a_guest_that_could_have_been_frozen_is_not_healed():
    crash = _job("agent.not-running", "proven", "crash")
    assert not score(_row(), crash, 1.0).healed
    assert score(_row(least=Consistency.CRASH), crash, 1.0).healed
    assert not score(_row(), _job("agent.not-running", "proven", ""), 1.0).healed


def test_rows_without_a_failure_are_in_no_figure_but_those_of_faults():
    rows = [
        score(_row(), _job("agent.not-running", "proven"), 1.0),
        score(_row(heals=False), _job("agent.not-running", "proven", "crash"), 1.0),
        score(_row(""), _fine(), 1.0),
    ]
    assert totals(rows) == {
        "injected": 3,
        "avoided": 1,
        "refused": 0,
        "exact": 2,
        "wrong_proven": 0,
        "not_proven": 0,
        "failed": 2,
        "healed": 1,
        "healable": 1,
        "median_seconds": 2.0,
    }
    assert [from_json(row) for row in as_json(rows)["rows"]] == rows


# --- several runs in one


def _keep(target: Path, row: Fault, job: dict[str, object], run: Run | None) -> Path:
    jobs = target.with_name(f"{target.stem}-jobs")
    jobs.mkdir()
    (jobs / f"{row.name}.json").write_text(json.dumps(job))
    target.write_text(json.dumps(as_json([score(row, job, 1.0)], [run] if run else [])))
    return target


def test_runs_made_side_by_side_are_joined_with_their_commits_and_scored_anew(tmp_path: Path):
    lenient = _row(accepted=("agent.hung",), because="once")
    other = replace(_row(), name="y")
    ten, later = "2026-01-01T10:00:00+00:00", "2026-01-01T10:05:00+00:00"
    end = "2026-01-01T10:09:00+00:00"
    a = _keep(tmp_path / "a.json", lenient, _job("agent.hung", "proven"), Run("aaa", ten, end))
    right = _job("agent.not-running", "proven")
    b = _keep(tmp_path / "b.json", other, right, Run("bbb", later, end))
    rows = merged([a, b], [_row(), other])
    assert [(row.name, row.outcome) for row in rows] == [
        ("x", Outcome.WRONG),
        ("y", Outcome.EXACT),
    ]
    runs = runs_of([a, b])
    assert [run.commit for run in runs] == ["aaa", "bbb"]
    assert guests_at_once(runs) == 2
    assert guests_at_once([Run("aaa", ten, later), Run("bbb", later, end)]) == 1


def test_a_row_that_broke_later_does_not_hide_what_was_found_before(tmp_path: Path):
    whole = _keep(tmp_path / "a.json", _row(), _job("agent.not-running", "proven"), None)
    torn = tmp_path / "b.json"
    torn.write_text(json.dumps(as_json([broken(_row(), "no boot", 1.0)])))
    assert [row.outcome for row in merged([whole, torn], [_row()])] == [Outcome.EXACT]


def test_the_page_says_from_which_commits_it_is_and_how_many_guests_ran_at_once():
    runs = [Run("abc1234", "2026-01-01T10:00:00+00:00", "2026-01-01T10:09:00+00:00")] * 3
    said = page([score(TABLE[0], _job(TABLE[0].expected, "proven"), 1.0)], runs)
    assert "at commit abc1234; up to 3 guests ran side by side" in said
    assert "other products would say" in said


def test_a_vm_may_be_reached_by_each_kind_of_agent():
    assert {row.agents for row in TABLE} >= {Agents.BOTH, Agents.QGA}
