"""What points have lost, in words."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.model.units import size_text

_SHOWN_RANGES = 4


def show_damage(damage: Json) -> None:
    """A row for each disk of each point that is hurt, newest first; nothing when none is."""
    if damage["points"]:
        screen.table(
            ("point", "VM", "taken", "disk", "lost", "heals", "offset + length in bytes"),
            (row for point in damage["points"] for row in _rows(point)),
            right="lost heals",
        )
    if damage["more_points"]:
        screen.say(
            f"{damage['more_points']} more points have lost {size_text(damage['more_bytes'])}.",
            "red",
        )
    if damage["healable_bytes"]:
        screen.say(
            "What heals is stored anew by the next backup of its VM, if the disk still holds it."
        )
    if damage["unseen"]:
        screen.say(f"{damage['unseen']} points were not looked at.", "yellow")
    if not damage["heals_known"]:
        screen.say("What heals was not looked for to the end: more may than is said to.", "yellow")


def damaged_mark(point_id: str, damage: Json) -> Text:
    """What stands beside a point in a list."""
    for point in damage["points"]:
        if point["point_id"] == point_id:
            return Text(_lost(point), style="bold red")
    # Neither said to be hurt nor to be whole.
    return Text("not known" if damage["more_points"] or damage["unseen"] else "")


def _lost(point: Json) -> str:
    if point["lost"]:
        return "all lost"
    return f"{size_text(sum(disk['hurt_bytes'] for disk in point['disks']))} lost"


def _rows(point: Json) -> list[tuple[str, ...]]:
    name = point["point_id"], point["vm"] or "–", screen.when(point["taken_at"])
    if point["lost"]:
        return [(*name, "all", "–", "–", point["lost"])]
    return [
        (
            *name,
            disk["name"],
            size_text(disk["hurt_bytes"]),
            size_text(disk["healable_bytes"]),
            _ranges(disk),
        )
        for disk in point["disks"]
    ]


def _ranges(disk: dict[str, Any]) -> str:
    shown = [f"{r['offset_bytes']} + {r['length_bytes']}" for r in disk["ranges"][:_SHOWN_RANGES]]
    more = max(0, len(disk["ranges"]) - _SHOWN_RANGES) + disk["more_ranges"]
    return ", ".join(shown) + (f", {more} more" if more else "")
