"""The guest's agents: stopped, masked, hung, gone, too old, forbidden to work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from quiesce.lab import waagent
from quiesce.lab.faults.fault import Agents, Fault, Scene, fault
from quiesce.lab.faults.misfortunes import BALLAST_FILL, BALLAST_GONE
from quiesce.model.failure import LabFailure

AGENT = "agent"
QGA_UNIT = "qemu-guest-agent.service"
HOST_FIRST = {"route": "host-then-guest"}


@dataclass(frozen=True)
class Service:
    """One of the guest's agents. `rows` is how its rows' names begin, `programs` (in /usr/sbin) is
    what its package is known by; in a crash loop it is killed every so many seconds, and `restarts`
    is what its unit needs to be started as often."""

    rows: str
    unit: str
    programs: tuple[str, ...]
    killed_every: float
    restarts: str = ""
    policy: Mapping[str, object] = field(default_factory=dict)


Befalls = Callable[[Scene, Service], Iterator[None]]


@dataclass(frozen=True)
class Misfortune:
    """What may befall either agent, and is called as the function that sets it in and undoes it."""

    expected: str
    befalls: Befalls

    def row(self, agent: Service, words: str, also: str = "", **more: Any) -> Fault:
        """The agent's row, called after the misfortune and `also`."""
        name = f"{agent.rows}-{self.befalls.__name__}{also}".replace("_", "-")
        of_both: dict[str, Any] = {"words": words, "policy": agent.policy}
        made = fault(name, AGENT, self.expected, **of_both | more)
        return made(lambda scene: self.befalls(scene, agent))


def either_agent(expected: str) -> Callable[[Befalls], Misfortune]:
    return lambda befalls: Misfortune(expected, befalls)


AZURE = Service(
    "azure-agent",
    waagent.UNIT,
    ("waagent", "waagent2.0"),
    killed_every=0.5,
    restarts="[Service]\nRestart=always\nRestartSec=0.2\n",
)
QGA = Service("guest-agent", QGA_UNIT, ("qemu-ga",), killed_every=0.1, policy=HOST_FIRST)


@either_agent("agent.not-running")
def stopped(scene: Scene, agent: Service) -> Iterator[None]:
    scene.hand.run(f"systemctl stop {agent.unit}")
    yield
    scene.hand.run(f"systemctl start {agent.unit}")


@either_agent("agent.not-running")
def masked(scene: Scene, agent: Service) -> Iterator[None]:
    scene.hand.run(f"systemctl mask --runtime --now {agent.unit}")
    yield
    scene.hand.run(
        f"systemctl unmask --runtime {agent.unit}; systemctl unmask {agent.unit}; "
        f"systemctl restart {agent.unit}"
    )


@either_agent("agent.hung")
def hung(scene: Scene, agent: Service) -> Iterator[None]:
    scene.hand.run(f"systemctl kill --signal=STOP {agent.unit}")
    yield
    scene.hand.run(f"systemctl kill --signal=CONT {agent.unit}; systemctl restart {agent.unit}")


@either_agent("agent.crash-loop")
def crash_loop(scene: Scene, agent: Service) -> Iterator[None]:
    drop_in = f"/etc/systemd/system/{agent.unit}.d/00-loop.conf"
    scene.hand.put(drop_in, f"[Unit]\nStartLimitIntervalSec=0\n{agent.restarts}", mode="0644")
    kill = f"systemctl kill --kill-whom=main --signal=KILL {agent.unit} 2>/dev/null"
    loop = f"while sleep {agent.killed_every}; do {kill}; done"
    scene.hand.run(f"systemctl daemon-reload; systemd-run --quiet --unit=killer sh -c '{loop}'")
    yield
    scene.hand.run(
        f"systemctl stop killer; rm {drop_in}; systemctl daemon-reload; "
        f"systemctl reset-failed {agent.unit}; systemctl restart {agent.unit}"
    )


@either_agent("agent.not-installed")
def not_installed(scene: Scene, agent: Service) -> Iterator[None]:
    programs = " ".join(f"/usr/sbin/{name}" for name in agent.programs)
    scene.hand.run(
        f"systemctl stop {agent.unit}; mkdir -p /root/aside; "
        f"mv {programs} /lib/systemd/system/{agent.unit} /root/aside/ 2>/dev/null; "
        "systemctl daemon-reload"
    )
    yield
    scene.hand.run(
        f"mv /root/aside/{agent.programs[0]}* /usr/sbin/; "
        "mv /root/aside/*.service /lib/systemd/system/; "
        f"systemctl daemon-reload; systemctl start {agent.unit}"
    )


stopped.row(AZURE, "Somebody has stopped the Azure Linux agent's service.")


@fault("azure-agent-killed", AGENT, "agent.not-running")
def azure_agent_killed(scene: Scene) -> Iterator[None]:
    """The Azure Linux agent was killed and its service does not start it again."""
    scene.hand.run(
        f"systemctl kill --signal=KILL {waagent.UNIT}; "
        f"while systemctl --quiet is-active {waagent.UNIT}; do sleep 0.1; done"
    )
    yield
    scene.hand.run(f"systemctl restart {waagent.UNIT}")


masked.row(AZURE, "The Azure Linux agent's service was masked, so that nobody can start it.")
hung.row(AZURE, "The Azure Linux agent's processes stand still (SIGSTOP).")
crash_loop.row(AZURE, "The Azure Linux agent dies as often as its service starts it.")
not_installed.row(
    AZURE, "The Azure Linux agent's package is not there any more: no program, no service."
)


