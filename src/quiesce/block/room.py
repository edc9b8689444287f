"""Whether what is to be written fits where it goes: looked at before the first byte is written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from quiesce.block.place import not_writable
from quiesce.model.failure import Evidence, RestoreFailure


def require_room(writes: Iterable[tuple[Path, int]]) -> None:
    """These files will hold so many bytes of data each, and are written one after the other: they
    must fit into their file systems together. A file that is replaced gives its own room back when
    the new one is whole. A block device has all of its room.

    :raise RestoreFailure: restore.no-space, restore.target-not-writable
    """
    free: dict[int, int] = {}
    needed: dict[int, int] = {}
    for path, data_bytes in writes:
        folder = path.parent
        try:
            if path.is_block_device():
                continue
            device = folder.stat().st_dev
            if device not in free:
                figures = os.statvfs(folder)
                free[device] = figures.f_bavail * figures.f_frsize
            given_back = _given_back(path)
        except OSError as error:
            raise not_writable(error, path) from error
        needed[device] = needed.get(device, 0) + data_bytes
        if free[device] < needed[device]:
            raise RestoreFailure(
                "restore.no-space",
                f"The data do not fit into {folder}.",
                evidence=[
                    Evidence(
                        f"{free[device]} bytes free, {needed[device]} needed until {path.name} is "
                        "whole",
                        str(folder),
                    )
                ],
            )
        needed[device] -= given_back


def _given_back(path: Path) -> int:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    alone = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    return found.st_blocks * 512 if alone else 0
