"""`quiesce point`: recovery points."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from cyclopts import App, Parameter

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.confirm import confirmed
from quiesce.cli.damage_text import damaged_mark, show_damage
from quiesce.cli.job_text import consistency, frozen
from quiesce.cli.options import COMMON, Common, DryRun, Yes
from quiesce.model.units import size_text

app = App(name="point", help="Recovery points: list, show, delete.")


@app.command(name="list")
def list_(
    *,
    vm: Annotated[str | None, Parameter(help="Only points of this VM.")] = None,
    common: Common = COMMON,
) -> None:
    """Recovery points, newest first."""
    with common.client() as client:
        points = client.get("points", vm=vm)
        damage: Json = {} if common.json else client.get("vault", "damage")

    screen.emit(points, as_json=common.json, human=lambda: show_points(points, damage, vm=vm))


def _lost(points: list[Json], damage: Json) -> list[str]:
    """Ids of those that nobody can list, of the VMs that are listed or of ones not known."""
    listed, vms = ({point[key] for point in points} for key in ("id", "vm"))
    return [
        point["point_id"]
        for point in damage["points"]
        if point["lost"]
        and point["point_id"] not in listed
        and (not point["vm"] or point["vm"] in vms)
    ]


def show_points(
    points: list[Json],
    damage: Json,
    hint: str = "Make one: `quiesce backup VM --wait`",
    where: str = "",
    vm: str | None = None,
) -> None:
    """A line for each, marked where it is hurt; `hint` says what to do when there is none, `where`
    are the options that say which vault it is, `vm` the one that was asked for alone."""
    lost = _lost(points, damage)
    if lost:
        screen.say(f"Not listed, since they cannot be read: {', '.join(lost)}.", "red")
    if not points:
        screen.say(f"There are no recovery points {f'of a VM {vm!r}' if vm else 'yet'}.")
        screen.advise(hint)
        return
    hurt = bool(damage["points"])
    screen.table(
        ("point", "VM", "taken", "consistency", "disks", "new", *(["damage"] if hurt else [])),
        (
            (
                point["id"],
                point["vm"],
                screen.when(point["taken_at"]),
                screen.styled(point["consistency"]["level"]),
                size_text(_sum(point, "size_bytes")),
                size_text(_sum(point, "stored_bytes")),
                *([damaged_mark(point["id"], damage)] if hurt else []),
            )
            for point in points
        ),
        right="disks new",
        whole="taken",
    )
    if hurt:
        screen.advise(f"What they have lost: `quiesce vault status{where}`")


@app.command
def show(point: str, /, *, common: Common = COMMON) -> None:
    """One recovery point with its disks."""
    with common.client() as client:
        found = client.get("points", point)
        damage: Json = {} if common.json else client.get("vault", "damage")
    screen.emit(found, as_json=common.json, human=lambda: _show(found, damage))


@app.command
def delete(
    point: str,
    /,
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
    common: Common = COMMON,
) -> int:
    """Delete a recovery point. Other points stay whole."""
    with common.client() as client:
        plan = client.delete("points", point, dry_run=True)
        if not dry_run:
            if not confirmed(
                "Deleting a recovery point", lambda: _plan(plan), yes=yes, as_json=common.json
            ):
                return 0
            plan = client.delete("points", point, dry_run=False)
    screen.emit(plan, as_json=common.json, human=lambda: _plan(plan))
    return 0


def _plan(plan: Json) -> None:
    verb = "Deleted" if plan["executed"] else "Would delete"
    for point in plan["removed"]:
        screen.say(f"{verb} {point['id']} of {point['vm']}, {screen.when(point['taken_at'])}.")
    freed = size_text(plan["freed_bytes"])
    if plan["executed"]:
        from quiesce.vault.upkeep.collect_plan import MARGIN

        until = screen.when((datetime.now(UTC) + MARGIN).isoformat())
        screen.say(
            f"At least {freed} wait for the vault's clean-up, until {until} at the earliest."
        )
    else:
        screen.say(f"At least {freed} are needed by nothing else.")
    if plan["kept"]:
        screen.say(f"{len(plan['kept'])} other points stay.")


def _show(point: Json, damage: Json) -> None:
    screen.facts(
        (
            ("point", point["id"]),
            ("VM", point["vm"]),
            ("taken", screen.when(point["taken_at"], seconds=True)),
            ("committed", screen.when(point["committed_at"], seconds=True)),
            ("consistency", consistency(point["consistency"])),
            ("frozen", frozen(point["freeze"])),
            ("route", point["route"]),
            ("job", point["job_id"]),
        )
    )
    screen.out.print()
    screen.table(
        ("disk", "size", "kind", "read", "new in vault"),
        (
            (
                disk["name"],
                size_text(disk["size_bytes"]),
                _kind(disk),
                size_text(disk["read_bytes"]),
                size_text(disk["stored_bytes"]),
            )
            for disk in point["disks"]
        ),
    )
    hurt = [each for each in damage["points"] if each["point_id"] == point["id"]]
    if hurt:
        screen.say("This point is damaged.", "bold red")
        show_damage({**damage, "points": hurt, "more_points": 0, "unseen": 0})
    # Of a single disk, a path that is no folder is the file itself.
    to = "FILE" if len(point["disks"]) == 1 else "FOLDER"
    screen.advise(f"Restore it: `quiesce restore {point['id']} --to {to} --wait`")


def _kind(disk: Json) -> str:
    if disk["incremental"]:
        return "incremental"
    return f"full: {disk['full_read_reason']}" if disk["full_read_reason"] else "full"


def _sum(point: Json, field: str) -> int:
    return sum(int(disk[field]) for disk in point["disks"])
