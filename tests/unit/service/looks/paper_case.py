"""What tests of single looks share: a case, and facts that the vocabulary knows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from quiesce.diagnosis.vocabulary import FACTS
from quiesce.model.diagnosis import Fact
from quiesce.model.failure import Evidence, FailureReport
from quiesce.model.job import Job, JobKind, JobStatus, Task, TaskName, TaskStatus
from quiesce.model.vm import AgentKind, VmAddress
from quiesce.service.looks.panel import Case, Found

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


class FixedClock:
    def __init__(self, time: datetime = NOW) -> None:
        self.time = time

    def now(self) -> datetime:
        return self.time


def case(agent: AgentKind = AgentKind.BOTH, *, taking: str = "", **given: Any) -> Case:
    address = VmAddress("web", Path("/run/qmp"), Path("/run/qga"), agent=agent)
    return Case(address, NOW, taking=lambda: taking, **given)


def values(found: Found) -> dict[str, object]:
    """Name and value of each fact, none of which the vocabulary may not know, or know of another
    type or with other words."""
    for fact in found.facts:
        kind = FACTS[fact.name]
        assert type(fact.value) is kind.type, fact
        assert not kind.words or fact.value in kind.words, fact
        assert fact.words, fact
        assert fact.source, fact
        assert fact.observed_at.tzinfo is not None, fact
    names = [fact.name for fact in found.facts]
    assert len(names) == len(set(names)), names
    return {fact.name: fact.value for fact in found.facts}


def seen(**facts: Any) -> Found:
    """What earlier looks have found; `__` stands for a dot and `_` for a hyphen."""
    return Found(
        tuple(
            Fact(name.replace("__", ".").replace("_", "-"), value, name, "test")
            for name, value in facts.items()
        )
    )


def failure(code: str, *evidence: Evidence, cause: FailureReport | None = None) -> FailureReport:
    return FailureReport(code, f"It failed with {code}.", evidence, cause=cause)


def backup(
    id_: str = "j1",
    *,
    vm: str = "web",
    created: float = 0.0,
    started: float | None = 0.0,
    ended: float | None = None,
    failed: FailureReport | None = None,
    kind: JobKind = JobKind.BACKUP,
) -> Job:
    """A job whose times are seconds after NOW."""

    def at(seconds: float | None) -> datetime | None:
        return None if seconds is None else NOW + timedelta(seconds=seconds)

    status = JobStatus.IN_PROGRESS if ended is None else JobStatus.FAILED
    task = Task(TaskName.TAKE_SNAPSHOT, TaskStatus.IN_PROGRESS)
    job = Job(id_, kind, vm, status, NOW + timedelta(seconds=created), (task,))
    return replace(job, started_at=at(started), ended_at=at(ended), failure=failed)
