"""The Azure Linux agent as this server has heard of it, without asking it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

from quiesce.agent.waagent.evidence import DID_NOT_TAKE, TOOK
from quiesce.agent.waagent.settings import HANDLER
from quiesce.model.agent import AgentCondition, AgentState
from quiesce.model.diagnosis import Fact
from quiesce.service.clock import Clock
from quiesce.service.guest_side import GuestSide
from quiesce.service.looks.panel import Case, Found

CHANNEL = "Azure Linux agent"
_WIRE = "wire server"
_ALIVE_SECONDS, _ALIVE_PERIODS = 20.0, 3
_SILENT_SECONDS, _SILENT_PERIODS = 40.0, 6
"""In between nothing is said. A task is given up after 45 s without a sign of the agent (Deadlines
of the agents' room), so that an agent which has died is not taken for a living one then."""
_STRANGERS_WITHIN = timedelta(minutes=15)
_OLDEST_AGENT = (2, 2, 53)
"""The first that puts extensions' settings where ours looks for them, as the vocabulary says."""


class AgentsLook:
    def __init__(self, guest_side: GuestSide, clock: Clock) -> None:
        self._guest_side = guest_side
        self._born = clock.now()

    def __call__(self, case: Case, _: Found) -> Found:
        configured = case.address.agent.waagent
        words = "the VM is set to be reached by it" if configured else "it is not reached by it"
        facts = [Fact("waagent.configured", configured, words, "the VM's entry in Quiesce")]
        if not configured:
            return Found(tuple(facts))
        problem = self._guest_side.problem_report
        state = self._guest_side.state(case.vm)
        facts.append(
            Fact("waagent.served", True, "this server listens for agents", "the server")
            if problem is None
            else Fact("waagent.served", False, problem.message, "the server")
        )
        if state is not None:
            facts += _condition(state, case.now)
            facts += _reported(state, self._guest_side.offered_version())
            if problem is None:
                facts += self._heard(state, case)
        problems = () if problem is None else (problem,)
        return Found(tuple(facts), problems, (_channel(state, problem is None),))

    def _heard(self, state: AgentState, case: Case) -> Iterator[Fact]:
        yield from self._polls(state, case.now)
        yield from _took(state, case)
        seen = [
            each
            for each in self._guest_side.strangers()
            if case.now - each.last_seen <= _STRANGERS_WITHIN
        ]
        count = sum(each.requests for each in seen)
        words = f"{count} requests came from guests that belong to no known VM"
        raw = "\n".join(f"{each.requests} from {each.address}" for each in seen)
        yield Fact("waagent.strangers", float(count), words, _WIRE, raw=raw)

    def _polls(self, state: AgentState, now: datetime) -> Iterator[Fact]:
        polled, period = state.last_poll, state.period_seconds
        # Before this server had listened for long, the agent had no chance to ask.
        silent = (now - (polled or self._born)).total_seconds()
        if polled is not None and silent <= max(_ALIVE_SECONDS, _ALIVE_PERIODS * period):
            words = f"it asked for its goal state at {_instant(polled)}"
            yield Fact("waagent.polls", True, words, _WIRE, polled)
        elif silent > max(_SILENT_SECONDS, _SILENT_PERIODS * period):
            words = f"it has not asked for its goal state for {silent:.0f} s"
            yield Fact("waagent.polls", False, words, _WIRE)


def outdated(version: str) -> bool | None:
    """Whether an agent of that version is too old; None when it is no version."""
    numbers = _numbers(version)
    return numbers < _OLDEST_AGENT if numbers else None


def _condition(state: AgentState, now: datetime) -> Iterator[Fact]:
    words = f"the wire server knows it as {state.condition}"
    if state.message:
        words += f": {state.message}"
    yield Fact("waagent.condition", state.condition.value, words, _WIRE, raw=state.message)
    if state.last_seen is not None:
        silent = max(0.0, (now - state.last_seen).total_seconds())
        words = f"it was last heard of at {_instant(state.last_seen)}"
        yield Fact("waagent.silent-seconds", silent, words, _WIRE, state.last_seen)


def _took(state: AgentState, case: Case) -> Iterator[Fact]:
    """What the failure saw comes first: since then the task was withdrawn, which is a goal state
    of its own."""
    for failure in case.failures:
        for evidence in failure.evidence:
            if evidence.source == _WIRE and evidence.fact in (TOOK, DID_NOT_TAKE):
                yield Fact(
                    "waagent.took-goal",
                    evidence.fact == TOOK,
                    evidence.fact,
                    _WIRE,
                    evidence.observed_at,
                )
                return
    if state.took_goal is not None:
        has = "has" if state.took_goal else "has not"
        words = f"it {has} taken the goal state {state.goal_incarnation}"
        yield Fact("waagent.took-goal", state.took_goal, words, _WIRE)


def _reported(state: AgentState, offered: str) -> Iterator[Fact]:
    source = "status of the VM agent"
    old = outdated(state.version)
    if old is not None:
        words = f"the Azure Linux agent has the version {state.version}"
        yield Fact("waagent.version", state.version, words, source)
        yield Fact("waagent.outdated", old, words, source)
    ours = next((each for each in state.handlers if each.name == HANDLER), None)
    if ours is not None and _numbers(ours.version):
        words = f"the agent reports the backup extension {ours.version}"
        yield Fact("extension.version", ours.version, words, source)
        if _numbers(offered):
            older = _numbers(ours.version) < _numbers(offered)
            words = f"the agent reports the version {ours.version}, this server offers {offered}"
            yield Fact("extension.outdated", older, words, source)


def _numbers(version: str) -> tuple[int, ...]:
    """Empty when it is no version."""
    if not re.fullmatch(r"\d{1,9}(?:\.\d{1,9}){0,9}", version):
        return ()
    return tuple(int(part) for part in version.split("."))


def _channel(state: AgentState | None, served: bool) -> str:
    if not served:
        return f"{CHANNEL}: this server cannot be reached by it"
    if state is None or state.condition is not AgentCondition.READY:
        return f"{CHANNEL}: {state.condition if state else 'not known'}"
    return CHANNEL


def _instant(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
