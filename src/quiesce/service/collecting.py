"""The job that collects the vault's garbage."""

from __future__ import annotations

from quiesce.model.job import Job, TaskName
from quiesce.model.units import size_text
from quiesce.service.vault_views import CollectView, collect_view
from quiesce.service.work import Parts, warn

_COLLECT = TaskName.COLLECT


def collect(parts: Parts, job: Job) -> None:
    console = parts.console(job.id, _COLLECT)
    vault = parts.points.vault
    plan = vault.plan_collect()
    console.stop_if_cancelled()
    done = collect_view(vault.collect(plan, cancelled=console.cancelled), executed=True)
    parts.points.collected()
    for line in told(done):
        console.note("info", line)
    if done.locked:
        warn(
            parts,
            job.id,
            f"{done.locked} objects are under a retention lock and are tried again later.",
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
    lines = [f"{what}: {packs} packs, {size_text(size)}." for what, packs, size in parts if packs]
    if view.waiting_bytes:
        lines.append(f"Marked earlier and not due yet: {size_text(view.waiting_bytes)}.")
    return lines or [
        "There is no garbage to mark or to delete now. What points deleted lately have left is "
        "marked some hours after it was stored, and deleted a day after that at the earliest."
    ]
