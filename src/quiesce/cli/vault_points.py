"""`quiesce vault points` and `restore`: when there is a vault and no server any more."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from quiesce.cli import screen
from quiesce.cli.options import COMMON, Common, DiskFormat, Disks, Overwrite, Salvage
from quiesce.cli.restore import RestoreTo, format_of, place_of
from quiesce.cli.vault_place import PLACE, Place, as_json_value
from quiesce.cli.working import working
from quiesce.model.failure import Evidence, ExitCode, InputFailure
from quiesce.model.progress import Progress
from quiesce.model.units import duration_text, size_text

if TYPE_CHECKING:
    from quiesce.vault.vault import Vault

_LEAST_DIGITS = 4
"""Of a point's id; fewer may mean any."""
_SHOWN = 20


def points(
    *,
    vm: Annotated[str | None, Parameter(help="Only points of this VM.")] = None,
    place: Place = PLACE,
    common: Common = COMMON,
) -> None:
    """Recovery points of the vault at --at, newest first."""
    from quiesce.cli.point import show_points

    _only_at(place, "points", "point list")
    vault = place.open()
    found = as_json_value(tuple(reversed(vault.points(vm))))
    damage = {} if common.json else as_json_value(vault.damage())
    hint = f"Is it the right vault? See `quiesce vault status{place.words}`"
    screen.emit(
        found,
        as_json=common.json,
        human=lambda: show_points(found, damage, hint, place.words, vm),
    )


def restore(
    point: Annotated[
        str, Parameter(help="Its id, as `vault points` lists it, or how only it begins.")
    ],
    /,
    *,
    to: RestoreTo,
    disk: Disks = (),
    format: DiskFormat = None,  # noqa: A002 - the option's name
    overwrite: Overwrite = False,
    salvage: Salvage = False,
    place: Place = PLACE,
    common: Common = COMMON,
) -> int:
    """Write disks of a point of the vault at --at to files here. Each file gets its name when it is
    whole."""
    from quiesce.block.image import open_target
    from quiesce.block.room import require_room
    from quiesce.service.incomplete import Incomplete, incomplete, loss_of
    from quiesce.service.requests import RestoreRequest
    from quiesce.service.restore import make_folder_of, plan_targets
    from quiesce.transfer.restore import data_bytes, restore_disk

    _only_at(place, "restore", "restore")
    path, folder = place_of(to)
    chosen = format or format_of(path)
    vault = place.open()
    point = _whole_id(vault, point)
    found = vault.point(point)
    request = RestoreRequest(point, path, disk or None, chosen, overwrite, folder)
    targets = plan_targets(found, request)
    make_folder_of(request, targets)
    readers = [vault.reader(point, target.disk.name, salvage=salvage) for target in targets]
    sizes = [data_bytes(reader) for reader in readers]
    require_room((target.path, size) for target, size in zip(targets, sizes, strict=True))
    done = 0
    told: list[dict[str, Any]] = []
    hurt: list[Incomplete] = []
    go_on = "Disks that are whole stay; restore the others with `--disk NAME`."
    with working("Restore disks", go_on=go_on, quiet=common.json) as (tell, cancelled):
        for target, reader, size in zip(targets, readers, sizes, strict=True):

            def show(now: Progress, before: int = done) -> None:
                tell(replace(now, done_bytes=before + now.done_bytes, total_bytes=sum(sizes)))

            written = restore_disk(
                reader,
                open_target(
                    target.path,
                    reader.size_bytes,
                    chosen,
                    overwrite=overwrite,
                    data_bytes=size,
                ),
                on_progress=show,
                cancelled=cancelled,
                phase=f"Restoring disk {target.disk.name}",
            )
            done += written.written_bytes
            loss = loss_of(target.disk.name, reader.lost)
            if loss.hurt_bytes:
                hurt.append(Incomplete(loss, str(target.path)))
            told.append(
                {
                    "disk": target.disk.name,
                    "path": str(target.path),
                    "written_bytes": written.written_bytes - loss.hurt_bytes,
                    "seconds": written.seconds,
                    "lost_bytes": loss.hurt_bytes,
                    "lost": [
                        {"offset_bytes": each.offset_bytes, "length_bytes": each.length_bytes}
                        for each in reader.lost
                    ],
                }
            )

    why = chain.from_iterable(reader.why for reader in readers)
    failure = incomplete(hurt, why) if hurt else None

    def human() -> None:
        if failure:
            screen.show_failure(failure.report(), to=screen.out)
        for each in told:
            screen.say(
                f"Disk {each['disk']} is at {each['path']}: {size_text(each['written_bytes'])} of "
                f"data in {duration_text(each['seconds'])}.",
                "yellow" if each["lost_bytes"] else "green",
            )

    screen.emit(told, as_json=common.json, human=human)
    return failure.exit_code if failure else ExitCode.OK


def _whole_id(vault: Vault, point: str) -> str:
    """The id of the one point whose id begins so. Points that cannot be read count, too: it may be
    one of them that is meant.

    :raise InputFailure: input.point-ambiguous
    """
    from quiesce.vault.format.manifest import POINT_ID_DIGITS

    if not _LEAST_DIGITS <= len(point) < POINT_ID_DIGITS:
        return point
    readable, damaged = vault.read_all_manifests()
    named = {manifest.point.id: f"a point of {manifest.point.vm}" for manifest in readable}
    named |= dict.fromkeys(damaged, "a point that cannot be read")
    fit = sorted(point_id for point_id in named if point_id.startswith(point))
    if len(fit) > 1:
        raise InputFailure(
            "input.point-ambiguous",
            f"The ids of {len(fit)} points begin with {point!r}.",
            evidence=[Evidence(named[point_id], point_id) for point_id in fit[:_SHOWN]],
        )
    return fit[0] if fit else point


def _only_at(place: Place, command: str, with_server: str) -> None:
    if place.at is None:
        raise InputFailure(
            "input.usage",
            f"`vault {command}` is for a vault without a server: say `--at ADDRESS`. "
            f"With a server: `quiesce {with_server}`.",
        )
