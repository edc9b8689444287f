"""What a running QEMU has: power state, writable disks, bitmaps, and everything of ours."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quiesce.hypervisor import names
from quiesce.hypervisor.qmp import Monitor, QmpRefused
from quiesce.model.vm import Disk, PowerState, VmState

# QEMU's RunState (qapi/run-state.json). Whatever is not named here has a process and does not
# run: paused, prelaunch, suspended, debug, watchdog, io-error, save-vm, restore-vm, colo.
_POWER = {
    "running": PowerState.RUNNING,
    "inmigrate": PowerState.MIGRATING,
    "finish-migrate": PowerState.MIGRATING,
    "postmigrate": PowerState.MIGRATING,
    "shutdown": PowerState.SHUT_DOWN,
    "internal-error": PowerState.CRASHED,
    "guest-panicked": PowerState.CRASHED,
}

# MigrationStatus (qapi/migration.json) while this VM is on its way to another host.
_MIGRATING = {
    "setup",
    "active",
    "pre-switchover",
    "device",
    "postcopy-active",
    "postcopy-paused",
    "postcopy-recover",
    "cancelling",
    "wait-unplug",
}


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A dirty bitmap as QEMU lists it. `recording` is false for a disabled one."""

    name: str
    persistent: bool
    recording: bool
    busy: bool
    inconsistent: bool


@dataclass(frozen=True, slots=True)
class Attachment:
    """A writable disk and where it is plugged in. `device` is the QOM path whose property
    `drive` names the node that the guest writes to; `disk.node` is the disk's own node even
    while a copy-before-write filter of ours sits in between; `filter_node` is that filter."""

    disk: Disk
    device: str
    bitmaps: tuple[Bitmap, ...]
    filter_node: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """One look at a VM. `nodes` are all block nodes by name; `skipped` says why a drive is not a
    disk to back up."""

    hypervisor: str
    power: PowerState
    attachments: tuple[Attachment, ...]
    nodes: frozenset[str]
    exports: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def state(self) -> VmState:
        return VmState(self.power, tuple(a.disk for a in self.attachments), self.hypervisor)

    @property
    def tasks(self) -> frozenset[str]:
        """Tasks of which QEMU holds anything but a generation."""
        ours: set[str] = set()
        session_bitmaps = (b.name for a in self.attachments for b in a.bitmaps)
        for name in (*self.nodes, *self.exports, *session_bitmaps):
            task = names.owner(name)
            if task is not None:
                ours.add(task)
        return frozenset(ours)


def take_stock(monitor: Monitor) -> Inventory:
    """:raise VmFailure: vm.unreachable, vm.gone"""
    nodes = {
        node["node-name"]: node
        for node in monitor.execute("query-named-block-nodes", {"flat": True})
    }
    children = _file_children(monitor) if any(map(names.owner, nodes)) else {}
    folder = working_folder(monitor.pid)
    found: list[Attachment] = []
    skipped: list[tuple[str, str]] = []
    for drive in monitor.execute("query-block"):
        name = _name(drive)
        reason = _why_skipped(drive)
        if reason:
            skipped.append((name, reason))
            continue
        top = drive["inserted"]["node-name"]
        ours = names.owner(top) is not None
        node = nodes[children[top] if ours else top]
        found.append(
            Attachment(
                _disk(name, node, folder),
                _device(drive["qdev"]),
                _bitmaps(node),
                filter_node=top if ours else "",
            )
        )
    return Inventory(
        monitor.hypervisor,
        power_state(monitor),
        tuple(_distinct(found)),
        frozenset(nodes),
        tuple(export["id"] for export in monitor.execute("query-block-exports")),
        tuple(skipped),
    )


def node_names(monitor: Monitor) -> frozenset[str]:
    return frozenset(
        node["node-name"] for node in monitor.execute("query-named-block-nodes", {"flat": True})
    )


def power_state(monitor: Monitor) -> PowerState:
    power = _POWER.get(monitor.execute("query-status")["status"], PowerState.PAUSED)
    if monitor.execute("query-migrate").get("status") in _MIGRATING:
        return PowerState.MIGRATING
    return power


def runs_in_iothread(monitor: Monitor, device: str) -> bool:
    """Whether the disk's requests are served outside QEMU's main loop."""
    if not monitor.execute("query-iothreads"):
        return False
    places = [device]
    bus = _property(monitor, device, "parent_bus")
    if bus:
        places.append(bus.rsplit("/", 1)[0])  # a SCSI disk runs in its controller's thread
    return any(_property(monitor, place, "iothread") for place in places)


