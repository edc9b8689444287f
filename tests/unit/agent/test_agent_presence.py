"""Whether a guest agent is there and lets us work, told without starting anything."""

from __future__ import annotations

import pytest
from scripted_agent import RefusalError, ScriptedAgent

from quiesce.agent.presence import presence
from quiesce.agent.qga import QemuGuestAgent
from quiesce.model.failure import AgentFailure

NEEDED = (
    "guest-exec",
    "guest-exec-status",
    "guest-file-close",
    "guest-file-flush",
    "guest-file-open",
    "guest-file-read",
    "guest-file-seek",
    "guest-file-write",
)


def listing(*, blocked: tuple[str, ...] = ()) -> dict[str, object]:
    return {
        "version": "7.2.22",
        "supported_commands": [
            {"name": name, "enabled": name not in blocked, "success-response": True}
            for name in (*NEEDED, "guest-ping", "guest-suspend-disk")
        ],
    }


def test_an_agent_that_lets_us_work(peer: ScriptedAgent, agent: QemuGuestAgent) -> None:
    peer.handlers |= {
        "guest-info": lambda _: listing(blocked=("guest-suspend-disk",)),
        "guest-fsfreeze-status": lambda _: "thawed",
    }
    seen = presence(agent)
    assert (seen.version, seen.executes, seen.frozen) == ("7.2.22", True, False)
    assert seen.system == "", "an agent that is too old to say is none the worse"
    assert seen.blocked == (), "nobody needs a guest that sleeps"


@pytest.mark.parametrize("system", ["mswindows", "debian"])
def test_the_guests_system_is_told_where_the_agent_says_it(
    peer: ScriptedAgent, agent: QemuGuestAgent, system: str
) -> None:
    peer.handlers |= {
        "guest-info": lambda _: listing(),
        "guest-fsfreeze-status": lambda _: "thawed",
        "guest-get-osinfo": lambda _: {"id": system},
    }
    assert presence(agent).system == system


def test_what_a_distribution_blocks_is_named(peer: ScriptedAgent, agent: QemuGuestAgent) -> None:
    blocked = ("guest-exec", "guest-file-open")
    peer.handlers |= {
        "guest-info": lambda _: listing(blocked=blocked),
        "guest-fsfreeze-status": lambda _: "thawed",
    }
    seen = presence(agent)
    assert (seen.executes, seen.blocked) == (False, blocked)


def test_a_guest_that_is_frozen_through_its_agent_shows_nothing_as_blocked(
    peer: ScriptedAgent, agent: QemuGuestAgent
) -> None:
    peer.handlers |= {
        "guest-info": lambda _: listing(blocked=NEEDED),
        "guest-fsfreeze-status": lambda _: "frozen",
    }
    seen = presence(agent)
    assert (seen.frozen, seen.executes, seen.blocked) == (True, None, ())


def test_an_agent_that_answers_and_does_not_know_itself_is_there(
    peer: ScriptedAgent, agent: QemuGuestAgent
) -> None:
    def unknown(_: object) -> None:
        raise RefusalError("The command guest-info has not been found", "CommandNotFound")

    peer.handlers |= {"guest-info": unknown, "guest-fsfreeze-status": unknown}
    seen = presence(agent)
    assert seen.refusal is not None
    assert seen.refusal.code == "agent.outdated"
    assert (seen.frozen, seen.executes) == (None, None)


def test_an_agent_that_is_not_there_is_raised(peer: ScriptedAgent, agent: QemuGuestAgent) -> None:
    peer.close()
    with pytest.raises(AgentFailure) as gone:
        presence(agent)
    assert gone.value.code.startswith("agent.")
