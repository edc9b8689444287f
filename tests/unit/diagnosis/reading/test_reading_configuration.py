"""What the agents are set to."""

from __future__ import annotations

import pytest
from guest_papers import command, facts, paper, value

CONF = "/etc/waagent.conf"
DROP_IN = "/etc/systemd/system/walinuxagent.service.d/proxy.conf"


@pytest.mark.parametrize(
    ("text", "enabled"),
    [
        ("Extensions.Enabled=y\n", True),
        ("Extensions.Enabled = n\n", False),
        ("Extensions.Enabled=y\nExtensions.Enabled=n\n", False),
        ("#Extensions.Enabled=n\nLogs.Verbose=n\n", True),
        ("Extensions.Enabled=perhaps\n", None),
    ],
)
def test_extensions_enabled_is_the_last_line_that_says_so(text: str, enabled: bool | None) -> None:
    assert value("waagent.extensions-enabled", paper(CONF, text)) is enabled


def test_the_line_that_switches_extensions_off_is_the_evidence() -> None:
    fact = facts(paper(CONF, "# no\nExtensions.Enabled=n\n"))["waagent.extensions-enabled"]
    assert (fact.raw, fact.source) == ("Extensions.Enabled=n", CONF)


def test_the_agents_own_proxy_catches_the_hosts_address_unless_it_is_exempt() -> None:
    conf = paper(CONF, "HttpProxy.Host=proxy.example\nHttpProxy.Port=3128\n")
    found = facts(conf)
    assert found["waagent.proxy"].value == f"proxy.example:3128 ({CONF})"
    assert found["waagent.proxy-for-host"].value is True
    exempt = paper(DROP_IN, "[Service]\nEnvironment=NO_PROXY=localhost,168.63.129.0/24\n")
    assert value("waagent.proxy-for-host", conf, exempt) is False


def test_what_people_or_other_services_are_set_to_exempts_nothing() -> None:
    conf = paper(CONF, "HttpProxy.Host=proxy.example\nHttpProxy.Port=3128\n")
    of_people = paper("/etc/environment", "NO_PROXY=168.63.129.16\n")
    other = "/etc/systemd/system/docker.service.d/proxy.conf"
    of_docker = paper(other, '[Service]\nEnvironment="NO_PROXY=168.63.129.16"\n')
    assert value("waagent.proxy-for-host", conf, of_people, of_docker) is True
    of_all = paper("/etc/systemd/system.conf", "[Manager]\nDefaultEnvironment=NO_PROXY=*\n")
    assert value("waagent.proxy-for-host", conf, of_people, of_all) is False


def test_no_proxy_is_said_to_be_none() -> None:
    assert value("waagent.proxy", paper(CONF, "HttpProxy.Host=None\n")) == ""


def test_the_proxy_of_the_services_drop_in_is_the_agents() -> None:
    drop_in = '[Service]\nEnvironment="https_proxy=http://me:geheim@10.0.0.9:3128" "no_proxy=a.b"\n'
    found = facts(paper(CONF, "Logs.Verbose=n\n"), paper(DROP_IN, drop_in))
    assert found["waagent.proxy"].value == f"http://me:***@10.0.0.9:3128 ({DROP_IN})"
    assert "geheim" not in repr(found)
    assert found["waagent.proxy-for-host"].value is True


def test_the_environment_of_people_is_no_proxy_of_the_agent() -> None:
    found = facts(paper(CONF, ""), paper("/etc/environment", "http_proxy=http://10.0.0.9:3128\n"))
    assert found["waagent.proxy"].value == ""
    assert found["net.proxy"].value == "http://10.0.0.9:3128 (/etc/environment)"


def test_the_units_environment_as_systemd_shows_it_counts() -> None:
    unit = "Id=waagent.service\nLoadState=loaded\nEnvironment=HTTPS_PROXY=http://10.0.0.9:3128\n"
    assert "10.0.0.9" in str(value("waagent.proxy", command("units", unit)))


LISTING = "PID PPID STAT ELAPSED %CPU RSS COMMAND\n 9 1 Ssl 9 0.0 9 /usr/sbin/qemu-ga {}\n"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/qemu/qemu-ga.conf", "[general]\nblock-rpcs=guest-exec,guest-fsfreeze-freeze\n"),
        ("/etc/qemu/qemu-ga.conf", "[general]\nblacklist = guest-exec;guest-fsfreeze-freeze\n"),
        ("/etc/sysconfig/qemu-ga", 'BLACKLIST_RPC="guest-exec,guest-fsfreeze-freeze"\n'),
        (
            "/etc/sysconfig/qemu-ga",
            'FILTER_RPC_ARGS="--block-rpcs=guest-exec,guest-fsfreeze-freeze"\n',
        ),
        ("/etc/default/qemu-guest-agent", "DAEMON_ARGS='-b guest-exec,guest-fsfreeze-freeze'\n"),
        ("command:processes", LISTING.format("-b guest-exec,guest-fsfreeze-freeze")),
    ],
)
def test_commands_that_the_guest_agent_must_not_run(path: str, text: str) -> None:
    found = facts(paper(path, text))
    assert found["qga.blocked"].value == "guest-exec, guest-fsfreeze-freeze"
    assert "guest-exec" in found["qga.blocked"].raw


def test_a_list_of_what_is_allowed_blocks_the_rest() -> None:
    conf = "[general]\nallow-rpcs=guest-ping,guest-fsfreeze-freeze,guest-fsfreeze-thaw\n"
    blocked = str(value("qga.blocked", paper("/etc/qemu/qemu-ga.conf", conf)))
    assert "guest-exec" in blocked
    assert "fsfreeze-freeze" not in blocked


@pytest.mark.parametrize("text", ["[general]\nblock-rpcs=guest-shutdown\n", "", "[[[\n", "\x00=["])
def test_what_blocks_nothing_that_is_needed_is_no_fact(text: str) -> None:
    assert value("qga.blocked", paper("/etc/qemu/qemu-ga.conf", text)) is None
