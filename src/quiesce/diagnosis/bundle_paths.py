"""Which files of a log bundle are read, and where in a guest they belong.

Bundles come with any folder before the guest's own paths (a host's name, `device_0`, `./`), or with
the bare files in a heap. A file that no reader knows is never opened.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from quiesce.diagnosis import bundle_index
from quiesce.model.papers import COMMAND

UNKNOWN_HANDLER = "unknown"
"""Stands for the extension's name where a bundle does not tell it."""

_LONGEST_NAME, _MOST_PARTS = 4096, 60
_TOPS = ("etc", "var", "proc", "run", "usr", "opt")
_HANDLER = r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)+"
_WANTED = tuple(
    re.compile(pattern)
    for pattern in (
        r"/var/log/waagent\.log(?:\.1)?",
        rf"/var/log/azure/(?:{_HANDLER}|{UNKNOWN_HANDLER})/(?:[^/]+/)?[^/]+\.log",
        r"/var/log/quiesce/[^/]+\.log(?:\.1)?",
        rf"/var/lib/waagent/{_HANDLER}-[0-9.]+/status/\d+\.status",
        rf"/var/lib/waagent/{_HANDLER}-[0-9.]+/config/Handler(?:State|Status)",
        rf"/var/lib/waagent/{UNKNOWN_HANDLER}/status/\d+\.status",
        r"/(?:etc|usr/lib)/os-release",
        r"/etc/(?:waagent\.conf|environment|resolv\.conf|qemu/qemu-ga\.conf)",
        r"/etc/(?:default/qemu-guest-agent|sysconfig/qemu-ga)",
        r"/etc/(?:quiesce|azure)/[^/]+\.(?:conf|json)",
        r"/etc/systemd/system(?:\.conf\.d|/(?:walinuxagent|waagent)\.service\.d)/[^/]+\.conf",
        r"/proc/(?:loadavg|meminfo|uptime|stat|mounts|self/mountinfo|pressure/(?:cpu|memory|io))",
        r"/var/lib/(?:dhcp|dhclient|dhcpcd)/[^/]+\.leases?",
        r"/var/lib/NetworkManager/[^/]+\.lease",
        r"/run/(?:systemd/netif/leases|NetworkManager/devices)/[^/]+",
        r"/run/quiesce/[^/]+/state\.json",
    )
)
_ALONE = (
    (re.compile(r"waagent(?:[-_.].*)?\.(?:log|txt)"), "/var/log/waagent.log"),
    (re.compile(r"waagent\.log\.1"), "/var/log/waagent.log.1"),
    (re.compile(r"waagent\.conf"), "/etc/waagent.conf"),
    (re.compile(r"os-release"), "/etc/os-release"),
    (re.compile(r"index\.json"), bundle_index.PATH),
    (re.compile(r"resolv\.conf"), "/etc/resolv.conf"),
    (re.compile(r"mountinfo"), "/proc/self/mountinfo"),
    (re.compile(r"meminfo"), "/proc/meminfo"),
    (re.compile(r"loadavg"), "/proc/loadavg"),
)
_COMMAND = re.compile(r"(?:command:|commands?/)([a-z]+(?:-[a-z]+)*)(?:\.txt|\.log|\.out)?")
_ANY_HANDLER = re.compile(rf"({_HANDLER})(-\d[0-9.]*)?")
_VERSION = re.compile(r"\d+(?:\.\d+)+")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member belongs: `path` in the guest, `machine` what stood before that in the bundle:
    two of them are two machines."""

    machine: str
    path: str


def place_of(name: str) -> Place | None:
    """None for what no reader knows. `name` has been seen to lead nowhere out (`leads_out`)."""
    if len(name) > _LONGEST_NAME:
        return None
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if len(parts) > _MOST_PARTS:
        return None
    for index, part in enumerate(parts):
        if part in _TOPS:
            path = "/" + "/".join(parts[index:])
            if any(wanted.fullmatch(path) for wanted in _WANTED):
                return Place("/".join(parts[:index]), path)
    if not parts:
        return None
    folder, last = "/".join(parts[:-1]), parts[-1]
    if command := _COMMAND.fullmatch("/".join(parts[-2:])) or _COMMAND.fullmatch(last):
        return Place("/".join(parts[:-2]), COMMAND + command[1])
    if handler := _of_handler(parts):
        return handler
    for pattern, path in _ALONE:
        if pattern.fullmatch(last):
            return Place(folder, path)
    return None


def leads_out(name: str) -> bool:
    """Whether a name leads up and out. A mere slash in front does not count: honest bundles are
    packed so too, and nothing is written anywhere."""
    return ".." in name.replace("\\", "/").split("/")


def keep_bytes(path: str) -> int:
    """How much of a file's end is read: as much as the collector takes."""
    long = path.startswith("/var/log/waagent.log") or path == bundle_index.PATH
    return 256 * 1024 if long else 64 * 1024


def _of_handler(parts: list[str]) -> Place | None:
    """Files of an extension's folders that were copied without the path above them."""
    last = parts[-1]
    for index, part in enumerate(parts[:-1]):
        found = _ANY_HANDLER.fullmatch(part)
        if found is None or _VERSION.fullmatch(part):
            continue
        machine, inner = "/".join(parts[:index]), "/".join(parts[index + 1 :])
        for path in (
            f"/var/log/azure/{found[1]}/{inner}",
            f"/var/lib/waagent/{part}/{inner}",
            f"/var/lib/waagent/{found[1]}{found[2] or '-0'}/{inner}",
        ):
            if any(wanted.fullmatch(path) for wanted in _WANTED):
                return Place(machine, path)
    folder = "/".join(parts[:-1])
    if re.fullmatch(r"\d+\.status", last):
        return Place(folder, f"/var/lib/waagent/{UNKNOWN_HANDLER}/status/{last}")
    if re.fullmatch(r"extension\.log|CommandExecution\.log|.*shell\.log", last):
        return Place(folder, f"/var/log/azure/{UNKNOWN_HANDLER}/{last}")
    return None