@fault("azure-agent-outdated", AGENT, "agent.outdated")
def azure_agent_outdated(scene: Scene) -> Iterator[None]:
    """The Azure Linux agent is 2.2.40 by its own word and, as one so old, does not work the
    goal state off."""
    package = "/usr/lib/python3/dist-packages/azurelinuxagent"
    scene.hand.run(
        f"cp -a {package}/common/version.py {package}/ga/exthandlers.py /root/ && "
        f"sed -i \"s/^AGENT_VERSION = .*/AGENT_VERSION = '2.2.40'/\" "
        f"{package}/common/version.py && "
        # An agent that finds no extension handling of its time takes the goal state and goes on.
        f"sed -i 's/^    def run(self):/    def run(self):\\n        return/' "
        f"{package}/ga/exthandlers.py && systemctl restart {waagent.UNIT}"
    )
    yield
    scene.hand.run(
        f"cp -a /root/version.py {package}/common/; cp -a /root/exthandlers.py {package}/ga/; "
        f"systemctl restart {waagent.UNIT}"
    )


@fault("extensions-disabled", AGENT, "agent.extensions-disabled")
def extensions_disabled(scene: Scene) -> Iterator[None]:
    """Extensions.Enabled=n in /etc/waagent.conf."""
    conf = waagent.CONFIGURATION
    scene.hand.run(
        f"cp -a {conf} /root/waagent.conf; sed -i '/^Extensions.Enabled/d' {conf}; "
        f"echo Extensions.Enabled=n >> {conf}; systemctl restart {waagent.UNIT}"
    )
    yield
    scene.hand.run(f"cp -a /root/waagent.conf {conf}; systemctl restart {waagent.UNIT}")


@fault("transport-certificate-gone", AGENT, "")
def transport_certificate_gone(scene: Scene) -> Iterator[None]:
    """The Azure Linux agent's transport key and certificate were deleted: it goes on without."""
    scene.hand.run(f"mkdir -p /root/aside; mv {waagent.FOLDER}/Transport*.pem /root/aside/")
    yield
    scene.hand.run(
        f"mv -n /root/aside/Transport*.pem {waagent.FOLDER}/; systemctl restart {waagent.UNIT}"
    )


@fault("root-full", AGENT, "agent.disk-full")
def root_full(scene: Scene) -> Iterator[None]:
    """The root file system is full to the last block."""
    scene.hand.run(BALLAST_FILL, seconds=120)
    yield
    scene.hand.run(f"{BALLAST_GONE}; systemctl restart {waagent.UNIT}")


stopped.row(QGA, "Somebody has stopped the QEMU guest agent's service.", quick=True)
stopped.row(
    QGA,
    "The QEMU guest agent is stopped, and the VM has no other agent.",
    "-alone",
    agents=Agents.QGA,
    heals=False,
    policy={},
)
masked.row(QGA, "The QEMU guest agent's service was masked.")
crash_loop.row(QGA, "The QEMU guest agent dies as often as its service starts it.")
hung.row(QGA, "The QEMU guest agent stands still (SIGSTOP), its port open.")
not_installed.row(QGA, "The QEMU guest agent's package is not there: no program, no service.")


@fault("guest-agent-commands-blocked", AGENT, "agent.extensions-disabled", policy=HOST_FIRST)
def guest_agent_commands_blocked(scene: Scene) -> Iterator[None]:
    """The QEMU guest agent's configuration blocks guest-exec and the freeze."""
    conf = "/etc/qemu/qemu-ga.conf"
    names = "guest-exec,guest-exec-status,guest-fsfreeze-freeze"
    # The key was called blacklist up to QEMU 8.
    scene.hand.put(conf, f"[general]\nblacklist={names}\nblock-rpcs={names}\n", mode="0644")
    scene.hand.run(f"systemctl restart {QGA_UNIT}")
    yield
    scene.hand.run(f"rm -f {conf}; systemctl restart {QGA_UNIT}")


@fault("guest-agent-port-missing", AGENT, "agent.channel-missing", policy=HOST_FIRST)
def guest_agent_port_missing(scene: Scene) -> Iterator[None]:
    """The VM's definition has no virtio-serial port for the QEMU guest agent."""
    where = "/machine/peripheral-anon"
    found = scene.guest.qmp("qom-list", {"path": where})
    assert isinstance(found, list)
    port = next(each["name"] for each in found if each["type"] == "child<virtserialport>")
    scene.guest.qmp("device_del", {"id": f"{where}/{port}"})
    scene.hand.run(
        "for i in $(seq 100); do test -e /dev/virtio-ports/org.qemu.guest_agent.0 || exit 0; "
        "sleep 0.1; done; exit 1"
    )
    yield
    port_again = {
        "driver": "virtserialport",
        "bus": "ports.0",
        "chardev": "qga",
        "name": "org.qemu.guest_agent.0",
    }
    with contextlib.suppress(LabFailure):  # mended already: there is one
        scene.guest.qmp("device_add", port_again)
    scene.hand.run(f"sleep 1; systemctl start {QGA_UNIT}")


@fault("guest-agent-socket-gone", AGENT, "agent.channel-missing", policy=HOST_FIRST)
def guest_agent_socket_gone(scene: Scene) -> Iterator[None]:
    """On the host, nothing is at the path that the VM was added with for its guest agent."""
    aside = scene.guest.folder / "elsewhere"
    scene.guest.qga_socket.rename(aside)
    yield
    aside.rename(scene.guest.qga_socket)
