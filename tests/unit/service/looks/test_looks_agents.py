"""The Azure Linux agent as this server has heard of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from paper_case import NOW, FixedClock, case, failure, values

from quiesce.agent.waagent.evidence import DID_NOT_TAKE, TOOK
from quiesce.agent.waagent.recognition import Stranger
from quiesce.model.agent import AgentCondition, AgentState, HandlerState
from quiesce.model.failure import AgentFailure, Evidence, FailureReport
from quiesce.model.vm import AgentKind
from quiesce.service.looks.agents import AgentsLook, outdated
from quiesce.service.looks.panel import Case, Found

LONG_AGO = NOW - timedelta(hours=1)
READY = AgentState(
    AgentCondition.READY,
    "2.9.1.1",
    "debian 12",
    last_seen=NOW - timedelta(seconds=3),
    goal_incarnation=5,
    acknowledged_incarnation=5,
    handlers=(HandlerState("Quiesce.VmBackup", "1.0.7", "Ready"),),
    last_poll=NOW - timedelta(seconds=4),
    took_goal=True,
)


class PaperGuestSide:
    def __init__(
        self,
        state: AgentState | None = READY,
        problem: AgentFailure | None = None,
        strangers: tuple[Stranger, ...] = (),
    ) -> None:
        self._state, self._problem, self._strangers = state, problem, strangers

    @property
    def problem_report(self) -> FailureReport | None:
        return self._problem.report() if self._problem else None

    def state(self, vm: str) -> AgentState | None:
        assert vm == "web"
        return self._state

    def offered_version(self) -> str:
        return "1.0.10"

    def strangers(self) -> tuple[Stranger, ...]:
        return self._strangers


def looked(side: PaperGuestSide, asked: Case | None = None, *, up_for: float = 3600) -> Found:
    look = AgentsLook(side, FixedClock(NOW - timedelta(seconds=up_for)))  # type: ignore[arg-type]
    return look(asked or case(), Found())


def test_an_agent_that_is_ready_and_polls() -> None:
    found = looked(PaperGuestSide())
    assert values(found) == {
        "waagent.configured": True,
        "waagent.served": True,
        "waagent.condition": "ready",
        "waagent.silent-seconds": 3.0,
        "waagent.version": "2.9.1.1",
        "waagent.outdated": False,
        "extension.version": "1.0.7",
        "extension.outdated": True,
        "waagent.polls": True,
        "waagent.took-goal": True,
        "waagent.strangers": 0.0,
    }
    assert found.channels == ("Azure Linux agent",)


def test_a_vm_without_such_an_agent_says_nothing_else() -> None:
    found = looked(PaperGuestSide(), case(AgentKind.QGA))
    assert values(found) == {"waagent.configured": False}


def test_a_silent_agent_is_told_with_the_time_of_its_last_word() -> None:
    silent = replace(READY, condition=AgentCondition.STALE, last_seen=LONG_AGO, last_poll=LONG_AGO)
    found = looked(PaperGuestSide(silent))
    facts = values(found)
    assert (facts["waagent.condition"], facts["waagent.polls"]) == ("stale", False)
    assert facts["waagent.silent-seconds"] == 3600.0
    assert found.channels == ("Azure Linux agent: stale",)
    [seen] = [fact for fact in found.facts if fact.name == "waagent.silent-seconds"]
    assert seen.observed_at == LONG_AGO


def test_a_server_that_has_just_started_says_nothing_of_polls_that_it_could_not_see() -> None:
    unheard = AgentState(AgentCondition.NEVER_SEEN)
    assert "waagent.polls" not in values(looked(PaperGuestSide(unheard), up_for=30))
    assert values(looked(PaperGuestSide(unheard), up_for=60))["waagent.polls"] is False


@pytest.mark.parametrize(
    ("silent", "period", "polls"),
    [(0, 6, True), (20, 6, True), (30, 6, None), (46, 6, False), (80, 30, True), (200, 30, False)],
)
def test_an_agent_polls_while_it_keeps_to_its_own_period(
    silent: float, period: float, polls: bool | None
) -> None:
    state = replace(READY, last_poll=NOW - timedelta(seconds=silent), period_seconds=period)
    assert values(looked(PaperGuestSide(state))).get("waagent.polls") is polls


def test_while_this_server_cannot_be_reached_an_agents_silence_is_no_fact_about_it() -> None:
    closed = AgentFailure("agent.endpoint-bind-failed", "The address is in use.")
    found = looked(PaperGuestSide(replace(READY, last_poll=None), closed))
    facts = values(found)
    assert facts["waagent.served"] is False
    assert "waagent.polls" not in facts
    assert "waagent.strangers" not in facts
    assert [problem.code for problem in found.problems] == ["agent.endpoint-bind-failed"]


@pytest.mark.parametrize(("words", "took"), [(TOOK, True), (DID_NOT_TAKE, False)])
def test_whether_the_goal_was_taken_is_what_the_failure_saw(words: str, took: bool) -> None:
    inner = failure("agent.silent", Evidence(words, "wire server", LONG_AGO))
    asked = case(failure=failure("job.failed", cause=inner))
    found = looked(PaperGuestSide(replace(READY, took_goal=not took)), asked)
    [fact] = [fact for fact in found.facts if fact.name == "waagent.took-goal"]
    assert (fact.value, fact.observed_at) == (took, LONG_AGO)


def test_a_goal_that_may_have_been_taken_before_is_no_fact() -> None:
    facts = values(looked(PaperGuestSide(replace(READY, took_goal=None))))
    assert "waagent.took-goal" not in facts


def test_requests_of_strangers_are_counted_while_they_are_fresh() -> None:
    strangers = (
        Stranger("192.0.2.7", NOW - timedelta(seconds=10), 12),
        Stranger("192.0.2.8", NOW - timedelta(minutes=2), 3),
        Stranger("192.0.2.9", LONG_AGO, 100),
    )
    found = looked(PaperGuestSide(strangers=strangers))
    [fact] = [fact for fact in found.facts if fact.name == "waagent.strangers"]
    assert (fact.value, fact.raw) == (15.0, "12 from 192.0.2.7\n3 from 192.0.2.8")


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ("2.2.52", True),
        ("2.2.53", False),
        ("2.2.53.1", False),
        ("2.10.0", False),
        ("1.9", True),
        ("", None),
        ("unknown", None),
        ("2.2." + "9" * 5000, None),
    ],
)
def test_an_agent_is_outdated_by_number_not_by_letter(version: str, old: bool | None) -> None:
    assert outdated(version) is old


def test_versions_that_are_none_are_no_facts() -> None:
    odd = replace(
        READY, version="?", handlers=(HandlerState("Quiesce.VmBackup", "newest", "Ready"),)
    )
    facts = values(looked(PaperGuestSide(odd)))
    for name in ("waagent.version", "waagent.outdated", "extension.version", "extension.outdated"):
        assert name not in facts
