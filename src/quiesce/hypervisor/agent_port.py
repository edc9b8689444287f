"""Whether a VM has the guest agent's port and anybody in the guest has opened it, which only QEMU
knows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quiesce.hypervisor.inventory import working_folder
from quiesce.hypervisor.qmp import Monitor, QmpRefused
from quiesce.model.survey import PortState

ANSWER_SECONDS = 1.0
_UNIX_SOCKET = re.compile(r"(?:disconnected:)?unix:(?P<path>.*?)(?:,server(?:=on)?)?", re.DOTALL)
"""How query-chardev writes one down (qemu_chr_socket_address in chardev/char-socket.c)."""
_USUAL_NAME = "org.qemu.guest_agent.0"
"""The port that qemu-ga opens unless it is told another (QEMU, docs/interop/qemu-ga.rst)."""
_DEVICES = ("/machine/peripheral", "/machine/peripheral-anon")
_SERIAL_PORT = re.compile(r"child<(?:virtserialport|virtconsole|isa-serial|pci-serial)>")


def port_open(monitor: Monitor, qga_socket: Path) -> bool | None:
    """`frontend-open` of the character device behind `qga_socket`, or None when QEMU has no
    such device. For a virtio-serial port it is true while a process in the guest has it open.

    :raise VmFailure: vm.unreachable, vm.gone
    :raise QmpRefused: hypervisor.command-refused
    """
    device = _character_device(monitor, qga_socket)
    return None if device is None else bool(device["frontend-open"])


def port_state(monitor: Monitor, qga_socket: Path) -> PortState:
    """Raises as `port_open` does."""
    opened = port_open(monitor, qga_socket)
    if opened is None:
        return PortState.MISSING
    return PortState.OPEN if opened else PortState.CLOSED


def has_device(monitor: Monitor, qga_socket: Path | None) -> bool:
    """Whether the VM has a serial port that bears the agent's name or ends at `qga_socket`.
    Raises as `port_open` does."""
    behind = _character_device(monitor, qga_socket) if qga_socket is not None else None
    label = behind["label"] if behind is not None else None
    return any(
        _property(monitor, path, "name") == _USUAL_NAME
        or (label is not None and _property(monitor, path, "chardev") == label)
        for path in _serial_ports(monitor)
    )


def _character_device(monitor: Monitor, qga_socket: Path) -> dict[str, Any] | None:
    folder = working_folder(monitor.pid) or Path("/")
    wanted = os.path.realpath(qga_socket)
    device: dict[str, Any]
    for device in monitor.execute("query-chardev", seconds=ANSWER_SECONDS):
        found = _UNIX_SOCKET.fullmatch(device["filename"])
        if found and os.path.realpath(folder / found["path"]) == wanted:
            return device
    return None


def _serial_ports(monitor: Monitor) -> Iterator[str]:
    for folder in _DEVICES:
        for entry in monitor.execute("qom-list", {"path": folder}, seconds=ANSWER_SECONDS):
            if _SERIAL_PORT.fullmatch(entry["type"]):
                yield f"{folder}/{entry['name']}"


def _property(monitor: Monitor, path: str, name: str) -> str | None:
    try:
        value = monitor.execute("qom-get", {"path": path, "property": name}, seconds=ANSWER_SECONDS)
    except QmpRefused:  # this kind of port has no such property
        return None
    return value if isinstance(value, str) else None