def _property(monitor: Monitor, path: str, name: str) -> str:
    try:
        return str(monitor.execute("qom-get", {"path": path, "property": name}) or "")
    except QmpRefused:  # this kind of device has no such property
        return ""


def _why_skipped(drive: dict[str, Any]) -> str:
    if not drive.get("qdev"):
        return "not attached to a device (firmware flash, or a drive without a disk)"
    if drive.get("removable"):
        return "removable medium"
    if "inserted" not in drive:
        return "empty"
    if drive["inserted"].get("ro"):
        return "read-only"
    return ""


def _name(drive: dict[str, Any]) -> str:
    """The device's id, else the drive's id, else the node's name: what the person who wrote the
    command line called it, and what therefore stays the same across reboots."""
    qdev = str(drive.get("qdev", ""))
    parts = [part for part in qdev.split("/") if part]
    if parts[:2] == ["machine", "peripheral"]:
        return parts[2]
    if qdev and not qdev.startswith("/"):
        return qdev
    node = drive.get("inserted", {}).get("node-name", "")
    if drive.get("device"):
        return str(drive["device"])
    if node and not node.startswith("#") and names.owner(node) is None:
        return str(node)
    return parts[-2] if parts[-1:] == ["virtio-backend"] else (parts or [""])[-1]


def _device(qdev: str) -> str:
    return qdev if qdev.startswith("/") else f"/machine/peripheral/{qdev}"


def _disk(name: str, node: dict[str, Any], folder: Path | None) -> Disk:
    image = node["image"]
    driver = str(node["drv"])
    note = ""
    if driver != "qcow2":
        note = (
            f"disk.unsupported: a {driver} disk stores no bitmaps, so the first backup after each "
            "power-on reads it in full. `qemu-img convert -O qcow2` makes a disk that does."
        )
    elif image.get("format-specific", {}).get("data", {}).get("compat") == "0.10":
        note = (
            "disk.unsupported: a qcow2 version 2 image stores no bitmaps, so the first backup "
            "after each power-on reads it in full. `qemu-img amend -o compat=1.1` mends it "
            "while the VM is off."
        )
    return Disk(
        name=name,
        size_bytes=int(image["virtual-size"]),
        path=_path(str(node.get("file", "")), folder),
        format=driver,
        node=str(node["node-name"]),
        # QEMU lists the newest first.
        bitmaps=tuple(
            b.name
            for b in reversed(_bitmaps(node))
            if b.name.startswith(names.GENERATION_PREFIX) and not b.inconsistent
        ),
        persistent_bitmaps=not note,
        note=note,
    )


def _bitmaps(node: dict[str, Any]) -> tuple[Bitmap, ...]:
    # Bitmaps that QEMU makes for its own jobs have no name.
    return tuple(
        Bitmap(
            name=str(bitmap["name"]),
            persistent=bool(bitmap.get("persistent")),
            recording=bool(bitmap.get("recording")),
            busy=bool(bitmap.get("busy")),
            inconsistent=bool(bitmap.get("inconsistent")),
        )
        for bitmap in node.get("dirty-bitmaps", ())
        if bitmap.get("name")
    )


def _path(filename: str, folder: Path | None) -> Path | None:
    """The image's file, if it is one; QEMU repeats a relative path as it was given."""
    if not filename or filename.startswith("json:") or "://" in filename:
        return None
    if filename.startswith("/"):
        return Path(filename)
    return folder / filename if folder is not None else None


def working_folder(pid: int) -> Path | None:
    """What relative paths of that process start from; None when it may not be known."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:  # another user's process, or a QEMU in another PID name space
        return None


def _file_children(monitor: Monitor) -> dict[str, str]:
    """Node name → the node its `file` edge leads to. The one place where QEMU tells what lies
    under a filter; a debug command by name, and there unchanged since QEMU 4.0."""
    graph = monitor.execute("x-debug-query-block-graph")
    by_id = {node["id"]: node["name"] for node in graph["nodes"]}
    return {
        by_id[edge["parent"]]: by_id[edge["child"]]
        for edge in graph["edges"]
        if edge["name"] == "file"
    }


def _distinct(attachments: Iterable[Attachment]) -> Iterable[Attachment]:
    """Names are what a restore asks for, so two disks of one name get numbers."""
    used: dict[str, int] = {}
    for attachment in attachments:
        name = attachment.disk.name
        used[name] = used.get(name, 0) + 1
        if used[name] == 1:
            yield attachment
            continue
        renamed = replace(attachment.disk, name=f"{name}-{used[name]}")
        yield replace(attachment, disk=renamed)
