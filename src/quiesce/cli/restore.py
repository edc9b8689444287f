"""`quiesce restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from quiesce.cli.client import Json
from quiesce.cli.follow import finish_or_follow
from quiesce.cli.options import COMMON, Common, DiskFormat, Disks, Overwrite, Salvage

RestoreTo = Annotated[
    str,
    Parameter(
        help="A folder: one that is there, or that ends with /; or, for a single disk, the file."
    ),
]


def restore(
    point: str,
    /,
    *,
    to: RestoreTo,
    disk: Disks = (),
    format: DiskFormat = None,  # noqa: A002 - the option's name
    overwrite: Overwrite = False,
    salvage: Salvage = False,
    wait: Annotated[
        bool, Parameter(show_default=False, help="Show progress until the job ends.")
    ] = False,
    common: Common = COMMON,
) -> int:
    """Write disks of a recovery point to files on the server's host."""
    path, folder = place_of(to)
    body: Json = {
        "point": point,
        "to": str(path),
        "folder": folder,
        "disks": list(disk) or None,
        "format": format or format_of(path),
        "overwrite": overwrite,
        "salvage": salvage,
    }
    with common.client() as client:
        job = client.post("restores", body=body)
        return finish_or_follow(client, job, wait=wait, as_json=common.json)


def place_of(to: str) -> tuple[Path, bool]:
    """The whole path, and whether it is said to be a folder: by a slash at its end."""
    return Path(to).absolute(), to.endswith("/")


def format_of(to: Path) -> Literal["raw", "qcow2"]:
    """What a restore writes when no format was said: what the file's name says."""
    return "qcow2" if to.suffix == ".qcow2" else "raw"
