"""Paged tables of VMs, jobs and points. A table is sent again only when its rows have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nicegui import ui

from quiesce.model.damage import DamageReport
from quiesce.model.job import Job
from quiesce.model.point import RecoveryPoint
from quiesce.model.units import size_text
from quiesce.portal.damage_card import point_damage
from quiesce.portal.words import job_link, job_took, tone, vm_link, when
from quiesce.service.views import VmView

Row = dict[str, Any]

_CHIP = """<q-td :props="props"><span v-if="props.value !== '–'" class="chip"
 :class="'tone-' + props.row.tones[props.col.name]">{{ props.value }}</span>
 <span v-else class="quiet">–</span></q-td>"""
_LINK = """<q-td :props="props"><a class="table-link" :href="props.row.links[props.col.name]"
 >{{ props.value }}</a></q-td>"""
_BUTTON = """<q-td :props="props" auto-width><q-btn no-caps unelevated class="plain small"
 :label="props.value" :disable="!props.value" v-if="props.value"
 @click="() => $parent.$emit('act', props.row.id)" /></q-td>"""


def paged_table(
    columns: Sequence[tuple[str, str, str]],
    rows: list[Row],
    *,
    on_act: Callable[[str], object] | None = None,
    page_rows: int = 25,
) -> ui.table:
    """`columns` are (field, heading, kind); kind is text, right, chip, link or button. `on_act`
    is called with the row's id when its button is pressed."""
    table = ui.table(
        columns=[
            {
                "name": field,
                "label": heading,
                "field": field,
                "align": "right" if kind in ("right", "button") else "left",
                "sortable": kind != "button",
            }
            for field, heading, kind in columns
        ],
        rows=rows,
        row_key="id",
        pagination=page_rows,
    ).classes("full-width")
    table.props("flat" + (" hide-bottom" if len(rows) <= page_rows else ""))
    for field, _, kind in columns:
        template = {"chip": _CHIP, "link": _LINK, "button": _BUTTON}.get(kind)
        if template:
            table.add_slot(f"body-cell-{field}", template)
    if on_act is not None:
        act = on_act
        table.on("act", lambda event: act(str(event.args)))
    return table


def refresh(table: ui.table, rows: list[Row]) -> None:
    """Show `rows`; nothing is sent when they are what is shown already."""
    if table.rows != rows:
        table.rows = rows


VM_COLUMNS = (
    ("name", "VM", "link"),
    ("power", "Power", "chip"),
    ("policy", "Policy", "text"),
    ("newest", "Newest point", "text"),
    ("points", "Points", "right"),
    ("last", "Last backup", "chip"),
    ("act", "", "button"),
)


def vm_row(vm: VmView) -> Row:
    last = "In progress" if vm.active_job else str(vm.last_job.status) if vm.last_job else "–"
    job = vm.active_job or (vm.last_job.id if vm.last_job else "")
    power = str(vm.power) if vm.power else "never seen"
    return {
        "id": vm.name,
        "name": vm.name,
        "power": power,
        "policy": vm.policy or "–",
        "newest": when(vm.newest_point.taken_at if vm.newest_point else None),
        "points": vm.point_count,
        "last": last,
        "act": "" if vm.active_job else "Back up now",
        "links": {"name": vm_link(vm.name), "last": job_link(job)},
        "tones": {"power": tone(power), "last": tone(last)},
    }


JOB_COLUMNS = (
    ("what", "Job", "link"),
    ("vm", "VM", "text"),
    ("status", "Status", "chip"),
    ("trigger", "Started by", "text"),
    ("created", "Created", "text"),
    ("took", "Took", "right"),
)


def job_row(job: Job) -> Row:
    return {
        "id": job.id,
        "what": job.kind.label,
        "vm": job.vm or "–",
        "status": str(job.status),
        "trigger": job.trigger,
        "created": when(job.created_at),
        "took": job_took(job),
        "links": {"what": job_link(job.id)},
        "tones": {"status": tone(job.status)},
    }


POINT_COLUMNS = (
    ("taken", "Taken", "text"),
    ("level", "Consistency", "chip"),
    ("why", "", "text"),
    ("kind", "Read", "text"),
    ("size", "Disks", "right"),
    ("stored", "New in vault", "right"),
    ("damage", "Damage", "chip"),
    ("act", "", "button"),
)


def point_row(point: RecoveryPoint, damage: DamageReport | None) -> Row:
    """`damage`: what is known of it; None when nobody has looked yet."""
    word = point_damage(point.id, damage)
    return {
        "id": point.id,
        "taken": when(point.taken_at, seconds=True),
        "level": str(point.consistency.level),
        "why": point.consistency.reason,
        "kind": f"{size_text(point.read_bytes)} ({_kind(point)})",
        "size": size_text(point.size_bytes),
        "stored": size_text(point.stored_bytes),
        "damage": word,
        "act": "Restore …",
        "tones": {"level": tone(point.consistency.level), "damage": tone(word)},
    }


def _kind(point: RecoveryPoint) -> str:
    """`changes`, or `all` with why a disk was read whole: a code, or a word or two such as "first
    point". `quiesce point show` has the sentence."""
    whole = [disk.full_read_reason for disk in point.disks if not disk.incremental]
    why = dict.fromkeys(reason.partition(":")[0] for reason in whole if reason)
    return ": ".join(["all", ", ".join(why)] if why else ["all" if whole else "changes"])
