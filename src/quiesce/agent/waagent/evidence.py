"""What is known of an agent, as evidence; and what an agent's status says about an extension that
it could not start, as a failure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from quiesce.agent.session_state import failure_of
from quiesce.agent.waagent.recognition import Stranger
from quiesce.agent.waagent.status import HandlerReport
from quiesce.agent.waagent.vm_agent import Sight
from quiesce.model.failure import AgentFailure, Evidence, ExtensionFailure, Failure

TOOK = "the agent took this goal state"
DID_NOT_TAKE = "the agent has not taken this goal state"
_WIRE = "wire server"
_STATUS = "status of the VM agent"
_SAID_CODE = re.compile(r"\b((?:extension|agent)\.[a-z][a-z0-9-]{2,60})\b")
_BY_CODE = {
    1001: "extension.download-failed",
    1002: "extension.manifest-invalid",
    1003: "extension.manifest-invalid",
    1004: "extension.download-failed",
    1005: "extension.package-corrupt",
    1007: "extension.install-failed",
    1008: "extension.update-failed",
    1009: "extension.enable-failed",
    1010: "extension.update-failed",
    1011: "extension.timeout",
}
"""WALinuxAgent, common/exception.py, ExtensionErrorCodes."""
_TRANSIENT = ("extension.download-failed", "extension.timeout")


def evidence_of(sight: Sight, strangers: Sequence[Stranger] = ()) -> tuple[Evidence, ...]:
    """All that bears on why an agent did not do what was asked of it."""
    return (*_published(sight), *_asked(sight, strangers), *_reported(sight))


def handler_failure(handler: HandlerReport, sight: Sight) -> Failure:
    """Why the agent could not start our extension, from its own words."""
    words = handler.message or handler.settings_message
    facts = evidence_of(sight)
    if "No space left on device" in words:
        return AgentFailure(
            "agent.disk-full", "The guest's disk is full, the agent says.", evidence=facts
        )
    if "processing is disabled" in words:
        return AgentFailure(
            "agent.extensions-disabled",
            "The VM's agent works no extensions off: they are switched off in the guest, it says.",
            evidence=facts,
        )
    said = _SAID_CODE.search(words)
    if said is not None:
        code = said[1]
    elif handler.status == "Unresponsive":
        code = "extension.stuck"
    elif "HandlerManifest.json not found" in words:
        # It calls that a failed download too; what it fetched is there, and the file is not.
        code = "extension.manifest-invalid"
    elif "download" in words.lower():
        code = "extension.download-failed"
    else:
        code = _BY_CODE.get(handler.code, "extension.enable-failed")
    failure = failure_of(
        {
            "code": code,
            "message": f"The agent could not start the backup extension: {_first_line(words)}",
            "retryable": code in _TRANSIENT,
        }
    )
    failure.evidence = facts
    return failure


def no_extensions(sight: Sight) -> AgentFailure:
    """It does not say why."""
    return AgentFailure(
        "agent.no-extensions",
        "The VM's agent runs, took its goal state and does not work off any extensions.",
        evidence=evidence_of(sight),
    )


def settings_failure(handler: HandlerReport, sight: Sight) -> ExtensionFailure:
    """Our extension was started and ended without a report that could be read."""
    return ExtensionFailure(
        "extension.enable-failed",
        "The backup extension ended without a report: "
        f"{_first_line(handler.settings_message or handler.settings_status)}",
        evidence=evidence_of(sight),
    )


def _published(sight: Sight) -> list[Evidence]:
    goal = sight.goal
    what = f"{goal.plugin} {goal.version} {goal.command}".strip()
    fact = f"goal state {goal.incarnation} was published ({what})"
    return [Evidence(fact, _WIRE, goal.published_at)]


def _asked(sight: Sight, strangers: Sequence[Stranger]) -> list[Evidence]:
    found = []
    if sight.last_seen is None:
        found.append(Evidence("the agent has never asked for anything", _WIRE))
    else:
        where = f" from {sight.peer}" if sight.peer else ""
        fact = f"the agent was last heard of{where}; it asks every {sight.period_seconds:.0f} s"
        found.append(Evidence(fact, _WIRE, sight.last_seen))
    if sight.fetched_at is not None:
        found.append(Evidence(TOOK, _WIRE, sight.fetched_at))
    else:
        found.append(Evidence(DID_NOT_TAKE, _WIRE))
    found.extend(
        Evidence(
            f"{each.requests} requests from {each.address}, which is no VM that is known here",
            _WIRE,
            each.last_seen,
        )
        for each in strangers
    )
    return found


def _reported(sight: Sight) -> list[Evidence]:
    if sight.status is None or sight.status_at is None:
        return [Evidence("the agent has not reported its status", _STATUS)]
    status, at = sight.status, sight.status_at
    found = [
        Evidence(
            f"agent {status.version} is {status.status or 'silent about itself'}; newest goal "
            f"state worked off: {status.acknowledged or 'none'} {status.outcome}".rstrip(),
            _STATUS,
            at,
            "\n".join(filter(None, (status.message, status.outcome_message))),
        )
    ]
    ours = status.ours
    if ours is None:
        found.append(Evidence("the agent does not speak of the backup extension", _STATUS, at))
    else:
        fact = f"backup extension {ours.version} is {ours.status} (code {ours.code})"
        found.append(Evidence(fact, _STATUS, at, ours.message))
        if ours.settings_status:
            fact = f"the extension says {ours.settings_status} about settings {ours.sequence}"
            found.append(Evidence(fact, _STATUS, at, ours.settings_message))
    if sight.report is not None:
        fact = f"the extension's last report: {sight.report.stage}"
        found.append(Evidence(fact, "the extension's report"))
    return found


def _first_line(words: str) -> str:
    return next((line.strip() for line in words.splitlines() if line.strip()), "no reason given")[
        :300
    ]


def instant_text(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else "never"
