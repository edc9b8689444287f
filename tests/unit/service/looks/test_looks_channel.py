"""The QEMU guest agent as its channel shows it."""

from __future__ import annotations

import pytest
from paper_case import case, values

from quiesce.model.failure import AgentFailure, Evidence, FailureReport
from quiesce.model.presence import Presence
from quiesce.service.looks.channel import ChannelLook
from quiesce.service.looks.panel import Case, Found


class PaperAgent:
    def __init__(self, answer: Presence | AgentFailure | None) -> None:
        self.answer = answer
        self.asked = 0

    def guest(self, _: object) -> PaperAgent | None:
        return None if self.answer is None else self

    def presence(self) -> Presence:
        self.asked += 1
        if isinstance(self.answer, AgentFailure):
            raise self.answer
        assert self.answer is not None
        return self.answer


def looked(answer: Presence | AgentFailure | None, asked: Case | None = None) -> Found:
    return ChannelLook(PaperAgent(answer))(asked or case(), Found())  # type: ignore[arg-type]


def test_an_agent_that_answers_says_what_it_may_do() -> None:
    found = looked(Presence("7.2.22", executes=True, frozen=False))
    assert values(found) == {
        "qga.configured": True,
        "qga.answers": True,
        "qga.version": "7.2.22",
        "qga.exec": True,
        "qga.blocked": "",
    }
    assert found.channels == ("QEMU guest agent",)


def test_the_guests_system_is_told_when_the_agent_says_it() -> None:
    assert values(looked(Presence("7.2", "mswindows")))["guest.os"] == "windows"
    facts = values(looked(Presence("7.2", "debian")))
    assert (facts["guest.distribution"], facts.get("guest.os")) == ("debian", None)


def test_commands_that_a_distribution_blocks_are_named() -> None:
    blocked = ("guest-exec", "guest-file-open")
    facts = values(looked(Presence("4.2", executes=False, blocked=blocked, frozen=False)))
    assert facts["qga.exec"] is False
    assert facts["qga.blocked"] == "guest-exec, guest-file-open"


def test_a_vm_without_such_an_agent_is_not_asked() -> None:
    assert values(looked(None)) == {"qga.configured": False}


@pytest.mark.parametrize("code", ["agent.not-running", "agent.hung", "agent.channel-missing"])
def test_an_agent_that_does_not_answer_says_why(code: str) -> None:
    failure = AgentFailure(
        code, "It is silent.", evidence=[Evidence("no answer", "/run/qga", raw="EOF")]
    )
    found = looked(failure)
    assert values(found) == {"qga.configured": True, "qga.answers": False, "qga.problem": code}
    assert [problem.code for problem in found.problems] == [code]
    assert code in found.channels[0]
    assert next(fact for fact in found.facts if fact.name == "qga.answers").raw == "no answer: EOF"


def test_a_channel_that_another_program_holds_is_busy() -> None:
    held = AgentFailure(
        "agent.channel-busy", "Held.", evidence=[Evidence("not accepted", "/proc/net/unix")]
    )
    facts = values(looked(held))
    assert (facts["qga.port"], facts["qga.answers"]) == ("busy", False)


def test_a_channel_that_our_own_session_holds_says_nothing_against_the_agent() -> None:
    ours = AgentFailure(
        "agent.channel-busy", "Ours.", evidence=[Evidence("session 1 is open", "this server")]
    )
    assert values(looked(ours)) == {"qga.configured": True, "qga.problem": "agent.channel-busy"}


def test_a_guest_that_its_agent_holds_frozen_is_said_to_be_and_nothing_of_what_is_blocked() -> None:
    assert values(looked(Presence("7.2", frozen=True))) == {
        "qga.configured": True,
        "qga.answers": True,
        "qga.version": "7.2",
        "guest.frozen": True,
        "qga.problem": "freeze.busy",
    }


def test_an_agent_that_answers_and_refuses_to_speak_of_itself_answers() -> None:
    refusal = FailureReport("agent.outdated", "It does not know guest-info.")
    found = looked(Presence(refusal=refusal))
    assert values(found) == {
        "qga.configured": True,
        "qga.answers": True,
        "qga.problem": "agent.outdated",
    }
    assert found.problems == (refusal,)


def test_a_guest_that_another_job_may_have_frozen_is_left_alone() -> None:
    agent = PaperAgent(Presence("7.2"))
    with pytest.raises(AgentFailure) as busy:
        ChannelLook(agent)(case(taking="j9"), Found())  # type: ignore[arg-type]
    assert busy.value.code == "agent.channel-busy"
    assert "j9" in busy.value.evidence[0].fact
    assert agent.asked == 0
