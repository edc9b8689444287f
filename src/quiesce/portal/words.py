"""How the portal words and colours what the service tells."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from html import escape
from urllib.parse import quote

from quiesce.model.agent import AgentCondition
from quiesce.model.diagnosis import Light, MendAction, MendStatus, Verdict
from quiesce.model.job import Job, JobStatus, Task, TaskStatus
from quiesce.model.policy import RoutePreference
from quiesce.model.snapshot import Consistency, ConsistencyLabel, FreezeReport
from quiesce.model.units import duration_text, rate_text, size_text
from quiesce.model.vm import AgentKind, PowerState

_TONES: dict[str, str] = {
    JobStatus.COMPLETED: "good",
    JobStatus.COMPLETED_WITH_WARNING: "warn",
    JobStatus.FAILED: "bad",
    JobStatus.CANCELLED: "idle",
    JobStatus.IN_PROGRESS: "run",
    JobStatus.QUEUED: "idle",
    TaskStatus.WAITING: "idle",
    TaskStatus.SKIPPED: "warn",
    PowerState.RUNNING: "good",
    PowerState.CRASHED: "bad",
    PowerState.PAUSED: "warn",
    PowerState.MIGRATING: "warn",
    Consistency.APPLICATION: "good",
    Consistency.FILE_SYSTEM: "good",
    Consistency.OFFLINE: "good",
    Consistency.CRASH: "warn",
    Light.GREEN: "good",
    Light.AMBER: "warn",
    Light.RED: "bad",
    MendStatus.DONE: "good",
    MendStatus.FAILED: "bad",
    MendStatus.PLANNED: "run",
    Verdict.PROVEN: "bad",
    Verdict.NOT_PROVEN: "warn",
    AgentCondition.READY: "good",
    AgentCondition.NOT_READY: "bad",
    AgentCondition.STALE: "warn",
    "Damaged": "bad",
    "Damaged, heals": "bad",
}


def tone(word: str) -> str:
    """The colour class of a status or label: good, warn, bad, run or idle."""
    return _TONES.get(word, "idle")


def when(moment: datetime | None, *, seconds: bool = False) -> str:
    """Local time of the server with its zone; "–" for none."""
    if moment is None:
        return "–"
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z" if seconds else "%Y-%m-%d %H:%M %Z")


def vm_link(name: str) -> str:
    return f"/vm/{quote(name, safe='')}"


def job_link(job_id: str) -> str:
    return f"/job/{quote(job_id, safe='')}"


def job_took(job: Job) -> str:
    if job.started_at is None or job.ended_at is None:
        return "–"
    return duration_text((job.ended_at - job.started_at).total_seconds())


def job_title(job: Job) -> str:
    return f"{job.kind.label} of {job.vm or 'vault'}"


def task_fraction(task: Task) -> float:
    """From 0 to 1, for a bar."""
    if task.status is TaskStatus.COMPLETED:
        return 1.0
    if task.progress.total_bytes <= 0:
        return 0.0
    return min(1.0, task.progress.done_bytes / task.progress.total_bytes)


def task_figures(task: Task) -> str:
    """What a task has done and, while it runs, how fast and how long it still takes."""
    progress = task.progress
    words = []
    if task.status is TaskStatus.IN_PROGRESS and progress.total_bytes:
        words.append(f"{size_text(progress.done_bytes)} of {size_text(progress.total_bytes)}")
        if progress.rate > 0:
            words.append(rate_text(progress.rate))
        if progress.eta_seconds is not None:
            words.append(f"{duration_text(progress.eta_seconds)} left")
    elif task.status is TaskStatus.IN_PROGRESS:
        words.append(progress.phase)
    elif progress.done_bytes:
        words.append(size_text(progress.done_bytes))
        if progress.stored_bytes:
            words.append(f"{size_text(progress.stored_bytes)} new in the vault")
    if task.started_at and task.ended_at:
        words.append(duration_text((task.ended_at - task.started_at).total_seconds()))
    return " · ".join(word for word in words if word)


def consistency(label: ConsistencyLabel | None) -> str:
    if label is None:
        return "–"
    return f"{label.level} – {label.reason}" if label.reason else str(label.level)


def frozen(freeze: FreezeReport | None) -> str:
    """How long writes were held on each mount."""
    if freeze is None:
        return "–"
    mounts = [
        f"{mount.mount} skipped ({mount.skipped})"
        if mount.skipped
        else f"{mount.mount} {mount.frozen_ms:.0f} ms"
        for mount in freeze.mounts
    ]
    held = "" if freeze.held else f" (thawed at its limit of {freeze.hold_seconds:g} s)"
    return ", ".join(mounts) + held


def route_words(route: RoutePreference, agent: AgentKind) -> str:
    """For example "guest, then host"; a VM without the guest route has the other one."""
    if not agent.waagent and route is not RoutePreference.GUEST:
        return str(RoutePreference.HOST)
    return route_title(route)


def route_title(route: RoutePreference) -> str:
    return str(route).replace("-then-", ", then ")


def mending_words(off: Collection[MendAction]) -> str:
    """What a policy leaves to people."""
    if not off:
        return "all that it can"
    return "nothing" if len(off) == len(MendAction) else f"not: {', '.join(off)}"


def with_commands(text: str) -> str:
    """A sentence as HTML, escaped, its `backticked` parts set as code."""
    return "".join(
        f"<code>{escape(part)}</code>" if index % 2 else escape(part)
        for index, part in enumerate(text.split("`"))
    )
