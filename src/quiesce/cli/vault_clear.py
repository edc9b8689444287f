"""`quiesce vault prune`, `gc` and `rebuild-index`."""

from __future__ import annotations

import json
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from cyclopts import Parameter

from quiesce.cli import screen
from quiesce.cli.confirm import confirmed
from quiesce.cli.follow import finish_or_follow
from quiesce.cli.options import (
    COMMON,
    KEEP_DAILY,
    KEEP_LAST,
    Common,
    DryRun,
    Wait,
    Yes,
    time_zone,
)
from quiesce.cli.vault_place import PLACE, Place, as_json_value
from quiesce.cli.working import working
from quiesce.model.failure import ExitCode, InputFailure
from quiesce.model.progress import Progress
from quiesce.model.units import count_text, size_text


def prune(
    *,
    vm: Annotated[
        tuple[str, ...], Parameter(show_default=False, help="Only this VM; may be repeated.")
    ] = (),
    keep_last: Annotated[
        int | None,
        Parameter(validator=KEEP_LAST, help="With --at: keep so many of each VM's newest points."),
    ] = None,
    keep_daily: Annotated[
        int | None,
        Parameter(validator=KEEP_DAILY, help="With --at: and the newest of each of so many days."),
    ] = None,
    zone: Annotated[
        str | None, Parameter(help="With --keep-daily: the time zone that days are of. Else UTC.")
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    place: Place = PLACE,
    common: Common = COMMON,
) -> int:
    """Delete points that the rules no longer want: those of the policies, or, with --at, yours."""
    if place.at is not None:
        if keep_last is None:
            raise InputFailure(
                "input.usage", "With --at say what is to be kept: `--keep-last N`, 1 or more."
            )
        if zone is not None and not keep_daily:
            raise InputFailure("input.usage", "A time zone goes with days: `--keep-daily N`.")
        from quiesce.model.policy import Retention
        from quiesce.service.pruning import prune_vault

        days = ZoneInfo(time_zone("UTC" if zone is None else zone))
        vault, rules = place.open(), Retention(keep_last, keep_daily or 0)

        def change(shown: list[str] | None, *, dry_run: bool) -> Any:
            name = "Look at points" if dry_run else "Delete points"
            left = "No point was deleted." if dry_run else "Give the command again to go on."
            with working(name, go_on=left, quiet=common.json) as (tell, cancelled):
                pruned = prune_vault(
                    vault,
                    rules,
                    days,
                    vms=vm,
                    shown=shown,
                    dry_run=dry_run,
                    on_progress=tell,
                    cancelled=cancelled,
                )
                freed = 0 if dry_run else sum(each.plan.freed_bytes for each in pruned)
                tell(Progress(freed, freed))
            return as_json_value(pruned)
    else:
        if (keep_last, keep_daily, zone) != (None, None, None):
            raise InputFailure(
                "input.usage",
                "A server's points are kept as the policies of their VMs say.",
                remedy="Change the policy: `quiesce policy update NAME --keep-last N --keep-daily "
                "N --zone ZONE`. For a vault without a server, say `--at ADDRESS`.",
            )

        def change(shown: list[str] | None, *, dry_run: bool) -> Any:
            body = None if shown is None else {"points": shown}
            with common.client() as client:
                return client.post("vault", "prune", body=body, vm=list(vm), dry_run=dry_run)

    plan = change(None, dry_run=True)
    if not dry_run and any(each["plan"]["removed"] for each in plan):
        what = "Deleting recovery points"
        if not confirmed(what, lambda: _plans(plan), yes=yes, as_json=common.json):
            return ExitCode.OK
        # What the rules let go of only since then was neither shown nor agreed to.
        shown = [point["id"] for each in plan for point in each["plan"]["removed"]]
        plan = change(shown, dry_run=False)
    screen.emit(plan, as_json=common.json, human=lambda: _plans(plan))
    return ExitCode.OK


def collect(
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Wait = True,
    place: Place = PLACE,
    common: Common = COMMON,
) -> int:
    """Free the space of what no point needs any more.

    Runs beside backups. What becomes garbage is marked first and deleted by a collection a day
    later at the earliest. A server does this by itself, after backups.
    """
    from quiesce.service.vault_views import collect_view

    place.check_wait(wait)
    vault = place.open() if place.at is not None else None
    if vault is not None:
        nothing = "Nothing was changed."
        with working("Look for garbage", go_on=nothing, quiet=common.json) as (tell, cancelled):
            found = vault.plan_collect(on_progress=tell, cancelled=cancelled)
        plan = as_json_value(collect_view(found))
    else:
        with common.client() as client:
            plan = client.get("vault", "garbage")
    if dry_run:
        screen.emit(plan, as_json=common.json, human=lambda: _garbage(plan))
        return ExitCode.OK
    destroys = plan["delete_packs"] > 0
    if destroys and not confirmed(
        "Deleting packs", lambda: _garbage(plan), yes=yes, as_json=common.json
    ):
        return ExitCode.OK
    if vault is None:
        with common.client() as client:
            job = client.post("vault", "gc", body={"marks": plan["ripe_marks"]})
            return finish_or_follow(client, job, wait=wait, as_json=common.json)
    go_on = f"Nothing is lost by that. Begin again: `quiesce vault gc{place.words}`"
    with working("Collect garbage", go_on=go_on, quiet=common.json) as (tell, cancelled):
        collected = vault.collect(found, on_progress=tell, cancelled=cancelled)
        tell(Progress(collected.delete_bytes, collected.delete_bytes))
    done = as_json_value(collect_view(collected, executed=True))

    def human() -> None:
        _garbage(done)
        if done["waiting_bytes"]:
            screen.advise(f"Collect again after that: `quiesce vault gc{place.words}`")

    screen.emit(done, as_json=common.json, human=human)
    return ExitCode.OK


def rebuild_index(
    *,
    dry_run: DryRun = False,
    wait: Wait = True,
    place: Place = PLACE,
    common: Common = COMMON,
) -> int:
    """Make the index anew from the packs' own lists, when it is lost or doubted."""
    place.check_wait(wait)
    if place.at is None:
        with common.client() as client:
            if dry_run:
                return _rebuilding(client.get("vault", "rebuild-plan"), common)
            job = client.post("vault", "rebuild-index")
            return finish_or_follow(client, job, wait=wait, as_json=common.json)
    from quiesce.service.rebuilding import told

    vault = place.open()
    if dry_run:
        return _rebuilding(as_json_value(vault.plan_rebuild()), common)
    go_on = f"The old index serves on. Begin again: `quiesce vault rebuild-index{place.words}`"
    with working("Rebuild index", go_on=go_on, quiet=common.json) as (tell, cancelled):
        report = vault.rebuild_index(on_progress=tell, cancelled=cancelled)

    def human() -> None:
        screen.say(told(report))
        for key in report.unreadable:
            screen.say(f"{key}: its list of chunks cannot be read.", "yellow")

    screen.emit(as_json_value(report), as_json=common.json, human=human)
    return ExitCode.JOB_WARNING if report.unreadable else ExitCode.OK


def _rebuilding(plan: Any, common: Common) -> int:
    def human() -> None:
        screen.say(
            f"Would read the lists of {count_text(plan['packs'], 'pack')}, write about "
            f"{count_text(plan['segments'], 'segment')} of the index, and then delete "
            f"{count_text(plan['replaced'], 'older one')}."
        )

    screen.emit(plan, as_json=common.json, human=human)
    return ExitCode.OK


def _plans(plans: list[Any]) -> None:
    removed = 0
    for each in plans:
        plan = each["plan"]
        verb = "Deleted" if plan["executed"] else "Would delete"
        removed += len(plan["removed"])
        for point in plan["removed"]:
            screen.say(f"{verb} {point['id']} of {each['vm']}, {screen.when(point['taken_at'])}.")
        if plan["removed"]:
            size = size_text(plan["freed_bytes"])
            kept = len(plan["kept"])
            stay = "1 point stays" if kept == 1 else f"{kept} points stay"
            # Only packs that nothing else needs are counted; of those that are shared, some more.
            screen.say(f"{each['vm']}: {stay}; at least {size} become garbage.")
    if not removed:
        screen.say("No point is to be deleted.")


def _garbage(view: Any) -> None:
    from quiesce.service.codec import from_json
    from quiesce.service.collecting import told
    from quiesce.service.vault_views import CollectView

    for line in told(from_json(CollectView, json.dumps(view))):
        screen.say(line)
    if view["locked"]:
        screen.say(f"{view['locked']} objects are under a retention lock; later.", "yellow")
