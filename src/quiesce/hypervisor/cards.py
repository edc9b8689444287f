"""The network cards of a VM, as its QEMU tells.

QEMU shows them only to people (QMP's `query-rx-filter` knows virtio alone), so two texts are read:

    info qtree      dev: e1000, id "net0"
                      mac = "52:54:00:12:34:56"
                      netdev = "n0"
    info network    n0: index=0,type=tap,ifname=tap0,script=no,downscript=no
                     \\ n1: index=0,type=tap,fd=33

The hardware address is the configured one, of the device's property. What `info network` says of
it is not used: the guest can change that to whatever it likes, another VM's address included.
A tap that QEMU was handed as an open file (libvirt, qemu-bridge-helper) is named by the kernel, in
/proc/<pid>/fdinfo (the field `iff` of drivers/net/tun.c).
"""

from __future__ import annotations

import re
from pathlib import Path

from quiesce.hypervisor.qmp import Monitor
from quiesce.model.vm import NetworkCard

ANSWER_SECONDS = 2.0

_MAC = re.compile(r'\s*mac = "([0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5})"\s*')
_NETDEV = re.compile(r'\s*netdev = "([^"]*)"\s*')
_OTHER_DEVICE = re.compile(r"\s*(?:dev|bus): ")
_TAP = re.compile(r"(?: \\ )?(?P<name>[^:\s]+): index=\d+,type=tap,(?P<how>.*)")
_IFNAME = re.compile(r"(?:^|,)ifname=([^,\s]+)")
_FD = re.compile(r"(?:^|,)fd=(\d+)")
_IFF = re.compile(r"^iff:\s*(\S+)\s*$", re.MULTILINE)


def cards(monitor: Monitor, *, process: Path | None = None) -> tuple[NetworkCard, ...]:
    """In QEMU's order. `process` is the VM's folder in /proc.

    :raise QmpRefused: hypervisor.command-refused
    :raise VmFailure: vm.unreachable, vm.gone
    """
    devices = configured(_ask(monitor, "info qtree"))
    taps = interfaces(
        _ask(monitor, "info network"), open_taps(process or Path("/proc", str(monitor.pid)))
    )
    return tuple(NetworkCard(address, taps.get(netdev, "")) for address, netdev in devices)


def configured(qtree: str) -> list[tuple[str, str]]:
    """(hardware address in lower case, QEMU's name of what is behind it) of each card. The name
    is empty for a card that is connected to nothing."""
    found: list[tuple[str, str]] = []
    address = ""
    for line in qtree.splitlines():
        if _OTHER_DEVICE.match(line):
            address = ""
        elif mac := _MAC.fullmatch(line):
            address = mac[1].lower()
        elif address and (netdev := _NETDEV.fullmatch(line)):
            found.append((address, netdev[1]))
            address = ""
    return found


def interfaces(network: str, taps: dict[int, str]) -> dict[str, str]:
    """The host's interface by QEMU's name of it. `taps`: what QEMU has open, by number."""
    named: dict[str, str] = {}
    unnamed: list[str] = []
    for line in network.splitlines():
        tap = _TAP.fullmatch(line)
        if tap is None:
            continue
        if ifname := _IFNAME.search(tap["how"]):
            named[tap["name"]] = ifname[1]
        elif (fd := _FD.search(tap["how"])) and int(fd[1]) in taps:
            named[tap["name"]] = taps[int(fd[1])]
        elif tap["name"] not in named:
            unnamed.append(tap["name"])
    # What qemu-bridge-helper opened has no number in the text. One that is left over is it.
    left_over = set(taps.values()) - set(named.values())
    if len(set(unnamed)) == 1 and len(left_over) == 1:
        named[unnamed[0]] = left_over.pop()
    return named


def open_taps(process: Path) -> dict[int, str]:
    """The taps that a process has open, by file descriptor; none when we may not look."""
    found: dict[int, str] = {}
    try:
        for entry in (process / "fdinfo").iterdir():
            if iff := _IFF.search(entry.read_text(errors="replace")):
                found[int(entry.name)] = iff[1]
    except OSError:
        pass  # the process ended, or is somebody else's: its cards have no known interface then
    return found


def _ask(monitor: Monitor, line: str) -> str:
    answer = monitor.execute(
        "human-monitor-command", {"command-line": line}, seconds=ANSWER_SECONDS
    )
    return answer if isinstance(answer, str) else ""
