"""Texts that make careless patterns run for hours are read at once."""

from __future__ import annotations

import pytest
from guest_papers import command, facts, paper

AZURE = "/var/log/azure/Microsoft.Azure.RecoveryServices.VMSnapshotLinux/extension.log"
STAMP = "2026-11-23T02:00:00Z WARNING Daemon "
LONG = 250_000


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        STAMP + "launched with command " * (LONG // 22),
        STAMP + "retrieving the goal state: " * (LONG // 27),
        STAMP + "[HTTP Failed] " * (LONG // 14),
        STAMP + "x\n" + "\n" * LONG,
        STAMP + "[ExtensionError] Timeout(3)\n" + STAMP + "op=Install, message=[Extension\n"
        f"{STAMP}Daemon ended with exception\n" + "] Command: " * (LONG // 11),
        "1 1 T 1 1 1 python3 " + "-x " * (LONG // 3),
        "1 1 T 1 1 1 sh " + "/Quiesce.VmBackup-1" * (LONG // 19),
        "\n" * LONG,
        " " * LONG,
        "lease {\n" * (LONG // 8),
        "1: x " * (LONG // 5),
        "1 " * (LONG // 2),
        "a:\n" * (LONG // 3),
        "://a:" * (LONG // 5),
        "[" * LONG,
        "'\"" * (LONG // 2),
        "9" * LONG,
    ],
)
def test_long_texts(text: str) -> None:
    files = ("/var/log/waagent.log", AZURE, "/etc/waagent.conf", "/proc/meminfo", "/etc/os-release")
    more = (
        "/var/lib/dhcp/x.leases",
        "/etc/resolv.conf",
        "/proc/self/mountinfo",
        "/etc/environment",
    )
    commands = ("units", "processes", "space", "inodes", "journal", "addresses", "routes", "cpu")
    shown = [paper(path, text) for path in (*files, *more, "/etc/qemu/qemu-ga.conf")]
    facts(*shown, *(command(name, text) for name in (*commands, "python", "extension", "quiesce")))
