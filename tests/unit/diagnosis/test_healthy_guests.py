"""Guests in which a backup would go well: no line is red, and nothing is proven."""

from __future__ import annotations

import pytest
from guest_papers import (
    LOG_OF_GOOD_AGENT,
    PROCESSES,
    ROOTS_VIEW,
    UNITS_OF_DEBIAN,
    USERS_VIEW,
    command,
    paper,
    papers,
)

from quiesce.diagnosis.examination import examine
from quiesce.model.diagnosis import Light
from quiesce.model.papers import Paper

HEAD = "    PID    PPID STAT ELAPSED %CPU   RSS COMMAND\n      1 0 Ss 4000 0.1 12000 /sbin/init\n"
WAAGENT = (
    "    412       1 Ss     3990  0.2 30000 /usr/bin/python3 -u /usr/sbin/waagent -daemon\n"
    "    512     412 Sl     3980  0.4 40000 python3 -u /usr/sbin/waagent -run-exthandlers\n"
)
QGA = "    460       1 Ssl    3990  0.0  4000 /usr/sbin/qemu-ga\n"
DF = "F 1024-blocks Used Available Capacity M\n"
LOG = paper("/var/log/waagent.log", LOG_OF_GOOD_AGENT)
NO_CERTIFICATE = command("certificate", "/var/lib/waagent/x.pem: No such file or directory", 1)


def unit(name: str, load: str, active: str, file_state: str = "") -> str:
    return (
        f"Id={name}.service\nLoadState={load}\nActiveState={active}\nUnitFileState={file_state}\n"
    )


COMMON = (
    command("space", DF + "/dev/a 9000000 1 8999999 1% /\n"),
    command("cpu", "cpu  0 0 0 100 0 0 0 0\ncpu  1 0 0 199 0 0 0 0\n"),
    command("python", "/usr/bin/python3 3.9\n"),
    command("quiesce", ""),
    command("extension", "", 1),
    command("routes", "default via 10.0.0.1 dev eth0\n"),
    command("addresses", "2: eth0    inet 10.0.0.7/24 brd 10.0.0.255 scope global eth0\n"),
    paper("/proc/self/mountinfo", "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n"),
)


def guest(*special: Paper) -> tuple[Paper, ...]:
    own = {each.path for each in special}
    return (*(each for each in COMMON if each.path not in own), *special)


RHEL_IN_AZURE = guest(
    command(
        "units",
        f"{unit('waagent', 'loaded', 'active')}\n"
        f"{unit('qemu-guest-agent', 'loaded', 'inactive', 'enabled')}",
    ),
    command("processes", HEAD + WAAGENT),
    paper("/etc/os-release", "ID=rhel\n"),
    paper("/etc/waagent.conf", "Extensions.Enabled=y\n"),
    paper("/etc/sysconfig/qemu-ga", 'BLACKLIST_RPC="guest-file-open,guest-exec"\n'),
    paper("/var/lib/NetworkManager/internal-1-eth0.lease", "ADDRESS=10.0.0.7\n"),
    paper(LOG.path, LOG.text.replace("[Quiesce.VmBackup-0.2.0.1] ", "[A.B-1.0] ")),
    ROOTS_VIEW,
)
COREOS = guest(
    command("units", unit("qemu-guest-agent", "loaded", "active")),
    command("processes", HEAD + QGA),
    command("space", DF + "composefs 6336 6336 0 100% /\n/dev/a 9000000 1 8999999 1% /var\n"),
    paper("/etc/os-release", "ID=fedora\n"),
    paper(
        "/proc/self/mountinfo",
        "22 1 0:40 / / ro,relatime - overlay composefs ro\n23 22 254:4 / /var rw - xfs /dev/a rw\n",
    ),
    ROOTS_VIEW,
)
ALPINE = guest(
    command("units", "timeout: failed to run command 'systemctl': No such file", 127),
    command("processes", HEAD + QGA),
    command("programs", "/usr/bin/qemu-ga\n/etc/init.d/qemu-guest-agent\n"),
    command("addresses", "2: eth0    inet6 2001:db8::7/64 scope global\n"),
    command("routes", "default via fe80::1 dev eth0\n"),
    paper("/etc/os-release", "ID=alpine\n"),
    ROOTS_VIEW,
)
KVM_WITH_A_DISABLED_WAAGENT = guest(
    command(
        "units",
        f"{unit('walinuxagent', 'loaded', 'inactive', 'disabled')}\n"
        f"{unit('qemu-guest-agent', 'loaded', 'active')}",
    ),
    command("processes", HEAD + QGA),
    command("addresses", "1: lo    inet 127.0.0.1/8 scope host lo\n"),
    paper("/etc/waagent.conf", "Extensions.Enabled=n\n"),
    ROOTS_VIEW,
)
SEEN_BY_A_USER = guest(
    command("units", UNITS_OF_DEBIAN),
    command("processes", PROCESSES),
    command("certificate", "/var/lib/waagent: Permission denied", 126),
    paper("/etc/os-release", "ID=debian\n"),
    paper("/etc/waagent.conf", "Extensions.Enabled=y\n"),
    LOG,
    USERS_VIEW,
)
SEEN_BY_AN_OLDER_COLLECTOR = (
    *(each for each in SEEN_BY_A_USER if each.path != "command:certificate"),
    NO_CERTIFICATE,
)
WITH_A_PAGER_THAT_SLEEPS = guest(
    command("units", UNITS_OF_DEBIAN),
    command(
        "processes",
        f"{PROCESSES}    900 1 T 90 0.0 900 less /var/lib/waagent/Quiesce.VmBackup-0.2.0.1/x\n",
    ),
    paper("/etc/waagent.conf", "Extensions.Enabled=y\n"),
    ROOTS_VIEW,
)
CERTIFICATE_OF_AN_IDLE_AGENT = guest(
    command("units", UNITS_OF_DEBIAN),
    command("processes", PROCESSES),
    command(
        "certificate",
        "notBefore=Jan  1 00:00:00 2022 GMT\nnotAfter=Jan  1 00:00:00 2024 GMT\n",
    ),
    paper("/etc/waagent.conf", "Extensions.Enabled=y\n"),
    paper(LOG.path, LOG.text.replace("[Quiesce.VmBackup-0.2.0.1] ", "[A.B-1.0] ")),
    ROOTS_VIEW,
)


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(RHEL_IN_AZURE, id="RHEL in Azure"),
        pytest.param(COREOS, id="Fedora CoreOS"),
        pytest.param(ALPINE, id="Alpine with QGA and IPv6"),
        pytest.param(KVM_WITH_A_DISABLED_WAAGENT, id="KVM beside a disabled waagent"),
        pytest.param(SEEN_BY_A_USER, id="not root"),
        pytest.param(SEEN_BY_AN_OLDER_COLLECTOR, id="not root, older collector"),
        pytest.param(WITH_A_PAGER_THAT_SLEEPS, id="a pager that sleeps"),
        pytest.param(CERTIFICATE_OF_AN_IDLE_AGENT, id="an old certificate"),
    ],
)
def test_of_a_guest_that_is_well_nothing_is_red_or_proven(shown: tuple[Paper, ...]) -> None:
    found = examine(papers(*shown))
    assert found.diagnoses == ()
    assert [check for check in found.checks if check.light is Light.RED] == []


