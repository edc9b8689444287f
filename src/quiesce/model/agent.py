"""The Azure Linux agent of a VM, as its own reports show it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class AgentCondition(StrEnum):
    NEVER_SEEN = "never seen"
    READY = "ready"
    NOT_READY = "not ready"
    """It said so itself."""
    STALE = "stale"
    """It has been ready, and has said nothing for longer than it should."""


@dataclass(frozen=True, slots=True)
class HandlerState:
    """One extension as the agent reports it. `status` is the agent's word (Ready, NotReady,
    Installing, Unresponsive) and `settings_status` the extension's own (transitioning, success,
    error, warning; empty when it has said nothing yet)."""

    name: str
    version: str
    status: str
    message: str = ""
    settings_status: str = ""


@dataclass(frozen=True, slots=True)
class AgentState:
    """What is known of one VM's agent without asking it: it asks us. Times are UTC.

    `goal_incarnation` is the goal state that is published for it, `acknowledged_incarnation` the
    newest that it has reported on; empty and 0 when unknown. `endpoint` is the address at which
    it reached us. `last_poll` is when it last asked for its goal state, None when it has not since
    this server started, and `period_seconds` how often it does; `took_goal` whether it has taken
    the one that is published, None when that is not known.
    """

    condition: AgentCondition
    version: str = ""
    operating_system: str = ""
    last_seen: datetime | None = None
    goal_incarnation: int = 0
    acknowledged_incarnation: int = 0
    endpoint: str = ""
    message: str = ""
    handlers: tuple[HandlerState, ...] = ()
    last_poll: datetime | None = None
    period_seconds: float = 6.0
    took_goal: bool | None = None
