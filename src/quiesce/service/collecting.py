"""The job that collects the vault's garbage."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime

from quiesce.model.job import Job, TaskName
from quiesce.model.progress import Progress
from quiesce.model.units import count_text, duration_text, size_text
from quiesce.service.codec import from_json
from quiesce.service.requests import CollectRequest
from quiesce.service.vault_views import CollectView, collect_view
from quiesce.service.work import Parts, warn
from quiesce.vault.upkeep.collect_plan import CollectPlan
from quiesce.vault.vault import Vault

_COLLECT = TaskName.COLLECT
_SHOWN = 5


def collect(parts: Parts, job: Job) -> None:
    console = parts.console(job.id, _COLLECT)
    vault = parts.points.vault
    plan = vault.plan_collect(on_progress=console.progress, cancelled=console.cancelled)
    console.stop_if_cancelled()
    request = from_json(CollectRequest, parts.book.request(job.id))
    if request.marks is not None:
        plan = _among_shown(vault, plan, request.marks)
    collected = vault.collect(plan, on_progress=console.progress, cancelled=console.cancelled)
    done = collect_view(collected, executed=True)
    console.progress(Progress(done.delete_bytes, done.delete_bytes))
    parts.points.collected()
    for line in told(done):
        console.note("info", line)
    if done.locked:
        warn(
            parts,
            job.id,
            f"{done.locked} objects are under a retention lock and are tried again later.",
        )


def _among_shown(vault: Vault, plan: CollectPlan, marks: Collection[str]) -> CollectPlan:
    """The plan, with deletions of these marks only: others may have fallen due since someone saw a
    plan and agreed to it. Those stay this time."""
    records = vault.contents.records.garbage()
    packs = {pack for mark in records if mark.key in marks for pack in mark.packs}
    return replace(
        plan,
        delete=tuple(pack for pack in plan.delete if pack in packs),
        ripe_marks=tuple(key for key in plan.ripe_marks if key in marks),
    )


def told(view: CollectView) -> list[str]:
    """What would be done, or was, in sentences."""
    parts = (
        ("Deleted" if view.executed else "To delete", view.delete_packs, view.delete_bytes),
        (
            f"{'Marked' if view.executed else 'To mark'} as garbage, for a day at least",
            view.mark_packs,
            view.mark_bytes,
        ),
        (
            "Copied out of" if view.executed else "To copy out of",
            view.repack_packs,
            view.repack_copy_bytes,
        ),
    )
    lines = [
        f"{what}: {count_text(packs, 'pack')}, {size_text(size)}."
        for what, packs, size in parts
        if packs
    ]
    if view.hidden_until is not None and view.hidden_until > view.planned_at:
        lines.append(
            "What is deleted stays in the bucket, hidden, until its retention lock ends, the last "
            f"{_moment(view.hidden_until, view.planned_at)}; then a lifecycle rule may remove it."
        )
    if view.hidden_unknown:
        lines.append(
            "What is deleted may stay in the bucket, hidden, until its retention lock ends. When "
            f"that is could not be found out: {view.hidden_unknown}"
        )
    lines += _waiting(view)
    return lines or [
        "There is no garbage to mark or to delete now. What points deleted lately have left is "
        "marked some hours after it was stored, and deleted a day after that at the earliest."
    ]


def _waiting(view: CollectView) -> list[str]:
    """Why space is not free yet, and when it may be."""
    lines = []
    for each in view.waiting[:_SHOWN]:
        held = ""
        if each.held_by == 1:
            held = ", once the backup or copy that may rely on it has ended"
        elif each.held_by:
            held = f", once the {each.held_by} backups or copies that may rely on it have ended"
        lines.append(
            f"Marked, and waiting for its second phase: {_count(each.packs, 'pack')}, "
            f"{size_text(each.size_bytes)}. May be deleted from "
            f"{_moment(each.due_at, view.planned_at)} on{held}."
        )
    more = view.waiting_bytes - sum(each.size_bytes for each in view.waiting[:_SHOWN])
    if more:
        lines.append(f"Marked later than that: {size_text(more)}.")
    if view.unmarked:
        lines.append(
            f"Stored lately, and nothing refers to it yet or any more: "
            f"{_count(view.unmarked.packs, 'pack')}, {size_text(view.unmarked.size_bytes)}. Not "
            f"marked before {_moment(view.unmarked.from_at, view.planned_at)}, nor while a backup "
            "runs that may have stored it."
        )
    if view.held_points:
        lines.append(
            f"{_count(view.held_points, 'deleted point')} may be what a backup or copy builds on "
            "that began before the deletion: what it holds is not marked before that has ended."
        )
    return lines


def _moment(at: datetime, now: datetime) -> str:
    """In UTC and, as seen from `now`, relative: that is when the sentence is written."""
    away = (at - now).total_seconds()
    near = f"in {duration_text(away)}" if away > 0 else "due by now"
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC ({near})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