def test_a_second_agent_that_is_down_is_at_most_amber() -> None:
    lines = {check.title: check.light for check in examine(papers(*RHEL_IN_AZURE)).checks}
    assert lines["Azure Linux agent"] is Light.GREEN
    assert lines["QEMU guest agent"] is Light.AMBER
    assert "its commands" not in lines


def test_an_agent_that_alpine_does_not_have_has_no_line() -> None:
    titles = [check.title for check in examine(papers(*ALPINE)).checks]
    assert "QEMU guest agent" in titles
    assert "Azure Linux agent" not in titles


def test_a_stopped_agent_without_systemd_is_proven() -> None:
    shown = (*ALPINE, command("processes", HEAD), command("programs", "/usr/sbin/waagent\n"))
    last = {each.path: each for each in shown}
    [cause] = examine(papers(*last.values())).diagnoses
    assert cause.code == "agent.not-running"


def test_a_machine_without_any_agent_is_told_so_in_one_line() -> None:
    shown = {each.path: each for each in (*ALPINE, command("processes", HEAD))}
    shown["command:programs"] = command("programs", "")
    found = examine(papers(*shown.values()))
    [line] = [check for check in found.checks if check.area == "agent"]
    assert line.words.startswith("no agent is installed")
    assert (line.light, line.codes) == (Light.RED, ("agent.not-installed",))
    assert line.remedy
    assert not [check for check in found.checks if check.area == "network"]


ENABLE_FAILED = (
    "2026-09-{day:02}T02:10:09Z ERROR ExtHandler ExtHandler Event: name=Quiesce.VmBackup, "
    "op=Enable, message=[ExtensionOperationError] Non-zero exit code: 1, duration=5\n"
)


def test_a_failure_that_the_agent_has_outlived_for_months_is_amber_with_its_age() -> None:
    beats = "2026-11-23T02:20:00Z INFO ExtHandler ExtHandler [HEARTBEAT] Agent is running\n"
    before = LOG_OF_GOOD_AGENT.replace("2026-11-23", "2026-09-03")
    log = paper(LOG.path, before + ENABLE_FAILED.format(day=3) + beats)
    shown = [each for each in SEEN_BY_A_USER if each.path != LOG.path]
    found = examine(papers(*shown, log))
    newest = found.checks[0]
    assert (newest.light, newest.codes) == (Light.AMBER, ("extension.enable-failed",))
    assert newest.words.endswith("; that was 81 days before")
    assert found.diagnoses == ()


def test_a_failure_after_which_the_agent_wrote_no_more_is_still_the_newest() -> None:
    before = LOG_OF_GOOD_AGENT.replace("2026-11-23", "2026-09-03")
    log = paper(LOG.path, before + ENABLE_FAILED.format(day=3))
    shown = [each for each in SEEN_BY_A_USER if each.path != LOG.path]
    found = examine(papers(*shown, log))
    assert found.checks[0].light is Light.RED
    assert found.diagnoses[0].symptom == "extension.enable-failed"


def test_a_stopped_extension_is_a_cause_only_where_it_has_something_to_do() -> None:
    sleeping = (
        "    900 1 T 90 0.0 900 python3 -I /var/lib/waagent/Quiesce.VmBackup-0.2.0.1 enable\n"
    )
    shown = {each.path: each for each in WITH_A_PAGER_THAT_SLEEPS}
    shown["command:processes"] = command("processes", PROCESSES + sleeping)
    assert examine(papers(*shown.values())).diagnoses == ()
    session = paper("/run/quiesce/a/state.json", '{"state": "frozen"}')
    [cause] = examine(papers(*shown.values(), session)).diagnoses
    assert cause.code == "extension.stuck"
