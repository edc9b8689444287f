"""A snapshot session inside a running QEMU (7.1 or newer), from prepare to release.

    prepare   scratch + copy-before-write filter per disk (not in the guest's way yet), NBD server
    take      stop · transaction over all disks' bitmaps · filter into every disk's way · cont
    open      the frozen view (snapshot-access) and its NBD export per disk
    release   all of it back, in the opposite order

QEMU refuses edits of the block graph in a `transaction`, hence the `stop`: with the VM stopped
and drained, no write lies between the bitmaps' instant and the filters'. The caller holds one
`Monitor` during each step, which shuts out every other Quiesce process (see qmp.py).

Each function finds in QEMU what earlier ones left, by name, and so can be repeated after any
crash. Source of the commands: QEMU's qapi/block-core.json and qapi/block-export.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from quiesce.hypervisor import bitmaps, names, scratch
from quiesce.hypervisor.inventory import (
    Attachment,
    Inventory,
    runs_in_iothread,
    take_stock,
)
from quiesce.hypervisor.qmp import Monitor, QmpRefused
from quiesce.hypervisor.resuming import resume
from quiesce.hypervisor.taskfolder import Record, RecordedDisk, TaskFolder, free_bytes
from quiesce.hypervisor.teardown import release
from quiesce.model.failure import Evidence, SnapshotFailure, VmFailure
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import Route, SessionDisk, SnapshotSession
from quiesce.model.vm import PowerState

OLDEST_QEMU = (7, 1, 0)
"""First with copy-before-write's on-cbw-error and cbw-timeout, and with snapshot-access."""
IOTHREAD_QEMU = (9, 0, 0)
"""First whose NBD server survives a client that leaves while the disk runs in an iothread; an
older one ends with the assertion in nbd_blockdev_client_closed, and the guest with it."""
NBD_CONNECTIONS = 64
READ_UNIT_BYTES = 64 * 1024
"""Copy-before-write's granularity, which is its least and the scratch's cluster. QEMU 7.2 answers
a read that begins in an overwritten cluster and ends in an untouched one with the *new* content of
the former, and tells the allocation of such ranges wrongly (hbitmap_status). Reads within one
cluster are right; see docs/explanation/decisions/0002-snapshot-reads.md."""


def prepare(
    monitor: Monitor,
    vm: str,
    task_id: str,
    folder: TaskFolder,
    bases: Mapping[str, Sequence[str]],
    options: SnapshotOptions,
) -> None:
    """:raise SnapshotFailure, StorageFailure, VmFailure: nothing is left behind then"""
    stock = take_stock(monitor)
    record = folder.read()
    if record is not None and record.taken_at is not None and _is_held(stock, record):
        return
    _refuse_what_cannot_work(monitor, stock, task_id)
    if task_id in stock.tasks:
        release(monitor, task_id, folder, committed=False)
    try:
        _build(monitor, vm, task_id, folder, stock, bases, options)
    except BaseException:
        release(monitor, task_id, folder, committed=False)
        folder.remove()
        raise


def _build(
    monitor: Monitor,
    vm: str,
    task_id: str,
    folder: TaskFolder,
    stock: Inventory,
    bases: Mapping[str, Sequence[str]],
    options: SnapshotOptions,
) -> None:
    folder.create()
    disks = tuple(_decide(task_id, a, bases.get(a.disk.name, ())) for a in stock.attachments)
    folder.write(Record(vm, task_id, Route.HOST, disks))
    budget = options.scratch_bytes or free_bytes(folder.path) // 2
    limits = scratch.shares(budget, [disk.size_bytes for disk in disks])
    lengths = [
        scratch.create(folder.scratch_file(i), size_bytes=disk.size_bytes, limit_bytes=limit)
        for i, (disk, limit) in enumerate(zip(disks, limits, strict=True))
    ]
    folder.give_to(monitor.uid)
    for i, (disk, length) in enumerate(zip(disks, lengths, strict=True)):
        file = folder.scratch_file(i)
        try:
            monitor.execute(
                "blockdev-add", scratch.filter_over(task_id, i, disk.node, file, length)
            )
        except QmpRefused as inner:
            scratch.refuse_closed_folder(inner, file, monitor.uid)
            raise
    _start_nbd_server(monitor, folder)


