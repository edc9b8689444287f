"""`quiesce vault copy`: a second vault, at another place, with the same id and the same keys."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.follow import finish_or_follow
from quiesce.cli.options import COMMON, NEWEST, Common, DryRun, Wait
from quiesce.cli.vault_place import PLACE, Place, as_json_value
from quiesce.cli.working import working
from quiesce.model.failure import ExitCode, InputFailure
from quiesce.model.units import count_text, size_text

if TYPE_CHECKING:
    from quiesce.vault.copy.copying import CopyPlan, CopyReport


def copy(
    *,
    to: Annotated[
        str, Parameter(help="Folder or URL (s3://…, az://…, gs://…) that the copy goes to.")
    ],
    new: Annotated[
        bool, Parameter(show_default=False, help="Make a vault there if there is none yet.")
    ] = False,
    vm: Annotated[
        tuple[str, ...], Parameter(show_default=False, help="Only this VM; may be repeated.")
    ] = (),
    point: Annotated[
        tuple[str, ...], Parameter(show_default=False, help="Only this point; may be repeated.")
    ] = (),
    newest: Annotated[
        int | None, Parameter(validator=NEWEST, help="Of each VM only so many points.")
    ] = None,
    with_keys: Annotated[
        bool,
        Parameter(show_default=False, help="Send key slots too; a new copy has them anyway."),
    ] = False,
    dry_run: DryRun = False,
    without_key: Annotated[
        bool,
        Parameter(show_default=False, help="With --at: copy everything, without any key."),
    ] = False,
    wait: Wait = True,
    place: Place = PLACE,
    common: Common = COMMON,
) -> int:
    """Copy the vault to a second place: only what is missing there, each pack proven on its way.

    What was interrupted is gone on with by the same command. Deleted points are not copied, and a
    point that is deleted here later stays there.
    """
    from quiesce.vault.stores.address import parse_address

    if without_key and place.at is None:
        raise InputFailure("input.usage", "--without-key goes with --at: a server has its key.")
    place.check_keyless(without_key)
    place.check_wait(wait)
    body: Json = {
        "to": str(parse_address(to)),
        "vms": list(vm),
        "points": list(point),
        "newest": newest,
        "new": new,
        "with_keys": with_keys,
    }
    if place.at is not None:
        return _here(body, place, dry_run=dry_run, without_key=without_key, common=common)
    with common.client() as client:
        if dry_run:
            plan = client.post("vault", "copy-plan", body=body)
            screen.emit(plan, as_json=common.json, human=lambda: _plan(plan))
            return ExitCode.OK
        job = client.post("vault", "copies", body=body)
        return finish_or_follow(client, job, wait=wait, as_json=common.json)


def _here(wanted: Json, place: Place, *, dry_run: bool, without_key: bool, common: Common) -> int:
    from quiesce.service.copying import made, target_store
    from quiesce.service.vault_views import copy_view
    from quiesce.vault.copy.copying import execute_copy, plan_copy, shortfall

    contents = None if without_key else place.open().contents
    source = place.store() if contents is None else contents.store

    target = target_store(wanted["to"], new=wanted["new"])

    def plan() -> CopyPlan:
        return plan_copy(
            source,
            target,
            keys=None if contents is None else contents.keys,
            vms=tuple(wanted["vms"]),
            points=tuple(wanted["points"]),
            newest=wanted["newest"],
            with_keys=wanted["with_keys"],
            contents=contents,
        )

    if dry_run:
        view = as_json_value(copy_view(plan()))
        screen.emit(view, as_json=common.json, human=lambda: _plan(view))
        return ExitCode.OK
    words = ["--to", wanted["to"], *(("--without-key",) if without_key else ())]
    words += [word for vm in wanted["vms"] for word in ("--vm", vm)]
    words += [word for point in wanted["points"] for word in ("--point", point)]
    words += ["--newest", str(wanted["newest"])] if wanted["newest"] else []
    words += ["--with-keys"] if wanted["with_keys"] else []
    go_on = (
        "What has arrived stays and is not sent twice. Go on: "
        f"`quiesce vault copy{place.words} {shlex.join(words)}`"
    )
    with working("Copy vault", go_on=go_on, quiet=common.json) as (tell, cancelled):
        report = execute_copy(made(plan(), wanted["to"]), tell, cancelled)
    missing = shortfall(report)
    screen.emit(
        as_json_value(report),
        as_json=common.json,
        human=lambda: _report(report, wanted["to"]),
    )
    return ExitCode.DAMAGED if missing is not None else ExitCode.OK


def _plan(plan: Json) -> None:
    if plan["makes_vault"]:
        screen.say(f"There is no vault at {plan['target']} yet; the copy makes it.")
    screen.say(
        f"Would copy {count_text(len(plan['points']), 'point')} and "
        f"{count_text(plan['packs'], 'pack')}, "
        f"{size_text(plan['size_bytes'])}, from {plan['source']} to {plan['target']}."
    )
    if plan["points_there"]:
        screen.say(f"There already: {count_text(plan['points_there'], 'point')}.")
    for note in plan["notes"]:
        screen.say(note, "yellow")
    for unfit in plan["unfit"]:
        screen.say(_unfit(unfit), "red")


def _unfit(unfit: Any) -> str:
    of = unfit["vm"] or "an unknown VM"
    return f"Point {unfit['point_id']} of {of} cannot be copied: {unfit['reason']}"


def _report(report: CopyReport, to: str) -> None:
    from quiesce.service.copying import brought
    from quiesce.vault.copy.copying import shortfall

    for note in report.notes:
        screen.say(note, "yellow")
    there = f"There already: {count_text(report.points_there, 'point')}"
    screen.say(f"{to}: {brought(report)} {there}.")
    missing = shortfall(report)
    if missing is not None:
        screen.show_failure(missing.report(), to=screen.out)
