"""Bad luck, made to order. Each function returns when the misfortune has set in."""

from __future__ import annotations

import time

from quiesce.agent.qga import QemuGuestAgent
from quiesce.lab.guest import LabGuest
from quiesce.model.failure import AgentFailure, LabFailure

_SETS_IN_SECONDS = 20.0


def kill_qemu(guest: LabGuest) -> None:
    """QEMU is gone from one moment to the next, as by the kernel's out-of-memory killer."""
    guest.kill()


def reset(guest: LabGuest) -> None:
    """The reset button: the guest boots anew at once, QEMU and its disks stay as they are."""
    guest.qmp("system_reset")


def power_off(guest: LabGuest) -> None:
    """The guest shuts down properly and QEMU ends."""
    guest.powerdown()


def pause(guest: LabGuest) -> None:
    """The guest's processors stand still; `resume` ends it."""
    guest.qmp("stop")


def resume(guest: LabGuest) -> None:
    guest.qmp("cont")


def stop_agent(guest: LabGuest) -> None:
    """The agent ends, as when somebody disables its service. Only a reboot brings it back."""
    _ask_and_forget(guest, "systemctl --no-block stop qemu-guest-agent")
    _wait_until_silent(guest)


def hang_agent(guest: LabGuest, *, seconds: float) -> None:
    """The agent keeps its port open and does nothing for `seconds`, then goes on."""
    # Its own control group, so that the script outlives whatever becomes of the agent.
    _ask_and_forget(
        guest,
        "systemd-run --quiet --collect sh -c "
        f"'p=$(pgrep -x qemu-ga); kill -STOP $p; sleep {seconds:g}; kill -CONT $p'",
    )
    _wait_until_silent(guest)


def remove_qmp_socket(guest: LabGuest) -> None:
    """QEMU goes on but nobody finds its monitor any more; the lab's own remains."""
    guest.qmp_socket.unlink()


def _ask_and_forget(guest: LabGuest, command: str) -> None:
    agent = QemuGuestAgent(guest.qga_socket)
    try:
        agent.call("guest-exec", {"path": "/bin/sh", "arg": ["-c", command]})
    finally:
        agent.disconnect()


def _wait_until_silent(guest: LabGuest) -> None:
    deadline = time.monotonic() + _SETS_IN_SECONDS
    agent = QemuGuestAgent(guest.qga_socket)
    while time.monotonic() < deadline:
        try:
            agent.sync(seconds=0.5)
        except AgentFailure:
            return
        finally:
            agent.disconnect()
        time.sleep(0.05)
    raise LabFailure("lab.fault-failed", f"The agent of {guest.folder} still answers.")
