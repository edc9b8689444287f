"""A real guest is looked at and mended from inside, through each of its agents."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_site import Site, new_site
from quiesce_server import VM, wait_for

from quiesce.agent.extension import QgaGuest
from quiesce.lab.waagent import CONFIGURATION, UNIT
from quiesce.model.failure import AgentFailure
from quiesce.model.papers import Papers

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A VM that the server reaches through its Azure agent; its other one is free for us."""
    with new_site(kind="waagent") as site:
        yield site


@pytest.fixture
def inside(site: Site) -> QgaGuest:
    return QgaGuest(site.guest.qga_socket)


def texts(papers: Papers) -> dict[str, str]:
    return {paper.path: paper.text for paper in papers.papers}


def test_a_guest_is_examined_through_its_guest_agent_without_anything_installed(
    site: Site, inside: QgaGuest
):
    papers = inside.examine()
    shown = texts(papers)
    assert "ID=debian" in shown["/etc/os-release"]
    assert "qemu-ga" in shown["command:processes"]
    assert "Id=walinuxagent.service" in shown["command:units"]
    assert "ActiveState=active" in shown["command:units"]
    assert shown[CONFIGURATION]
    assert shown["/var/log/waagent.log"]
    assert " / " in shown["/proc/self/mountinfo"]
    assert " /\n" in shown["command:space"]
    assert " inet " in shown["command:addresses"]
    assert " dev " in shown["command:routes"]
    assert "/usr/bin/python3 3." in shown["command:python"]
    assert papers.taken_at is not None
    assert papers.host_clock_at is not None
    assert abs((papers.host_clock_at - papers.taken_at).total_seconds()) < 30


def test_a_guest_is_examined_through_its_azure_agent(site: Site, tmp_path: Path):
    bundle = tmp_path / "logs.tar.gz"
    done = site.server.cli("logs", "collect", VM, "--to", str(bundle))
    assert done.returncode == 0, done.stdout + done.stderr
    with tarfile.open(bundle) as archive:
        names = [member.name for member in archive.getmembers()]
    assert any(name.endswith("var/log/waagent.log") for name in names), names
    assert any("processes" in name for name in names), names


def test_a_masked_agent_is_started_only_when_told_so(site: Site, inside: QgaGuest):
    site.agent.stop()
    site.guest.run(f"systemctl mask --runtime {UNIT}")
    with pytest.raises(AgentFailure) as refused:
        inside.mend("restart-waagent")
    assert refused.value.code == "agent.mend-failed"
    assert "masked" in refused.value.message
    said = inside.mend("restart-waagent", "unmask")
    assert f"{UNIT} was unmasked. {UNIT} was started." in said
    site.await_agent()


def test_a_hung_agent_is_restarted(site: Site, inside: QgaGuest):
    site.guest.run(f"kill -STOP $(systemctl show -p MainPID --value {UNIT})")
    assert f"{UNIT} was restarted." in inside.mend("restart-waagent")
    site.await_agent()


def test_the_guest_agent_restarts_itself_and_answers_again(site: Site, inside: QgaGuest):
    before = site.guest.run("pgrep -x qemu-ga").split()
    assert "will be restarted" in inside.mend("restart-qga")

    def another() -> bool | None:
        try:
            return set(site.guest.run("pgrep -x qemu-ga; true").split()).isdisjoint(before) or None
        except AgentFailure:
            return None

    wait_for("the new guest agent", another, seconds=60)


def test_an_agent_that_is_killed_comes_back_by_itself(site: Site, inside: QgaGuest):
    assert "restarted from now on" in inside.mend("auto-restart-waagent")
    assert "already" in inside.mend("auto-restart-waagent")
    site.guest.run(f"systemctl kill --signal=KILL {UNIT}")
    wait_for(
        "the agent to be back",
        lambda: site.guest.run(f"systemctl is-active {UNIT}; true").strip() == "active" or None,
        seconds=60,
    )
    site.guest.run(f"rm /etc/systemd/system/{UNIT}.d/90-quiesce-restart.conf")
    site.guest.run("systemctl daemon-reload")
    site.await_agent()


def test_the_configuration_of_the_agent_is_mended_and_given_back(site: Site, inside: QgaGuest):
    before = site.guest.run(f"cat {CONFIGURATION}")
    site.guest.run(f"echo Extensions.Enabled=n >> {CONFIGURATION}")
    assert "Extensions.Enabled=y was set" in inside.mend("enable-extensions")
    assert site.guest.run(f"cat {CONFIGURATION}") == before + "Extensions.Enabled=y\n"
    inside.mend("verbose-on")
    assert "Logs.Verbose=y\n" in site.guest.run(f"cat {CONFIGURATION}")
    site.guest.wait_for_agent()
    inside.mend("verbose-off")
    assert site.guest.run(f"cat {CONFIGURATION}") == before + "Extensions.Enabled=y\n"
    site.guest.wait_for_agent()
    site.await_agent()


def test_the_host_is_exempt_from_the_agents_proxy(site: Site, inside: QgaGuest):
    assert "is exempt" in inside.mend("exempt-host", "168.63.129.16")
    pid = site.guest.run(f"systemctl show -p MainPID --value {UNIT}").strip()
    assert "NO_PROXY=168.63.129.16" in site.guest.run(f"tr '\\0' '\\n' < /proc/{pid}/environ")
    assert "already" in inside.mend("exempt-host", "168.63.129.16")
    site.await_agent()
