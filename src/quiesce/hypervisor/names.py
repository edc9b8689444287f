"""Every name that Quiesce gives to a thing inside QEMU.

    qz<task>-c<i>                copy-before-write filter of disk number i (its scratch hangs below)
    qz<task>-s<i>, -l<i>, -f<i>  the scratch of disk i: qcow2, its size limit, its file
    qz<task>-a<i>                the point of disk i, readable (snapshot-access)
    qz<task>-e<i>                the NBD export of it
    qz<task>-m<i>, -n<i>         NBD exports of the live disk and the scratch, for their maps
    qz<task>-d<i>                bitmap: what changed since the base, as of the instant
    qz<task>-stopped             marker node: this task has stopped the VM and owes it a `cont`
    quiesce-<task>-<size>        bitmap that counts what changes from this point on: a *generation*;
                                 <size> is the disk's size in bytes at the point, in hex

A task id is 12 lower-case hex digits, so that the longest node name stays below QEMU's limit of
31 characters. Node and export names lead back to the task after a crash, and the size in a
generation's name tells a resized disk without a file of our own that could get lost.
"""

from __future__ import annotations

import re

from quiesce.model.failure import Evidence, InputFailure

GENERATION_PREFIX = "quiesce-"

_TASK = re.compile(r"[0-9a-f]{12}")
_OWNED = re.compile(r"qz([0-9a-f]{12})-")
_GENERATION = re.compile(r"quiesce-([0-9a-f]{12})-([0-9a-f]+)")


def checked_task_id(task_id: str) -> str:
    """The task id as it came.

    :raise InputFailure: snapshot.bad-task-id
    """
    if not _TASK.fullmatch(task_id):
        raise InputFailure(
            "snapshot.bad-task-id",
            "A snapshot's task id is 12 lower-case hex digits.",
            evidence=[Evidence("task id that was given", "quiesce", raw=task_id)],
        )
    return task_id


def prefix(task_id: str) -> str:
    return f"qz{task_id}-"


def node(task_id: str, kind: str, disk: int) -> str:
    return f"qz{task_id}-{kind}{disk}"


def stopped_marker(task_id: str) -> str:
    return f"qz{task_id}-stopped"


def owner(name: str) -> str | None:
    """The task that a node, export or session bitmap belongs to; None when it is not ours."""
    found = _OWNED.match(name)
    return found[1] if found else None


def generation(task_id: str, size_bytes: int) -> str:
    return f"{GENERATION_PREFIX}{task_id}-{size_bytes:x}"


def generation_task(name: str) -> str | None:
    found = _GENERATION.fullmatch(name)
    return found[1] if found else None


def generation_size(name: str) -> int | None:
    """The size of the disk, in bytes, when this generation began."""
    found = _GENERATION.fullmatch(name)
    return int(found[2], 16) if found else None
