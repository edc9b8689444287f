"""Backing a VM up while no process runs it: its image files, read through qemu-nbd.

qemu-nbd opens each image read-only with QEMU's own image locks held, so while a session is open
the VM cannot start writing, and an image that something else writes to cannot be opened. The
instant of the point is when the last image is locked. Bitmaps in the images are left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quiesce.hypervisor.scratch import run_tool
from quiesce.hypervisor.taskfolder import Record, RecordedDisk, TaskFolder
from quiesce.model.failure import Evidence, SnapshotFailure, VmFailure
from quiesce.model.snapshot import Route, SessionDisk, SnapshotSession
from quiesce.model.vm import Disk, PowerState, VmAddress, VmState

SHARED_READERS = 8
FULL_READ_REASON = "offline: the VM is powered off, and its bitmaps cannot be read then"
_END_SECONDS = 5.0


def state(address: VmAddress) -> VmState:
    """The VM's disks as the image files show them.

    :raise VmFailure: vm.not-found, vm.unreachable (an image is held by a running process)
    """
    missing = [path for _, path in address.disks if not path.exists()]
    if missing or not address.disks:
        raise VmFailure(
            "vm.not-found",
            f"No process runs {address.name}, and its disks cannot be found.",
            evidence=[
                Evidence("nobody listens", str(address.qmp_socket)),
                *(Evidence("no such image", str(path)) for path in missing),
            ],
            remedy="Start the VM, or tell Quiesce where its disk images lie.",
        )
    formats = dict(address.formats)
    disks = tuple(_disk(name, path, formats.get(name)) for name, path in address.disks)
    return VmState(PowerState.OFF, disks, "QEMU (off)")


def prepare(address: VmAddress, task_id: str, folder: TaskFolder) -> None:
    """:raise VmFailure, SnapshotFailure, StorageFailure: nothing is left behind then"""
    disks = tuple(
        RecordedDisk(
            name=disk.name,
            size_bytes=disk.size_bytes,
            format=disk.format,
            path=str(disk.path),
            full_read_reason=FULL_READ_REASON,
        )
        for disk in state(address).disks
    )
    folder.create()
    folder.write(Record(address.name, task_id, Route.OFFLINE, disks))


def take(record: Record, folder: TaskFolder) -> datetime:
    """Lock every image and serve it. Repeating it returns the instant of the first time.

    :raise VmFailure: vm.unreachable when an image is in use by now
    :raise SnapshotFailure: hypervisor.tool-missing, hypervisor.tool-failed
    """
    if record.taken_at is not None:
        return record.taken_at
    stop_servers(folder)  # of an earlier try that ended half-way
    for i, disk in enumerate(record.disks):
        _serve(i, disk, folder)
    taken_at = datetime.now(UTC)
    folder.write(replace(record, taken_at=taken_at))
    return taken_at


def open_session(record: Record, folder: TaskFolder) -> SnapshotSession:
    """:raise SnapshotFailure: snapshot.not-taken, snapshot.session-lost"""
    if record.taken_at is None:
        raise SnapshotFailure("snapshot.not-taken", "The point of this task was never taken.")
    for i, disk in enumerate(record.disks):
        if _server_pid(folder, i) is None:
            raise SnapshotFailure(
                "snapshot.session-lost",
                f"The process that served {disk.name} has ended, and its image was free since.",
                evidence=[Evidence("qemu-nbd is gone", str(folder.disk_pid_file(i)))],
            )
    return SnapshotSession(
        record.task_id,
        record.taken_at,
        record.route,
        tuple(
            SessionDisk(
                name=disk.name,
                size_bytes=disk.size_bytes,
                nbd_socket=folder.disk_socket(i),
                export=f"disk{i}",
                full_read_reason=disk.full_read_reason,
                format=disk.format,
            )
            for i, disk in enumerate(record.disks)
        ),
    )


def stop_servers(folder: TaskFolder) -> None:
    """End this task's qemu-nbd processes. Idempotent.

    :raise SnapshotFailure: snapshot.release-failed
    """
    for pid_file in sorted(folder.path.glob("nbd*.pid")):
        index = int(pid_file.stem.removeprefix("nbd"))
        pid = _server_pid(folder, index)
        if pid is not None:
            # It only reads, so nothing is lost; a SIGTERM that meets it while it is starting is.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _wait_for_end(folder, index)
        pid_file.unlink(missing_ok=True)
        folder.disk_socket(index).unlink(missing_ok=True)


def _serve(index: int, disk: RecordedDisk, folder: TaskFolder) -> None:
    try:
        run_tool(
            "qemu-nbd",
            "--read-only",
            "--persistent",
            "--fork",
            f"--shared={SHARED_READERS}",
            f"--format={disk.format}",
            f"--socket={folder.disk_socket(index)}",
            f"--pid-file={folder.disk_pid_file(index)}",
            f"--export-name=disk{index}",
            disk.path,
        )
    except SnapshotFailure as inner:
        _refuse_locked(inner, disk.path)
        raise


def _server_pid(folder: TaskFolder, index: int) -> int | None:
    """The pid of the qemu-nbd that serves this disk. Proven by its command line, since a pid may
    by now be somebody else's."""
    try:
        pid = int(folder.disk_pid_file(index).read_text())
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(f"--socket={folder.disk_socket(index)}") in arguments else None


