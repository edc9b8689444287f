"""The guest's agents: stopped, masked, hung, gone, too old, forbidden to work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from quiesce.lab import waagent
from quiesce.lab.faults.fault import Agents, Scene, fault
from quiesce.lab.faults.misfortunes import BALLAST_FILL, BALLAST_GONE
from quiesce.model.failure import LabFailure

AGENT = "agent"
QGA_UNIT = "qemu-guest-agent.service"
HOST_FIRST = {"route": "host-then-guest"}
_KILL_LOOP = (
    "while sleep 0.5; do systemctl kill --kill-whom=main --signal=KILL {unit} 2>/dev/null; done"
)


@fault("azure-agent-stopped", AGENT, "agent.not-running")
def azure_agent_stopped(scene: Scene) -> Iterator[None]:
    """Somebody has stopped the Azure Linux agent's service."""
    scene.hand.run(f"systemctl stop {waagent.UNIT}")
    yield
    scene.hand.run(f"systemctl start {waagent.UNIT}")


@fault("azure-agent-killed", AGENT, "agent.not-running")
def azure_agent_killed(scene: Scene) -> Iterator[None]:
    """The Azure Linux agent was killed and its service does not start it again."""
    scene.hand.run(
        f"systemctl kill --signal=KILL {waagent.UNIT}; "
        f"while systemctl --quiet is-active {waagent.UNIT}; do sleep 0.1; done"
    )
    yield
    scene.hand.run(f"systemctl restart {waagent.UNIT}")


@fault("azure-agent-masked", AGENT, "agent.not-running")
def azure_agent_masked(scene: Scene) -> Iterator[None]:
    """The Azure Linux agent's service was masked, so that nobody can start it."""
    scene.hand.run(f"systemctl mask --runtime --now {waagent.UNIT}")
    yield
    scene.hand.run(
        f"systemctl unmask --runtime {waagent.UNIT}; systemctl unmask {waagent.UNIT}; "
        f"systemctl restart {waagent.UNIT}"
    )


@fault("azure-agent-hung", AGENT, "agent.hung")
def azure_agent_hung(scene: Scene) -> Iterator[None]:
    """The Azure Linux agent's processes stand still (SIGSTOP)."""
    scene.hand.run(f"systemctl kill --signal=STOP {waagent.UNIT}")
    yield
    scene.hand.run(f"systemctl kill --signal=CONT {waagent.UNIT}; systemctl restart {waagent.UNIT}")


@fault("azure-agent-crash-loop", AGENT, "agent.crash-loop")
def azure_agent_crash_loop(scene: Scene) -> Iterator[None]:
    """The Azure Linux agent dies as often as its service starts it."""
    drop_in = f"/etc/systemd/system/{waagent.UNIT}.d/00-loop.conf"
    text = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=0.2\n"
    scene.hand.put(drop_in, text, mode="0644")
    kill = _KILL_LOOP.format(unit=waagent.UNIT)
    scene.hand.run(f"systemctl daemon-reload; systemd-run --quiet --unit=killer sh -c '{kill}'")
    yield
    scene.hand.run(
        f"systemctl stop killer; rm {drop_in}; systemctl daemon-reload; "
        f"systemctl reset-failed {waagent.UNIT}; systemctl restart {waagent.UNIT}"
    )


@fault("azure-agent-not-installed", AGENT, "agent.not-installed")
def azure_agent_not_installed(scene: Scene) -> Iterator[None]:
    """The Azure Linux agent's package is not there any more: no program, no service."""
    unit = f"/lib/systemd/system/{waagent.UNIT}"
    scene.hand.run(
        f"systemctl stop {waagent.UNIT}; mkdir -p /root/aside; "
        f"mv /usr/sbin/waagent /usr/sbin/waagent2.0 {unit} /root/aside/ 2>/dev/null; "
        "systemctl daemon-reload"
    )
    yield
    scene.hand.run(
        "mv /root/aside/waagent* /usr/sbin/; mv /root/aside/*.service /lib/systemd/system/; "
        f"systemctl daemon-reload; systemctl start {waagent.UNIT}"
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


@fault("guest-agent-stopped", AGENT, "agent.not-running", policy=HOST_FIRST, quick=True)
def guest_agent_stopped(scene: Scene) -> Iterator[None]:
    """Somebody has stopped the QEMU guest agent's service."""
    scene.hand.run(f"systemctl stop {QGA_UNIT}")
    yield
    scene.hand.run(f"systemctl start {QGA_UNIT}")


@fault("guest-agent-stopped-alone", AGENT, "agent.not-running", agents=Agents.QGA, heals=False)
def guest_agent_stopped_alone(scene: Scene) -> Iterator[None]:
    """The QEMU guest agent is stopped, and the VM has no other agent."""
    scene.hand.run(f"systemctl stop {QGA_UNIT}")
    yield
    scene.hand.run(f"systemctl start {QGA_UNIT}")


@fault("guest-agent-masked", AGENT, "agent.not-running", policy=HOST_FIRST)
def guest_agent_masked(scene: Scene) -> Iterator[None]:
    """The QEMU guest agent's service was masked."""
    scene.hand.run(f"systemctl mask --runtime --now {QGA_UNIT}")
    yield
    scene.hand.run(
        f"systemctl unmask --runtime {QGA_UNIT}; systemctl unmask {QGA_UNIT}; "
        f"systemctl start {QGA_UNIT}"
    )


@fault("guest-agent-crash-loop", AGENT, "agent.crash-loop", policy=HOST_FIRST)
def guest_agent_crash_loop(scene: Scene) -> Iterator[None]:
    """The QEMU guest agent dies as often as its service starts it."""
    drop_in = f"/etc/systemd/system/{QGA_UNIT}.d/00-loop.conf"
    scene.hand.put(drop_in, "[Unit]\nStartLimitIntervalSec=0\n", mode="0644")
    kill = _KILL_LOOP.format(unit=QGA_UNIT).replace("0.5", "0.1")
    scene.hand.run(f"systemctl daemon-reload; systemd-run --quiet --unit=killer sh -c '{kill}'")
    yield
    scene.hand.run(
        f"systemctl stop killer; rm {drop_in}; systemctl daemon-reload; "
        f"systemctl reset-failed {QGA_UNIT}; systemctl restart {QGA_UNIT}"
    )


@fault("guest-agent-hung", AGENT, "agent.hung", policy=HOST_FIRST)
def guest_agent_hung(scene: Scene) -> Iterator[None]:
    """The QEMU guest agent stands still (SIGSTOP), its port open."""
    scene.hand.run(f"systemctl kill --signal=STOP {QGA_UNIT}")
    yield
    scene.hand.run(f"systemctl kill --signal=CONT {QGA_UNIT}; systemctl restart {QGA_UNIT}")


@fault("guest-agent-not-installed", AGENT, "agent.not-installed", policy=HOST_FIRST)
def guest_agent_not_installed(scene: Scene) -> Iterator[None]:
    """The QEMU guest agent's package is not there: no program, no service."""
    unit = f"/lib/systemd/system/{QGA_UNIT}"
    scene.hand.run(
        f"systemctl stop {QGA_UNIT}; mkdir -p /root/aside; "
        f"mv /usr/sbin/qemu-ga {unit} /root/aside/; "
        "systemctl daemon-reload"
    )
    yield
    scene.hand.run(
        "mv /root/aside/qemu-ga /usr/sbin/; mv /root/aside/*.service /lib/systemd/system/; "
        f"systemctl daemon-reload; systemctl start {QGA_UNIT}"
    )


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
