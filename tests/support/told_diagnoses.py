"""A failed backup as its owner is told of it: a silent agent, its causes, and what was mended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from quiesce.model.diagnosis import (
    Candidate,
    Diagnosis,
    Mend,
    MendAction,
    MendStatus,
    RuledOut,
    Verdict,
)
from quiesce.model.failure import Evidence, FailureReport
from quiesce.model.job import Job, JobKind, JobStatus, Task, TaskName, TaskStatus

WHEN = datetime(2026, 3, 1, 1, 0, tzinfo=UTC)
SILENT = FailureReport(
    "agent.silent",
    "The guest agent of the VM web1 did not answer.",
    (Evidence("no answer within 5 s", "guest agent channel", WHEN, "timed out \x1b[2J"),),
)
STOPPED = Evidence(
    "the service is inactive", "systemctl in the guest", WHEN, "ActiveState=<b>inactive"
)
PROVEN = Diagnosis(
    symptom="agent.silent",
    code="agent.not-running",
    verdict=Verdict.PROVEN,
    cause="The agent's service is stopped in the guest.",
    evidence=(STOPPED,),
    ruled_out=(
        RuledOut(
            "agent.disk-full",
            "the guest has room",
            Evidence("3 GiB free on /", "df in the guest", WHEN),
        ),
    ),
    also=("agent.outdated",),
    remedy=("Start it: `systemctl start qemu-guest-agent`",),
    aliases=("GuestAgentSnapshotTaskStatusError",),
)
OPEN = Diagnosis(
    symptom="agent.silent",
    code="agent.silent",
    verdict=Verdict.NOT_PROVEN,
    cause="The agent does not answer, and why is not known.",
    candidates=(
        Candidate(
            "agent.hung", "The agent hangs.", ("its process",), "`quiesce doctor web1` once more"
        ),
        Candidate("agent.crash-loop", "The agent ends again and again.", ("its restarts",), ""),
    ),
    retry_helps=True,
)
RESTARTED = Mend(
    MendAction.RESTART_AGENT,
    "agent.not-running",
    "Started qemu-guest-agent through the Azure Linux agent.",
    MendStatus.FAILED,
    WHEN,
    FailureReport("agent.silent", "The other agent did not answer either."),
)


def a_backup(**fields: Any) -> Job:
    """A job that failed before its transfer, unless `fields` say otherwise."""
    told: dict[str, Any] = {
        "id": "job1",
        "kind": JobKind.BACKUP,
        "vm": "web1",
        "status": JobStatus.FAILED,
        "created_at": WHEN,
        "tasks": (
            Task(TaskName.TAKE_SNAPSHOT, TaskStatus.FAILED),
            Task(TaskName.TRANSFER, TaskStatus.WAITING),
        ),
    }
    return Job(**told | fields)