def _decide(task_id: str, attachment: Attachment, bases: Sequence[str]) -> RecordedDisk:
    disk = attachment.disk
    base = bitmaps.choose_base(attachment, bases)
    return RecordedDisk(
        name=disk.name,
        size_bytes=disk.size_bytes,
        format=disk.format,
        node=disk.node,
        device=attachment.device,
        base=base.generation,
        full_read_reason=base.full_read_reason,
        generation=names.generation(task_id, disk.size_bytes),
        persistent=disk.persistent_bitmaps,
    )


def _refuse_what_cannot_work(monitor: Monitor, stock: Inventory, task_id: str) -> None:
    if monitor.version < OLDEST_QEMU:
        raise SnapshotFailure(
            "hypervisor.too-old",
            f"{monitor.hypervisor} cannot take a snapshot that leaves the guest unharmed when "
            "scratch space runs out; 7.1 is the oldest that can.",
            evidence=[Evidence(f"version {monitor.hypervisor}", str(monitor.address))],
            remedy="Upgrade QEMU to 7.1 or newer and power-cycle the VM.",
        )
    if stock.power is PowerState.MIGRATING:
        raise VmFailure(
            "vm.migrating",
            "The VM is being moved to or from another host.",
            evidence=[Evidence("migration in progress", str(monitor.address))],
            retryable=True,
        )
    others = sorted(stock.tasks - {task_id})
    if others:
        raise SnapshotFailure(
            "snapshot.busy",
            "Another snapshot of this VM is still open.",
            evidence=[
                Evidence(f"QEMU holds task {other}", str(monitor.address)) for other in others
            ],
            retryable=True,
        )
    if not stock.attachments:
        raise VmFailure(
            "vm.no-disks",
            "The VM has no writable disk to back up.",
            evidence=[Evidence(f"{name}: {why}", "query-block") for name, why in stock.skipped],
        )
    if monitor.version < IOTHREAD_QEMU:
        for attachment in stock.attachments:
            if runs_in_iothread(monitor, attachment.device):
                raise SnapshotFailure(
                    "hypervisor.iothread-unsafe",
                    f"Reading disk {attachment.disk.name} could crash the VM: it runs in an "
                    f"iothread, and {monitor.hypervisor} fails when a reader of such a disk "
                    "disconnects.",
                    evidence=[Evidence("iothread is set", attachment.device)],
                    remedy="Remove iothread= from the disk (or its controller) and power-cycle "
                    "the VM, upgrade QEMU to 9.0 or newer, or back up while it is off.",
                )


def _start_nbd_server(monitor: Monitor, folder: TaskFolder) -> None:
    try:
        monitor.execute(
            "nbd-server-start",
            {
                "addr": {"type": "unix", "data": {"path": str(folder.nbd_socket)}},
                "max-connections": NBD_CONNECTIONS,
            },
        )
    except QmpRefused as inner:
        raise SnapshotFailure(
            "hypervisor.nbd-server-busy",
            "Another program uses this VM's only NBD server.",
            evidence=inner.evidence,
            remedy="Let the other backup or migration end; if none runs, end its server with the "
            "monitor command nbd-server-stop.",
            retryable=True,
        ) from inner


