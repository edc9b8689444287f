"""What the scoreboard shows of all faults, checked for the few that take seconds: the cause that
was set in is the one that is named, and never another one as proven. `make bench-diagnosis` has
them all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from diagnosis_score import Outcome, line, score
from diagnosis_site import is_well, new_scene, suffer

from quiesce.lab.faults.fault import Fault, Scene
from quiesce.lab.faults.table import TABLE

QUICK = [row for row in TABLE if row.quick]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with new_scene() as scene:
        yield scene


@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.name)
def test_the_cause_that_was_set_in_is_the_one_that_is_named(scene: Scene, row: Fault) -> None:
    result = score(row, suffer(scene, row), 0.0)
    assert is_well(scene), line(result)
    assert result.outcome is (Outcome.EXACT if row.expected else Outcome.AVOIDED), line(result)
    if row.heals and result.failed:
        assert result.healed, line(result)
