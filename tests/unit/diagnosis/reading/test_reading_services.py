"""Units and processes: is it installed, does it run?"""

from __future__ import annotations

import pytest
from guest_papers import (
    PROCESSES,
    UNITS_OF_DEBIAN,
    UNITS_OF_SUSE,
    command,
    facts,
    paper,
    value,
)

NOTHING = (
    "Id=walinuxagent.service\nLoadState=not-found\n\nId=waagent.service\nLoadState=not-found\n"
)


def test_agents_of_a_good_guest_are_installed_and_run() -> None:
    found = facts(command("units", UNITS_OF_DEBIAN), command("processes", PROCESSES))
    for agent in ("waagent", "qga"):
        assert found[f"{agent}.unit"].value == "active"
        assert found[f"{agent}.process"].value == "running"
        assert found[f"{agent}.installed"].value is True
    assert "walinuxagent" in found["waagent.unit"].words
    assert "/usr/sbin/waagent -daemon" in found["waagent.process"].raw


def test_the_unit_is_the_one_that_the_distribution_has() -> None:
    found = facts(command("units", UNITS_OF_SUSE))
    assert found["waagent.unit"].value == "failed"
    assert "service waagent is failed" in found["waagent.unit"].words
    assert "Result=exit-code" in found["waagent.unit"].raw


@pytest.mark.parametrize(
    ("properties", "state"),
    [
        ("LoadState=masked\nActiveState=inactive", "masked"),
        ("LoadState=loaded\nActiveState=inactive\nUnitFileState=enabled", "inactive"),
        ("LoadState=loaded\nActiveState=inactive\nUnitFileState=disabled", "disabled"),
        ("LoadState=loaded\nActiveState=activating\nSubState=auto-restart", "activating"),
        ("LoadState=loaded\nActiveState=reloading", "active"),
        ("LoadState=not-found\nActiveState=inactive", "absent"),
    ],
)
def test_states_of_a_unit(properties: str, state: str) -> None:
    unit = f"Id=qemu-guest-agent.service\n{properties}\n"
    assert value("qga.unit", command("units", unit)) == state


@pytest.mark.parametrize(
    ("letter", "state"), [("T", "stopped"), ("t", "stopped"), ("D", "blocked")]
)
def test_a_process_that_does_not_go_on(letter: str, state: str) -> None:
    listing = PROCESSES.replace("460       1 Ssl", f"460       1 {letter}sl")
    found = facts(command("processes", listing))
    assert found["qga.process"].value == state
    assert "/usr/sbin/qemu-ga" in found["qga.process"].raw
    assert found["waagent.process"].value == "running"


def test_one_process_of_two_that_waits_for_a_disk_at_this_moment_is_no_news() -> None:
    listing = PROCESSES.replace("412       1 Ss ", "412       1 Ds ")
    assert value("waagent.process", command("processes", listing)) == "running"


def test_a_dead_process_that_nobody_has_reaped_does_not_run() -> None:
    listing = PROCESSES.replace("460       1 Ssl", "460       1 Zsl")
    assert value("qga.process", command("processes", listing)) == "absent"


def test_a_listing_whose_beginning_is_lost_proves_no_absence() -> None:
    tail = "      7       1 Ss      4000  0.1 12000 /bin/x\n" * 2000
    assert value("qga.process", command("processes", tail)) is None


def test_an_agent_without_service_and_process_is_not_installed() -> None:
    listing = (
        "    PID    PPID STAT ELAPSED %CPU   RSS COMMAND\n      1 0 Ss 4000 0.1 12 /sbin/init\n"
    )
    shown = (command("units", NOTHING), command("processes", listing))
    assert value("waagent.installed", *shown) is False
    # Packages leave their configuration when they are removed.
    assert value("waagent.installed", *shown, paper("/etc/waagent.conf", "x=y\n")) is False
    assert value("waagent.installed", command("units", NOTHING)) is None


NO_SYSTEMD = command("units", "timeout: failed to run command 'systemctl': No such file", 127)
ALPINE = "PID PPID STAT ELAPSED %CPU RSS COMMAND\n1 0 S 9 0.0 9 /sbin/init\n7 1 S 9 0.0 9 {}\n"


def test_the_script_of_a_package_that_was_removed_is_no_agent() -> None:
    units = UNITS_OF_DEBIAN.replace("UnitFileState=enabled", "UnitFileState=generated")
    units = units.replace("ActiveState=active", "ActiveState=inactive")
    listing = (
        "  PID  PPID STAT ELAPSED %CPU   RSS COMMAND\n    1     0 Ss 100  0.0  9000 /sbin/init\n"
    )
    papers = (command("units", units), command("processes", listing))
    removed = facts(*papers, command("programs", "/etc/init.d/walinuxagent\n"))
    assert removed["waagent.unit"].value == "absent"
    assert removed["waagent.installed"].value is False
    there = facts(*papers, command("programs", "/etc/init.d/walinuxagent\n/usr/sbin/waagent\n"))
    assert there["waagent.installed"].value is True
    assert there["waagent.unit"].value == "inactive"
    assert facts(*papers)["waagent.installed"].value is True