def take(monitor: Monitor, folder: TaskFolder) -> datetime:
    """The instant, in UTC. A running VM is stopped for milliseconds and goes on in any case.

    :raise SnapshotFailure: snapshot.not-prepared, snapshot.take-failed
    :raise VmFailure: vm.gone, vm.unreachable
    """
    record = _record(folder)
    if record.taken_at is not None:
        return record.taken_at
    task_id = record.task_id
    actions = [
        action
        for i, disk in enumerate(record.disks)
        for action in bitmaps.at_the_instant(
            task_id,
            i,
            disk.node,
            base=disk.base,
            generation=disk.generation,
            persistent=disk.persistent,
        )
    ]
    running = bool(monitor.execute("query-status")["running"])
    try:
        if running:
            # Said in QEMU itself before the deed: whoever finds the marker knows who stopped
            # the VM, and it cannot outlive the process it speaks of.
            monitor.execute(
                "blockdev-add",
                {"driver": "null-co", "node-name": names.stopped_marker(task_id), "size": 0},
            )
            monitor.execute("stop")
        monitor.execute("transaction", {"actions": actions})
        for i, disk in enumerate(record.disks):
            scratch.put_in_the_way(monitor, disk.device, names.node(task_id, "c", i))
        taken_at = datetime.now(UTC)
    except QmpRefused as inner:
        raise SnapshotFailure(
            "snapshot.take-failed",
            f"QEMU could not take the point: {inner.desc}",
            evidence=inner.evidence,
        ) from inner
    finally:
        if running:
            resume(monitor, task_id)
    folder.write(replace(record, taken_at=taken_at))
    return taken_at


def open_session(monitor: Monitor, folder: TaskFolder) -> SnapshotSession:
    """:raise SnapshotFailure: snapshot.not-prepared, .not-taken, .session-lost"""
    record = _record(folder)
    if record.taken_at is None:
        raise SnapshotFailure("snapshot.not-taken", "The point of this task was never taken.")
    stock = take_stock(monitor)
    if not _is_held(stock, record):
        raise SnapshotFailure(
            "snapshot.session-lost",
            "QEMU no longer holds this point: its process was restarted since.",
            evidence=[Evidence(f"no nodes of task {record.task_id}", str(monitor.address))],
        )
    for i, disk in enumerate(record.disks):
        _export(monitor, record.task_id, i, disk, stock)
    return SnapshotSession(
        record.task_id,
        record.taken_at,
        record.route,
        tuple(
            SessionDisk(
                name=disk.name,
                size_bytes=disk.size_bytes,
                nbd_socket=folder.nbd_socket,
                export=f"disk{i}",
                dirty_bitmap=names.node(record.task_id, "d", i) if disk.base else None,
                base_generation=disk.base,
                full_read_reason=disk.full_read_reason,
                generation=disk.generation,
                format=disk.format,
                allocation_exports=(f"disk{i}-live", f"disk{i}-scratch"),
                read_unit_bytes=READ_UNIT_BYTES,
            )
            for i, disk in enumerate(record.disks)
        ),
    )


def _export(
    monitor: Monitor, task_id: str, index: int, disk: RecordedDisk, stock: Inventory
) -> None:
    view = names.node(task_id, "a", index)
    if view not in stock.nodes:
        monitor.execute(
            "blockdev-add",
            {
                "driver": "snapshot-access",
                "node-name": view,
                "file": names.node(task_id, "c", index),
            },
        )
    # The exports' names are the disk's number: a disk may be called anything.
    frozen = {"node": disk.node, "name": names.node(task_id, "d", index)}
    scratch_node = names.node(task_id, "s", index)
    for kind, node, name, maps in (
        ("e", view, f"disk{index}", [frozen] if disk.base else []),
        ("m", disk.node, f"disk{index}-live", []),
        ("n", scratch_node, f"disk{index}-scratch", []),
    ):
        export = names.node(task_id, kind, index)
        if export not in stock.exports:
            monitor.execute(
                "block-export-add",
                {
                    "type": "nbd",
                    "id": export,
                    "node-name": node,
                    "name": name,
                    "writable": False,
                    "bitmaps": maps,
                },
            )


def _is_held(stock: Inventory, record: Record) -> bool:
    return all(names.node(record.task_id, "c", i) in stock.nodes for i in range(len(record.disks)))


def _record(folder: TaskFolder) -> Record:
    record = folder.read()
    if record is None:
        raise SnapshotFailure(
            "snapshot.not-prepared",
            "There is no prepared snapshot of this task.",
            evidence=[Evidence("no record", str(folder.path))],
        )
    return record
