"""The fault table: each cause is one that the catalogue explains, and each row says what it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from diagnosis_score import Outcome, as_json, from_json, score, totals

from quiesce.diagnosis.catalogue import catalogue
from quiesce.lab.faults.fault import Agents, Fault, Scene, fault
from quiesce.lab.faults.table import TABLE
from quiesce.model.snapshot import Consistency


def test_every_cause_is_explained_by_the_catalogue_and_every_other_name_for_it_has_a_reason():
    known = catalogue()
    for row in TABLE:
        assert row.words.endswith("."), row.name
        assert not row.accepted or row.because, row.name
        for code in filter(None, (row.expected, *row.accepted)):
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


def test_a_cause_named_where_nothing_should_fail_is_wrong():
    assert score(_row(""), _job("agent.hung", "proven"), 1.0).outcome is Outcome.WRONG
    nothing = _job("x", "proven", setbacks=[], diagnoses=[])
    assert score(_row(""), nothing, 1.0).outcome is Outcome.AVOIDED


def test_a_crash_consistent_point_of_a_guest_that_could_have_been_frozen_is_not_healed():
    crash = _job("agent.not-running", "proven", "crash")
    assert not score(_row(), crash, 1.0).healed
    assert score(_row(least=Consistency.CRASH), crash, 1.0).healed
    assert not score(_row(), _job("agent.not-running", "proven", ""), 1.0).healed


def test_rows_without_a_failure_are_in_no_figure_but_those_of_faults_and_healing():
    rows = [
        score(_row(), _job("agent.not-running", "proven"), 1.0),
        score(_row(""), _job("x", "proven", setbacks=[], diagnoses=[]), 1.0),
    ]
    assert totals(rows) == {
        "injected": 2,
        "avoided": 1,
        "exact": 1,
        "wrong_proven": 0,
        "not_proven": 0,
        "healed": 2,
        "median_seconds": 2.0,
    }
    assert from_json(as_json(rows)) == rows


def test_a_vm_may_be_reached_by_each_kind_of_agent():
    assert {row.agents for row in TABLE} >= {Agents.BOTH, Agents.QGA}
