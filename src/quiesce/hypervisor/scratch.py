"""Scratch images: where the old content of blocks goes that the guest overwrites while a point
is read. They are bounded, sparse, and thrown away.

Each is a qcow2 image inside a file of a fixed length. QEMU lets a qcow2 image grow only to the
end of the node below it, so a `raw` node with `size` is a hard limit: beyond it the copy fails
with ENOSPC, the copy-before-write filter breaks the snapshot, and the guest's write goes on.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quiesce.hypervisor import names
from quiesce.hypervisor.qmp import Monitor, QmpRefused
from quiesce.model.failure import Evidence, SnapshotFailure, StorageFailure

CBW_TIMEOUT_SECONDS = 20
"""How long one guest write may wait for its old content to be copied away before the snapshot is
given up. Below the 30 s after which Linux resets a SCSI disk (SD_TIMEOUT)."""

_QCOW2_EMPTY_BYTES = 1024 * 1024
_TOOL_SECONDS = 30


def shares(budget_bytes: int, sizes: Sequence[int]) -> list[int]:
    """Split the budget evenly, but give no disk more than its scratch can ever fill; what small
    disks leave goes to the larger ones. In the order of `sizes`, bytes."""
    result = [0] * len(sizes)
    left = budget_bytes
    by_need = sorted(range(len(sizes)), key=lambda i: sizes[i])
    for position, i in enumerate(by_need):
        result[i] = min(_most(sizes[i]), left // (len(sizes) - position))
        left -= result[i]
    return result


def _most(size_bytes: int) -> int:
    """A full qcow2 of that size: refcounts (2 bytes) and L2 entries (8 bytes) per 64 KiB, well
    below 1/1024."""
    return size_bytes + size_bytes // 1024 + 2 * _QCOW2_EMPTY_BYTES


def create(path: Path, *, size_bytes: int, limit_bytes: int) -> int:
    """Make an empty scratch image for a disk of `size_bytes`. Returns the length of its file,
    which is the limit in whole sectors, or the empty image's own length if that is more.

    :raise StorageFailure: storage.scratch-unusable
    :raise SnapshotFailure: hypervisor.tool-missing
    """
    run_tool("qemu-img", "create", "-q", "-f", "qcow2", os.fspath(path), str(size_bytes))
    try:
        length = max(limit_bytes, path.stat().st_size)
        length -= length % -512  # up to a whole sector
        os.truncate(path, length)
    except OSError as inner:
        raise StorageFailure(
            "storage.scratch-unusable",
            f"The scratch file {path} cannot be made: {inner.strerror or inner}.",
            evidence=[Evidence("scratch file refused", str(path), raw=str(inner))],
        ) from inner
    return length


def refuse_closed_folder(inner: QmpRefused, path: Path, uid: int) -> None:
    """The file is QEMU's own by now, so what keeps QEMU's user out is a folder above it, or a
    confinement such as AppArmor.

    :raise StorageFailure: storage.scratch-unusable, if that is why QEMU refused
    """
    if os.strerror(errno.EACCES) not in inner.desc:
        return
    raise StorageFailure(
        "storage.scratch-unusable",
        f"QEMU, which runs as user {uid}, may not open its scratch file {path}.",
        evidence=inner.evidence,
        remedy="Give QEMU's user the right to enter (x) every folder above it, or set "
        "`scratch_folder` to one that it may enter: "
        "`install -d -m 0711 /var/lib/quiesce-scratch`.",
    ) from inner


def filter_over(
    task_id: str, index: int, disk_node: str, scratch: Path, length: int
) -> dict[str, Any]:
    """The `blockdev-add` argument of a copy-before-write filter with its scratch below it. The
    scratch nodes are inline, so that deleting the filter deletes them with it."""
    return {
        "driver": "copy-before-write",
        "node-name": names.node(task_id, "c", index),
        "file": disk_node,
        "on-cbw-error": "break-snapshot",
        "cbw-timeout": CBW_TIMEOUT_SECONDS,
        "target": {
            "driver": "qcow2",
            "node-name": names.node(task_id, "s", index),
            "discard": "unmap",
            "cache": {"no-flush": True},  # nothing in it outlives QEMU
            "file": {
                "driver": "raw",
                "node-name": names.node(task_id, "l", index),
                "size": length,
                "file": {
                    "driver": "file",
                    "node-name": names.node(task_id, "f", index),
                    "filename": os.fspath(scratch),
                    "discard": "unmap",
                },
            },
        },
    }


def put_in_the_way(monitor: Monitor, device: str, node: str) -> None:
    """Let a device's requests go through `node`: the filter, or the disk itself again."""
    monitor.execute("qom-set", {"path": device, "property": "drive", "value": node})


def run_tool(*command: str) -> str:
    """Run one of QEMU's tools and return what it printed.

    :raise SnapshotFailure: hypervisor.tool-missing, hypervisor.tool-failed
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False
        )
    except FileNotFoundError as inner:
        raise SnapshotFailure(
            "hypervisor.tool-missing",
            f"{command[0]} is not installed on this host.",
            evidence=[Evidence("not found in PATH", command[0], raw=str(inner))],
            remedy="Install QEMU's tools: `apt install qemu-utils` (Debian, Ubuntu), "
            "`dnf install qemu-img` (Fedora, RHEL).",
        ) from inner
    except subprocess.TimeoutExpired as inner:
        raise SnapshotFailure(
            "hypervisor.tool-failed",
            f"{command[0]} did not end within {_TOOL_SECONDS} s.",
            evidence=[Evidence("timed out", " ".join(command), raw=str(inner))],
            retryable=True,
        ) from inner
    if done.returncode != 0:
        words = done.stderr.strip()
        raise SnapshotFailure(
            "hypervisor.tool-failed",
            f"{command[0]} failed: {words.splitlines()[-1] if words else done.returncode}",
            evidence=[
                Evidence(f"exit status {done.returncode}", " ".join(command), raw=words),
            ],
        )
    return done.stdout