def _wait_for_end(folder: TaskFolder, index: int) -> None:
    deadline = time.monotonic() + _END_SECONDS
    while (pid := _server_pid(folder, index)) is not None:
        if time.monotonic() > deadline:
            raise SnapshotFailure(
                "snapshot.release-failed",
                "A qemu-nbd process of the offline snapshot does not end.",
                evidence=[Evidence(f"pid {pid} is still there", str(folder.disk_pid_file(index)))],
                retryable=True,
            )
        time.sleep(0.01)


def _disk(name: str, path: Path, known_format: str | None) -> Disk:
    image = _image_info(path, known_format)
    return Disk(
        name=name,
        size_bytes=int(image["virtual-size"]),
        path=path,
        format=str(image["format"]),
        persistent_bitmaps=False,
        note="powered off: read in full",
    )


def _image_info(path: Path, known_format: str | None) -> dict[str, Any]:
    """Never probed when the format is known: a raw disk's first bytes are the guest's, who could
    make them a qcow2 header that names a file of the host as its backing file."""
    known = ["-f", known_format] if known_format else []
    try:
        printed = run_tool("qemu-img", "info", "--output=json", *known, os.fspath(path))
    except SnapshotFailure as inner:
        _refuse_locked(inner, str(path))
        raise
    info: dict[str, Any] = json.loads(printed)
    if not known_format:
        _refuse_borrowed(info, path)
    return info


def _refuse_borrowed(info: dict[str, Any], path: Path) -> None:
    """:raise VmFailure: vm.format-unknown, if the first bytes, which may be the guest's, name
    another file of the host"""
    details = info.get("format-specific", {}).get("data", {})
    extents = [extent.get("filename") for extent in details.get("extents", ())]  # of VMDK
    named = (info.get("backing-filename"), details.get("data-file"), *extents)
    others = [str(other) for other in named if other not in (None, os.fspath(path))]
    if others:
        raise VmFailure(
            "vm.format-unknown",
            f"It is not known whether {path.name} is raw, and what it holds names other files "
            "of this host: the guest could have written that.",
            evidence=[Evidence(f"probed as {info['format']}", str(path), raw=", ".join(others))],
            remedy="Start the VM once under Quiesce's eyes, so that its disk formats are learned.",
        )


def _refuse_locked(inner: SnapshotFailure, path: str) -> None:
    """:raise VmFailure: vm.unreachable, if the tool failed because the image is locked"""
    words = _words(inner.evidence)
    if "lock" in words and "another process" in words:
        raise VmFailure(
            "vm.unreachable",
            "The VM's monitor is gone, yet a running process holds its disk image.",
            evidence=inner.evidence,
            remedy=f"`fuser -v {path}` shows the process. If it is the VM, give Quiesce the "
            "monitor socket that it was started with.",
            retryable=True,
        ) from inner


def _words(evidence: Sequence[Evidence]) -> str:
    return " ".join(fact.raw for fact in evidence)
