"""What the agent reports about itself and about extensions: JSON that nobody vouches for.

Layout: WALinuxAgent, common/protocol/wire.py (vm_status_to_v1). Pieces that are not as they should
be are left out; only a document that is no report at all is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from quiesce.agent.framing import printable, quoted
from quiesce.agent.waagent.settings import HANDLER
from quiesce.model.agent import HandlerState
from quiesce.model.failure import AgentFailure, Evidence

MAX_STATUS_BYTES = 256 * 1024
"""The agent takes at most 128 KiB of an extension's status (WALinuxAgent, ga/exthandlers.py), and
it is told of one extension."""
_MAX_HANDLERS = 64
_MAX_SUBSTATUS = 64
_SUBSTATUS = "quiesce"
_MAX_NUMBER = 1 << 53


@dataclass(frozen=True, slots=True)
class HandlerReport:
    """One extension. `sequence` is the number of the settings that `settings_status` is about, -1
    when it has reported none; `report` is what our own extension says there (one JSON object as
    text), empty when it says nothing."""

    name: str
    version: str
    status: str
    code: int
    message: str
    sequence: int = -1
    settings_status: str = ""
    settings_message: str = ""
    report: str = ""

    @property
    def state(self) -> HandlerState:
        return HandlerState(
            self.name,
            self.version,
            self.status,
            self.message or self.settings_message,
            self.settings_status,
        )


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """`processed` is whether the agent works goal states off at all; `acknowledged` the newest
    incarnation that it has worked off, 0 when unknown, with `outcome` and `outcome_message`."""

    status: str
    message: str
    version: str
    operating_system: str
    processed: bool
    acknowledged: int
    outcome: str
    outcome_message: str
    handlers: tuple[HandlerReport, ...]

    @property
    def ready(self) -> bool:
        return self.status.lower() == "ready"

    @property
    def ours(self) -> HandlerReport | None:
        return next((each for each in self.handlers if each.name.lower() == HANDLER.lower()), None)


def agent_status(raw: bytes) -> AgentStatus:
    """:raise AgentFailure: agent.answer-invalid"""
    try:
        document: object = json.loads(raw)
    except (ValueError, RecursionError) as inner:
        raise _invalid(raw) from inner
    if not isinstance(document, dict) or not isinstance(document.get("aggregateStatus"), dict):
        raise _invalid(raw)
    aggregate = _object(document["aggregateStatus"])
    agent = _object(aggregate.get("guestAgentStatus"))
    guest = _object(document.get("guestOSInfo"))
    goal = _object(
        _object(aggregate.get("vmArtifactsAggregateStatus")).get("goalStateAggregateStatus")
    )
    handlers = aggregate.get("handlerAggregateStatus")
    system = f"{_text(guest.get('osName'), 80)} {_text(guest.get('osVersion'), 80)}"
    return AgentStatus(
        status=_text(agent.get("status"), 40),
        message=_message(agent),
        version=_text(agent.get("version"), 80),
        operating_system=system.strip(),
        processed=bool(goal),
        acknowledged=max(0, _number(goal.get("inSvdSeqNo"), 0)),
        outcome=_text(goal.get("status"), 40),
        outcome_message=_message(goal),
        handlers=tuple(
            _handler(entry)
            for entry in (handlers if isinstance(handlers, list) else [])[:_MAX_HANDLERS]
            if isinstance(entry, dict)
        ),
    )


def _handler(entry: Mapping[str, object]) -> HandlerReport:
    runtime = _object(entry.get("runtimeSettingsStatus"))
    settings = _object(_object(runtime.get("settingsStatus")).get("status"))
    return HandlerReport(
        name=_text(entry.get("handlerName"), 120),
        version=_text(entry.get("handlerVersion"), 80),
        status=_text(entry.get("status"), 40),
        code=_number(entry.get("code"), 0),
        message=_message(entry),
        sequence=_number(runtime.get("sequenceNumber"), -1),
        settings_status=_text(settings.get("status"), 40),
        settings_message=_message(settings),
        report=_own_report(settings.get("substatus")),
    )


def _own_report(entries: object) -> str:
    for entry in (entries if isinstance(entries, list) else [])[:_MAX_SUBSTATUS]:
        if isinstance(entry, dict) and entry.get("name") == _SUBSTATUS:
            words = _object(entry.get("formattedMessage")).get("message")
            return words if isinstance(words, str) else ""
    return ""


def _message(holder: Mapping[str, object]) -> str:
    words = holder.get("formattedMessage")
    return _text(_object(words).get("message") if isinstance(words, dict) else words, 4000)


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _text(value: object, limit: int) -> str:
    return printable(value, limit) if isinstance(value, str) else ""


def _number(value: object, otherwise: int) -> int:
    """The agent writes some numbers as texts."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        return int(value)
    if type(value) is int and abs(value) < _MAX_NUMBER:
        return value
    return otherwise


def _invalid(raw: bytes) -> AgentFailure:
    return AgentFailure(
        "agent.answer-invalid",
        "The agent's status cannot be understood.",
        evidence=[Evidence(f"{len(raw)} bytes", "status of the agent", raw=quoted(raw))],
    )