@pytest.mark.parametrize(
    ("state", "process"), [("S", "absent"), ("D", "blocked"), ("T", "stopped")]
)
def test_a_session_that_has_outlived_its_extension_is_not_the_extension(
    state: str, process: str
) -> None:
    python = "/usr/bin/python3 -I -B /var/lib/waagent/Quiesce.VmBackup-0.2.0.1"
    session = f" 1937     1 {state} 49  0.3 14256 {python} session --task 4e19 --hold=10\n"
    driver = f" 1930     1 S 49  0.3 14256 {python} enable\n"
    head = "  PID  PPID STAT ELAPSED %CPU   RSS COMMAND\n"
    assert value("extension.process", command("processes", head + session)) == process
    if state == "S":
        both = command("processes", head + driver + session)
        assert value("extension.process", both) == "running"


def test_without_systemd_processes_and_programs_tell() -> None:
    listing = command("processes", ALPINE.format("/usr/bin/qemu-ga -d"))
    programs = command("programs", "/usr/bin/qemu-ga\n/etc/init.d/qemu-guest-agent\n")
    found = facts(NO_SYSTEMD, listing, programs)
    assert found["qga.installed"].value is True
    assert found["qga.process"].value == "running"
    assert found["waagent.installed"].value is False
    assert found["waagent.unit"].value == "absent"


def test_without_systemd_an_agent_that_is_stopped_is_still_installed() -> None:
    listing = command("processes", ALPINE.format("/bin/login"))
    shown = (NO_SYSTEMD, listing, command("programs", "/usr/sbin/waagent\n"))
    assert value("waagent.installed", *shown) is True
    assert value("waagent.process", *shown) == "absent"
    assert value("waagent.installed", NO_SYSTEMD, paper("/etc/waagent.conf", "a=b\n")) is True
    assert value("waagent.installed", NO_SYSTEMD, listing) is None


def test_a_service_manager_that_does_not_answer_is_no_system_without_one() -> None:
    for said, status in (("", 137), ("Failed to connect to bus: Permission denied", 1)):
        assert value("waagent.unit", command("units", said, status)) is None


@pytest.mark.parametrize(
    ("line", "ours"),
    [
        ("python3 -I /var/lib/waagent/Quiesce.VmBackup-0.2.0.1 handler enable", True),
        ("/usr/libexec/platform-python -I /var/lib/quiesce/quiesce-extension-1+2.zip hold", True),
        ("/bin/sh -c /var/lib/waagent/Quiesce.VmBackup-0.2.0.1/handler.sh enable", True),
        ("/bin/sh /var/lib/waagent/Quiesce.VmBackup-0.2.0.1/handler.sh enable", True),
        ("less /var/lib/waagent/Quiesce.VmBackup-0.2.0.1/status/1.status", False),
        ("vim /var/lib/waagent/Quiesce.VmBackup-0.2.0.1/handler.sh", False),
        ("tail -f /var/lib/quiesce/x.log", False),
        ("python3 /home/me/watch.py --folder=/var/lib/quiesce/", False),
    ],
)
def test_the_extension_runs_where_something_runs_its_files(line: str, ours: bool) -> None:
    listing = ALPINE.format("x").replace("7 1 S 9 0.0 9 x", f"7 1 T 9 0.0 9 {line}")
    state = "stopped" if ours else "absent"
    assert value("extension.process", command("processes", listing)) == state


JOURNAL = """\
2026-11-23T02:21:01+0000 web systemd[1]: Started walinuxagent.service - Azure Linux Agent.
2026-11-23T02:21:05+0000 web systemd[1]: walinuxagent.service: Main process exited, code=killed
2026-11-23T02:21:05+0000 web systemd[1]: walinuxagent.service: Failed with result 'signal'.
2026-11-23T02:21:06+0000 w systemd[1]: walinuxagent.service: Scheduled restart job, counter is at 1.
2026-11-23T02:21:16+0000 w systemd[1]: walinuxagent.service: Scheduled restart job, counter is at 2.
2026-11-23T01:01:16+0000 w systemd[1]: qemu-guest-agent.service: Scheduled restart job, now 9.
"""


def test_restarts_of_the_last_hour_are_counted_for_each_agent() -> None:
    found = facts(command("journal", JOURNAL))
    assert found["waagent.restarts"].value == 2
    assert "counter is at 2" in found["waagent.restarts"].raw
    assert found["qga.restarts"].value == 0


def test_a_journal_that_cannot_be_read_tells_nothing() -> None:
    assert value("waagent.restarts", command("journal", "journalctl: not found", 127)) is None


def test_a_journal_that_a_talkative_agent_has_filled_tells_no_absence() -> None:
    chatter = "2026-11-23T02:29:00+0000 w qemu-ga[1]: info: guest-exec-status called, pid: 1\n"
    started = JOURNAL.splitlines()[0] + "\n"
    assert value("waagent.restarts", command("journal", started + chatter * 599)) is None
    assert value("waagent.restarts", command("journal", started + chatter * 9)) == 0
    assert value("waagent.restarts", command("journal", JOURNAL + chatter * 595)) == 2


def test_an_empty_journal_tells_nothing_and_a_young_guests_counter_does() -> None:
    units = command("units", UNITS_OF_DEBIAN.replace("NRestarts=0", "NRestarts=7", 1))
    young, old = paper("/proc/uptime", "900.10 800.00\n"), paper("/proc/uptime", "9000.1 1.0\n")
    assert value("waagent.restarts", command("journal", ""), units, old) is None
    assert value("waagent.restarts", command("journal", ""), units, young) == 7
    assert value("waagent.restarts", command("journal", JOURNAL), units, young) == 7
    assert value("waagent.restarts", command("journal", JOURNAL), units, old) == 2


def test_papers_that_are_not_there_are_no_facts() -> None:
    assert facts() == {}
