"""Whether anybody in a guest has opened the agent's port, which only QEMU knows."""

from __future__ import annotations

import os
import re
from pathlib import Path

from quiesce.hypervisor.inventory import working_folder
from quiesce.hypervisor.qmp import Monitor

ANSWER_SECONDS = 1.0
_UNIX_SOCKET = re.compile(r"(?:disconnected:)?unix:(?P<path>.*?)(?:,server(?:=on)?)?", re.DOTALL)
"""How query-chardev writes one down (qemu_chr_socket_address in chardev/char-socket.c)."""


def port_open(monitor: Monitor, qga_socket: Path) -> bool | None:
    """`frontend-open` of the character device behind `qga_socket`, or None when QEMU has no
    such device. For a virtio-serial port it is true while a process in the guest has it open.

    :raise VmFailure: vm.unreachable, vm.gone
    :raise QmpRefused: hypervisor.command-refused
    """
    folder = working_folder(monitor.pid) or Path("/")
    wanted = os.path.realpath(qga_socket)
    for device in monitor.execute("query-chardev", seconds=ANSWER_SECONDS):
        found = _UNIX_SOCKET.fullmatch(device["filename"])
        if found and os.path.realpath(folder / found["path"]) == wanted:
            return bool(device["frontend-open"])
    return None
