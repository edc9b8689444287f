"""The guest's inside, through whichever of its agents works."""

from __future__ import annotations

from dataclasses import replace

import pytest
from paper_case import case, seen, values

from quiesce.model.diagnosis import Fact
from quiesce.model.failure import AgentFailure, Evidence
from quiesce.model.papers import Paper, Papers
from quiesce.service.looks.inside import InsideLook, ways_in
from quiesce.service.looks.panel import Found

QGA = Papers((Paper("/etc/os-release"),), "the guest, through qga")
WAAGENT = Papers((Paper("/etc/os-release"),), "the guest, through waagent")
BOTH = seen(
    qga__answers=True,
    qga__exec=True,
    waagent__served=True,
    waagent__condition="ready",
    waagent__polls=True,
)


class PaperAgents:
    """Composition, guest side and guest in one; notes who was asked."""

    def __init__(self, qga: Papers | AgentFailure = QGA, waagent: Papers = WAAGENT) -> None:
        self._qga, self._waagent = qga, waagent
        self.asked: list[str] = []

    def guest(self, _: object) -> PaperAgents:
        return self

    def agents(self) -> PaperAgents:
        return self

    def examine(self, vm: str = "") -> Papers:
        self.asked.append("waagent" if vm else "qga")
        if vm:
            return self._waagent
        if isinstance(self._qga, AgentFailure):
            raise self._qga
        return self._qga


def looked(agents: PaperAgents, before: Found = BOTH, *facts: Fact) -> Found:
    look = InsideLook(agents, agents, lambda _: facts)  # type: ignore[arg-type]
    return look(case(), before)


def test_the_quick_agent_is_asked_and_the_other_is_spared() -> None:
    agents = PaperAgents()
    found = looked(agents)
    assert agents.asked == ["qga"]
    assert found.papers is QGA
    assert values(found) == {"guest.examined": True}
    assert found.channels == ("the guest's inside (the guest, through qga)",)


def test_where_the_one_agent_breaks_the_other_is_asked() -> None:
    agents = PaperAgents(AgentFailure("agent.hung", "It hangs."))
    found = looked(agents)
    assert agents.asked == ["qga", "waagent"]
    assert found.papers is WAAGENT
    assert [problem.code for problem in found.problems] == ["agent.hung"]


def test_with_no_agent_the_inside_is_not_seen_and_that_is_a_fact() -> None:
    agents = PaperAgents()
    found = looked(agents, seen(qga__answers=False, waagent__condition="stale"))
    assert agents.asked == []
    assert values(found) == {"guest.examined": False}
    assert found.papers is None


def test_when_all_break_the_last_ones_reason_is_said() -> None:
    agents = PaperAgents(AgentFailure("agent.hung", "It hangs."))
    found = looked(agents, seen(qga__answers=True))
    assert values(found) == {"guest.examined": False}
    assert found.channels == ("the guest's inside: It hangs.",)


@pytest.mark.parametrize(
    ("before", "ways"),
    [
        (BOTH, ("qga", "waagent")),
        (seen(qga__answers=True), ("qga",)),
        (seen(qga__answers=False), ()),
        (seen(waagent__served=True, waagent__condition="ready"), ("waagent",)),
        (seen(waagent__served=True, waagent__condition="ready", waagent__polls=False), ()),
        (seen(waagent__served=False, waagent__condition="ready", waagent__polls=True), ()),
        (seen(waagent__served=True, waagent__condition="not ready", waagent__polls=True), ()),
        (seen(), ()),
    ],
)
def test_an_agent_is_a_way_in_only_when_it_works(before: Found, ways: tuple[str, ...]) -> None:
    assert ways_in(before) == ways


def test_an_agent_that_may_start_nothing_is_asked_last() -> None:
    before = seen(
        qga__answers=True,
        qga__exec=False,
        waagent__served=True,
        waagent__condition="ready",
    )
    assert ways_in(before) == ("waagent", "qga")


def test_what_the_papers_show_is_kept() -> None:
    read = Fact("waagent.version", "2.2.40", "version 2.2.40", "/var/log/waagent.log")
    found = looked(PaperAgents(), BOTH, read)
    assert values(found) == {"guest.examined": True, "waagent.version": "2.2.40"}


def test_a_guest_that_another_job_may_have_frozen_is_left_alone() -> None:
    agents = PaperAgents()
    look = InsideLook(agents, agents, lambda _: ())  # type: ignore[arg-type]
    with pytest.raises(AgentFailure) as busy:
        look(case(taking="j9"), BOTH)
    assert busy.value.code == "agent.channel-busy"
    assert agents.asked == []


def test_a_guest_that_is_frozen_between_two_ways_is_not_asked_by_the_second() -> None:
    agents = PaperAgents(AgentFailure("agent.hung", "It hangs."))
    look = InsideLook(agents, agents, lambda _: ())  # type: ignore[arg-type]
    at_hand = replace(case(), taking=lambda: "j1" if agents.asked else "")
    with pytest.raises(AgentFailure) as busy:
        look(at_hand, BOTH)
    assert busy.value.code == "agent.channel-busy"
    assert agents.asked == ["qga"]


def test_an_agent_that_our_own_session_occupies_is_not_got_round() -> None:
    ours = [Evidence("session j1 is open", "this server")]
    agents = PaperAgents(AgentFailure("agent.channel-busy", "Ours.", evidence=ours))
    with pytest.raises(AgentFailure):
        looked(agents)
    assert agents.asked == ["qga"]


def test_an_agent_whose_channel_another_program_holds_is_got_round() -> None:
    other = [Evidence("the connection is not accepted", "/proc/net/unix")]
    agents = PaperAgents(AgentFailure("agent.channel-busy", "Held.", evidence=other))
    assert looked(agents).papers is WAAGENT
