"""Remedies that can be copied: this guest's commands, for the agent that failed."""

from __future__ import annotations

import re
import shlex

import pytest

from quiesce.diagnosis.catalogue import catalogue
from quiesce.diagnosis.remedies import Guest, filled, remedy_for
from quiesce.model.diagnosis import Fact, FactValue


def remedy(code: str, **facts: FactValue) -> str:
    seen = [Fact(name.replace("_", ".", 1), value, "w", "s") for name, value in facts.items()]
    return " ".join(remedy_for(catalogue().entries[code].steps, seen))


@pytest.mark.parametrize(
    ("distribution", "package", "unit"),
    [
        ("ubuntu", "apt-get install walinuxagent", "systemctl start walinuxagent"),
        ("debian", "apt-get install waagent", "systemctl start walinuxagent"),
        ("rocky", "dnf install WALinuxAgent", "systemctl start waagent"),
        ("sles", "zypper install python-azure-agent", "systemctl start waagent"),
        ("alpine", "apk add walinuxagent", "rc-service waagent start"),
        ("centos", "yum install WALinuxAgent", "systemctl start waagent"),
        ("amzn", "yum install WALinuxAgent", "systemctl start waagent"),
        ("azurelinux", "tdnf install WALinuxAgent", "systemctl start waagent"),
        ("mariner", "tdnf install WALinuxAgent", "systemctl start waagent"),
        (
            "sle-micro",
            "transactional-update pkg install python-azure-agent && reboot",
            "systemctl start waagent",
        ),
    ],
)
def test_each_distribution_has_its_own_words(distribution: str, package: str, unit: str) -> None:
    said = remedy("agent.not-installed", guest_distribution=distribution, failed_route="guest")
    assert f"`{package}`" in said
    assert f"`{unit}`" in said
    assert "qemu-guest-agent`." not in said.partition("Then")[0]


def test_the_agent_that_failed_is_the_one_that_is_restarted() -> None:
    assert "systemctl restart qemu-guest-agent" in remedy("agent.hung", failed_route="host")
    assert "waagent" not in remedy("agent.hung", failed_route="host")
    guest = remedy("agent.hung", failed_route="guest", guest_distribution="ubuntu")
    assert "systemctl restart walinuxagent" in guest
    assert "qemu-guest-agent" not in guest


def test_of_an_unknown_guest_all_usual_commands_are_shown() -> None:
    said = remedy("extension.runtime-missing")
    for command in ("apt-get install", "dnf install", "zypper install", "apk add"):
        assert f"`{command} python3`" in said
    assert remedy("extension.runtime-missing", guest_distribution="plan9") == said


def test_a_windows_guest_gets_no_commands_of_linux() -> None:
    said = remedy("agent.not-running", guest_os="windows", failed_route="host").partition("Without")
    assert "`Start-Service QEMU-GA`" in said[0]


@pytest.mark.parametrize("code", ["agent.disk-full", "network.clock-skew", "agent.certificate"])
@pytest.mark.parametrize(
    "facts", [{"guest_os": "windows"}, {"guest_distribution": "alpine"}], ids=str
)
def test_a_guest_without_systemd_gets_commands_that_it_has(
    code: str, facts: dict[str, FactValue]
) -> None:
    said = remedy(code, failed_route="guest", **facts)
    assert "timedatectl" not in said
    assert "systemctl" not in said
    if "guest_os" in facts:
        assert not re.search(r"`(?:df|du|date) ", said)
    else:
        assert "w32tm" not in said


def test_a_file_system_is_checked_with_its_own_tool() -> None:
    said = remedy("freeze.failed", failed_mount="/data")
    for command in ("fsck -y DEVICE", "xfs_repair DEVICE", "btrfs check DEVICE", "findmnt /data"):
        assert f"`{command}`" in said


def test_what_vanished_is_what_the_antivirus_is_to_leave_alone() -> None:
    assert "`/var/lib/waagent/Quiesce.VmBackup-*`" in remedy("extension.deleted-by-antivirus")


def test_the_exception_from_a_proxy_is_set_where_the_agent_reads_it() -> None:
    said = remedy("network.proxy-hijacks-host", guest_distribution="ubuntu")
    assert "`systemctl edit walinuxagent`" in said
    assert "`Environment=no_proxy=168.63.129.16`" in said


def test_a_mount_is_quoted_and_one_that_is_no_path_is_left_out() -> None:
    assert "--skip-mount '/data disk'" in remedy("freeze.failed", failed_mount="/data disk")
    hostile = remedy("freeze.failed", failed_mount="/x'; rm -rf / #")
    assert shlex.quote("/x'; rm -rf / #") in hostile
    for nonsense in ("", "data", "/a\nb"):
        assert "--skip-mount MOUNT" in remedy("freeze.failed", failed_mount=nonsense)


@pytest.mark.parametrize("step", ["{install emacs}", "{agent}", "{restart python3}", "{}"])
def test_a_placeholder_that_is_not_known_is_refused(step: str) -> None:
    with pytest.raises(ValueError, match="unknown placeholder"):
        filled(step)


@pytest.mark.parametrize(
    "family", ["", "debian", "ubuntu", "rhel", "yum", "tdnf", "suse", "micro", "alpine", "windows"]
)
@pytest.mark.parametrize("agent", ["", "waagent", "qemu-guest-agent"])
def test_no_step_of_the_catalogue_keeps_a_placeholder(family: str, agent: str) -> None:
    for entry in catalogue().entries.values():
        for step in entry.steps:
            said = filled(step, Guest(family, agent, "/data"))
            placeholders = re.findall(r"\{[a-z]+[ .][a-z0-9-]+\}|\{mount\}", said)
            assert not placeholders, f"{entry.code}: {said}"
            assert said.count("`") % 2 == 0, f"{entry.code}: {said}"
