"""A VM whose agent is the stock Azure Linux agent, its network, and a Quiesce server in it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quiesce_server import VM, QuiesceServer, new_server, wait_for

import quiesce
from quiesce.lab.guest import LabGuest
from quiesce.lab.network import LabNetwork
from quiesce.lab.state import Layout, ready_guest
from quiesce.lab.waagent import Waagent

HANDLER = "/var/lib/waagent/Quiesce.VmBackup-*"
"""Where the agent unpacks the extension."""
AGENT_SECONDS = 90.0
"""For the agent to come up and report: some 10 s in an emulated guest."""


@dataclass
class Site:
    network: LabNetwork
    guest: LabGuest
    agent: Waagent
    server: QuiesceServer

    def state(self) -> Mapping[str, Any]:
        """What the server knows of the agent."""
        return dict(self.server.get("vms", VM)["agent_state"])

    def await_agent(self) -> None:
        wait_for(
            "the agent to be ready",
            lambda: self.state()["condition"] == "ready" or None,
            seconds=AGENT_SECONDS,
            pause=0.25,
        )

    def extension(self, channel: str = "waagent") -> Mapping[str, Any]:
        views = self.server.get("vms", VM, "extensions")
        return next(dict(view) for view in views if view["channel"] == channel)

    def handler_folders(self) -> list[str]:
        listing = f"ls -d {HANDLER} 2>/dev/null | grep -v zip; true"
        return self.guest.run(listing).split()

    def is_writable(self) -> bool:
        """Whether the guest's file systems take writes: not frozen by anybody."""
        said = self.guest.run("timeout 5 sh -c 'echo 1 > /root/.probe && sync' && echo yes; true")
        return said.strip() == "yes"


def restart_with_extension(site: Site, version: str, folder: Path) -> None:
    """The server ends and another one comes up that ships `version` of the extension; all else is
    the same. `folder` is empty and keeps that server's program."""
    source = Path(quiesce.__file__).parent
    newer = folder / "quiesce"
    shutil.copytree(source, newer, ignore=shutil.ignore_patterns("__pycache__"))
    (newer / "guest" / "version.py").write_text(f'VERSION = "{version}"\n')
    site.server.stop()
    site.server.environment["PYTHONPATH"] = str(folder)
    site.server.start()
    site.await_agent()


def kill_agent_at(guest: LabGuest, command: str) -> None:
    """From now on: as soon as the agent runs this command of the handler, both are killed, once.
    Returns at once; `killed` tells whether it has happened."""
    guest.run(["sh", "-c", 'printf %s "$1" > /run/killer', "put", _KILLER.format(command=command)])
    guest.run("rm -f /run/killed; systemd-run --quiet --collect sh /run/killer")


def killed(guest: LabGuest) -> bool:
    return bool(guest.run("cat /run/killed 2>/dev/null || true").strip())


_KILLER = """
for i in $(seq 6000); do
    if pids=$(pgrep -f 'handle[r] {command}|handler.s[h] {command}'); then
        pkill -9 -f 'waagen[t] -run-exthandlers'
        kill -9 $pids
        systemctl kill --signal=KILL walinuxagent
        echo $pids > /run/killed
        exit
    fi
    sleep 0.02
done
"""


@contextlib.contextmanager
def new_site(
    *,
    kind: str = "waagent",
    layout: Layout = Layout.ONE_DISK,
    newest: bool = False,
    start_agent: bool = True,
    network: LabNetwork | None = None,
    **environment: str,
) -> Iterator[Site]:
    """A VM known to a server by `quiesce vm add --agent KIND`, its agent up and ready."""
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(network or LabNetwork())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qa-")))
        guest = stack.enter_context(ready_guest(folder, layout, network=net))
        server = stack.enter_context(new_server(network=net, **environment))
        agent = Waagent(guest)
        if newest:
            agent.install_newest()
        site = Site(net, guest, agent, server)
        server.add(guest, kind=kind)
        if start_agent:
            agent.start()
            site.await_agent()
        yield site


def warned(job: Mapping[str, Any]) -> str:
    return " ".join(job["warnings"])


def setback(job: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one way that failed and was got round."""
    assert len(job["setbacks"]) == 1, job["setbacks"]
    return dict(job["setbacks"][0])
