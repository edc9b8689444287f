"""The end of a snapshot session in a running QEMU: the same code on success, on failure and after
a crash. It needs nothing but the task's id and finds by name what is left to take away."""

from __future__ import annotations

import socket
import time

from quiesce.hypervisor import bitmaps, names, scratch
from quiesce.hypervisor.inventory import Inventory, take_stock
from quiesce.hypervisor.qmp import Monitor, QmpRefused
from quiesce.hypervisor.taskfolder import TaskFolder
from quiesce.model.failure import Evidence, SnapshotFailure

EXPORT_END_SECONDS = 20.0


def release(monitor: Monitor, task_id: str, folder: TaskFolder, *, committed: bool) -> None:
    """Take everything of the task out of QEMU; the folder itself is the caller's to remove.
    Skips what is not there.

    :raise SnapshotFailure: snapshot.release-failed; repeating it goes on where this one ended
    """
    try:
        _end_exports(monitor, task_id, folder)
        stock = take_stock(monitor)
        # The views first: while one reads through a filter, the filter forbids anybody else to
        # write to the disk's node, and so the device could not have it back.
        _delete_nodes(monitor, stock, names.prefix(task_id) + "a")
        for attachment in stock.attachments:
            if names.owner(attachment.filter_node) == task_id:
                scratch.put_in_the_way(monitor, attachment.device, attachment.disk.node)
        _delete_nodes(monitor, stock, names.prefix(task_id) + "c")
        bitmaps.settle(monitor, stock, task_id, committed=committed)
    except QmpRefused as inner:
        raise SnapshotFailure(
            "snapshot.release-failed",
            f"QEMU did not let go of the point: {inner.desc}",
            evidence=inner.evidence,
            retryable=True,
        ) from inner


def _delete_nodes(monitor: Monitor, stock: Inventory, prefix: str) -> None:
    for node in sorted(stock.nodes):
        if node.startswith(prefix):
            monitor.execute("blockdev-del", {"node-name": node})


def _end_exports(monitor: Monitor, task_id: str, folder: TaskFolder) -> None:
    exports = [export["id"] for export in monitor.execute("query-block-exports")]
    ours = [export for export in exports if names.owner(export) == task_id]
    serves_us = bool(ours) or _is_served(folder)
    for export in ours:
        monitor.execute("block-export-del", {"id": export, "mode": "hard"})
    deadline = time.monotonic() + EXPORT_END_SECONDS
    while any(e["id"] in ours for e in monitor.execute("query-block-exports")):
        if time.monotonic() > deadline:
            raise SnapshotFailure(
                "snapshot.release-failed",
                f"QEMU's exports did not end within {EXPORT_END_SECONDS:g} s.",
                evidence=[Evidence("exports still listed", "query-block-exports")],
                retryable=True,
            )
        time.sleep(0.01)
    if serves_us and len(ours) == len(exports):
        # Somebody else's export on our server would die with it; then it stays.
        monitor.execute("nbd-server-stop")


def _is_served(folder: TaskFolder) -> bool:
    """Whether QEMU's NBD server listens at this task's own socket: it has only one server, and
    does not say where. Finds the one that was started and given no export yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(folder.nbd_socket))
        except OSError:
            return False
        return True
