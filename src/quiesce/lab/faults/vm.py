"""The VM as a whole, the server beside it, and what a dead one leaves behind."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from quiesce.lab import waagent
from quiesce.lab.faults.fault import Scene, fault
from quiesce.lab.monitor import qmp
from quiesce.model.failure import LabFailure
from quiesce.model.snapshot import Consistency

VM = "vm"
HOST = {"route": "host"}
_END_SECONDS = 180.0


@fault("paused", VM, "vm.paused", least=Consistency.CRASH)
def paused(scene: Scene) -> Iterator[None]:
    """The VM is paused: its processors stand still."""
    scene.guest.qmp("stop")
    yield
    scene.guest.qmp("cont")


@fault("shut-down-inside", VM, "vm.shut-down-inside-guest", spoils=True)
def shut_down_inside(scene: Scene) -> Iterator[None]:
    """Somebody has shut the guest down from inside; its QEMU stays."""
    scene.guest.qmp("set-action", {"shutdown": "pause"})
    scene.hand.run("systemctl --no-block poweroff")
    _until(scene, "shutdown")
    yield


def _until(scene: Scene, status: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        said = scene.guest.qmp("query-status")
        if isinstance(said, dict) and said["status"] == status:
            return
        if time.monotonic() > deadline:
            raise LabFailure("lab.fault-failed", f"The guest is not {status} but {said}.")
        time.sleep(0.1)


@fault("monitor-socket-gone", VM, "vm.unreachable", heals=False)
def monitor_socket_gone(scene: Scene) -> Iterator[None]:
    """QEMU runs and nobody finds its monitor's socket any more."""
    aside = scene.guest.folder / "qmp-elsewhere"
    scene.guest.qmp_socket.rename(aside)
    yield
    aside.rename(scene.guest.qmp_socket)


@fault("migrating", VM, "vm.migrating")
def migrating(scene: Scene) -> Iterator[None]:
    """The VM is being migrated for the first half minute."""
    scene.guest.qmp("migrate-set-parameters", {"max-bandwidth": 1 << 20})
    scene.guest.qmp("migrate", {"uri": "exec:cat > /dev/null"})
    ending = threading.Timer(30.0, lambda: _end_migration(scene))
    ending.start()
    yield
    ending.cancel()
    _end_migration(scene)
    _until(scene, "running")


def _end_migration(scene: Scene) -> None:
    with contextlib.suppress(LabFailure):
        scene.guest.qmp("migrate_cancel")


def _reset_in_transfer(scene: Scene) -> Mapping[str, Any]:
    with scene.server.stuck_in_transfer(scene.guest, scene.vm) as job_id:
        pass
    scene.guest.qmp("system_reset")
    return scene.server.end_of(job_id, seconds=_END_SECONDS)


@fault("reset-during-the-transfer", VM, "", backup=_reset_in_transfer, spoils=True, policy=HOST)
def reset_during_transfer(scene: Scene) -> Iterator[None]:
    """Somebody presses the reset button while the point is read."""
    yield


def _killed_in_transfer(scene: Scene) -> Mapping[str, Any]:
    with scene.server.stuck_in_transfer(scene.guest, scene.vm) as job_id:
        scene.guest.kill()
    return scene.server.end_of(job_id, seconds=_END_SECONDS)


@fault(
    "hypervisor-killed",
    VM,
    "vm.gone",
    backup=_killed_in_transfer,
    spoils=True,
    heals=False,
    policy=HOST,
)
def hypervisor_killed(scene: Scene) -> Iterator[None]:
    """QEMU is killed while the point is read, as by the kernel's out-of-memory killer."""
    yield


@fault("powered-off", VM, "", spoils=True)
def powered_off(scene: Scene) -> Iterator[None]:
    """The VM was powered off and its QEMU has ended."""
    scene.guest.powerdown()
    yield


# --- the guest dies on the way to its report


_STATUS_KILLER = """
import glob, json, os, time
begun, frozen = time.time(), ""
while time.time() - begun < 120:
    for path in glob.glob("/run/quiesce/*/state.json"):
        try:
            state, driver = json.load(open(path)), json.load(open("/run/quiesce/driver"))
        except (OSError, ValueError):
            continue
        if state["state"] == "frozen":
            frozen = path
        elif path == frozen:
            os.kill(driver["pid"], 9)
            open("/run/killed", "w").write(state["state"])
            raise SystemExit
    time.sleep(0.001)
"""


@fault("report-lost", VM, "extension.crashed", first=True)
def report_lost(scene: Scene) -> Iterator[None]:
    """The extension is killed right after the point was taken, before it says so. That its status
    never comes is what follows."""
    scene.hand.put("/run/status-killer.py", _STATUS_KILLER)
    scene.hand.run(
        "rm -f /run/killed; "
        "systemd-run --quiet --collect --unit=status-killer "
        "python3 /run/status-killer.py"
    )
    yield
    scene.hand.run(f"systemctl stop status-killer 2>/dev/null; systemctl restart {waagent.UNIT}")


# --- the server


def _server_restarted(scene: Scene) -> Mapping[str, Any]:
    job_id = scene.server.begin(scene.vm)
    time.sleep(1.0)
    scene.server.kill()
    scene.server.start()
    return scene.server.end_of(job_id, seconds=_END_SECONDS)


@fault("server-restarted", VM, "", backup=_server_restarted)
def server_restarted(scene: Scene) -> Iterator[None]:
    """The server is killed in the middle of a backup and started again."""
    yield


_FROZEN = """
for i in $(seq 600); do
    grep -qs '"state": *"frozen"' /run/quiesce/*/state.json && break
    sleep 0.1
done
sleep 3
"""


def _held_too_long(scene: Scene) -> Mapping[str, Any]:
    job_id = scene.server.begin(scene.vm)
    _hold_monitor_while_frozen(scene, job_id)
    return scene.server.end_of(job_id, seconds=_END_SECONDS)


def _hold_monitor_while_frozen(scene: Scene, job_id: str) -> None:
    """Keep QEMU from listening to Quiesce from when it has prepared the snapshot until the guest
    is frozen for longer than the hold: a monitor's socket serves one client at a time."""
    deadline = time.monotonic() + 60
    wanted = f"qz{job_id}-c0"
    while time.monotonic() < deadline:
        nodes = scene.guest.qmp("query-named-block-nodes", {"flat": True})
        assert isinstance(nodes, list)
        if any(node["node-name"] == wanted for node in nodes):
            break
        time.sleep(0.01)
    with contextlib.suppress(LabFailure):  # answers once Quiesce has let go of the monitor
        qmp(scene.guest.qmp_socket, "human-monitor-command", {"command-line": "info version"})
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(scene.guest.qmp_socket))
        scene.hand.run(_FROZEN, seconds=120)


@fault(
    "hypervisor-answers-late",
    VM,
    "freeze.held-too-long",
    backup=_held_too_long,
    policy={"route": "host", "hold_seconds": 2.0},
    heals=False,
)
def hypervisor_answers_late(scene: Scene) -> Iterator[None]:
    """QEMU is busy with another client while the guest is frozen, for longer than the hold."""
    yield
