"""What recovery points have lost, as HTML: the points, their disks, and the ranges in bytes."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

from quiesce.model.damage import DamageReport, DiskHealth, PointHealth
from quiesce.model.units import size_text
from quiesce.portal.words import when

_SHOWN_RANGES = 16


def damage_html(damage: DamageReport) -> str:
    """The inside of a card of the class `failure`; empty when no point is hurt. Everything told is
    escaped."""
    if not damage.hurt_points:
        return ""
    one = damage.hurt_points == 1
    title = f"{damage.hurt_points} recovery point{'' if one else 's'} "
    title += "is damaged" if one else "are damaged"
    rows = "".join(row for point in damage.points for row in _rows(point))
    notes = []
    if damage.more_points:
        notes.append(
            f"{damage.more_points} more points have lost {size_text(damage.more_bytes)}; "
            "they are not listed."
        )
    if damage.healable_bytes:
        notes.append(
            "What heals stood in the newest point of a VM: the next backup of that VM reads its "
            "disks in full and stores it anew, for older points too, if they still hold it."
        )
    more = damage.hurt_bytes > damage.healable_bytes
    if more and not damage.heals_known:
        notes.append("What heals was not looked for to the end: more may than is said to.")
    elif more or any(point.lost for point in damage.points):
        notes.append("What is lost comes back only from a copy of the vault.")
    if damage.unseen:
        notes.append(f"{damage.unseen} points were not looked at.")
    return (
        f'<div class="card-head"><span class="failure-message">{escape(title)}</span></div>'
        '<div class="card-body"><table class="evidence damage"><thead><tr><th>point</th>'
        "<th>disk</th><th>cannot be read</th><th>bytes: offset + length</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
        + "".join(f"<div>{escape(note)}</div>" for note in notes)
        + "</div>"
    )


def point_damage(point_id: str, damage: DamageReport | None) -> str:
    """The word of a point's mark; "–" for one of which no damage is known. `damage` is None until
    somebody has looked."""
    health = damage.of_point(point_id) if damage else None
    if health is None:
        # Of a report that leaves points out, neither is said of those.
        return "not known" if damage and (damage.more_points or damage.unseen) else "–"
    return "Damaged, heals" if health.healable else "Damaged"


def point_loss(health: PointHealth) -> str:
    """What a point has lost, in a sentence for whoever is about to restore it."""
    if health.lost:
        return health.lost
    disks = ", ".join(
        f"{size_text(disk.hurt_bytes)} of disk {disk.name}"
        for disk in health.disks
        if disk.hurt_bytes
    )
    heals = " The next backup of the VM may heal it." if health.healable else ""
    return f"This point is damaged: {disks} cannot be read.{heals}"


def _rows(point: PointHealth) -> list[str]:
    vm = point.vm or "unknown VM"
    link = f'<a class="table-link" href="/vm/{quote(point.vm, safe="")}">{escape(vm)}</a>'
    name = (
        f"<td>{link if point.vm else escape(vm)}, {escape(when(point.taken_at))}"
        f'<div class="raw">{escape(point.point_id)}</div></td>'
    )
    if point.lost:
        return [f'<tr>{name}<td>all</td><td colspan="2">{escape(point.lost)}</td></tr>']
    return [f"<tr>{name}{_cells(disk)}</tr>" for disk in point.disks]


def _cells(disk: DiskHealth) -> str:
    disk = disk.listing(_SHOWN_RANGES)
    ranges = [
        f"{each.offset_bytes} + {each.length_bytes}{' (heals)' if each.heals else ' (lost)'}"
        for each in disk.ranges
    ]
    if disk.more_ranges:
        ranges.append(f"{disk.more_ranges} more ranges of {size_text(disk.more_bytes)}")
    share = "all" if disk.healable_bytes == disk.hurt_bytes else size_text(disk.healable_bytes)
    heals = f"; {share} of it heals" if disk.healable_bytes else ""
    return (
        f"<td>{escape(disk.name)}</td><td>{size_text(disk.hurt_bytes)}{heals}</td>"
        f'<td class="mono">{"<br>".join(escape(text) for text in ranges)}</td>'
    )
