"""Bad luck, made to order. Each function returns when the misfortune has set in."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from quiesce.agent.qga import QemuGuestAgent
from quiesce.lab import waagent
from quiesce.lab.guest import LabGuest
from quiesce.lab.network import LabNetwork
from quiesce.model.failure import AgentFailure, LabFailure

_SETS_IN_SECONDS = 20.0
_BALLAST = "/var/lib/lab-ballast"
BALLAST_FILL = (
    f"mkdir -p {_BALLAST}; n=0\n"
    "for size in 1G 128M 16M 1M 64K 4K; do\n"
    f"  while fallocate -l $size {_BALLAST}/$n 2>/dev/null; do n=$((n + 1)); done\n"
    f"  rm -f {_BALLAST}/$n\n"
    "done"
)
BALLAST_GONE = f"rm -r {_BALLAST}; sync"
EXTENSION_FILES = (
    f"{waagent.FOLDER}/Quiesce.VmBackup-*/**",
    f"{waagent.FOLDER}/Quiesce.VmBackup__*.zip",
)
FLIP = """
import glob, os, sys
paths = [path for each in sys.argv[1:] for path in glob.glob(each, recursive=True)]
ours = [path for path in paths if "/status/" not in path and "/config/" not in path]
paths = [path for path in ours if os.path.isfile(path)]
assert paths, "no extension is here"
for path in paths:
    was = os.stat(path)
    with open(path, "r+b") as file:
        content = bytearray(file.read())
        for at in range(0, len(content), 97):
            content[at] ^= 0xFF
        file.seek(0)
        file.write(content)
    os.utime(path, (was.st_atime, was.st_mtime))
"""


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


@contextlib.contextmanager
def full_disk(guest: LabGuest) -> Iterator[None]:
    """The guest's root file system is full to the last block, root's reserve included."""
    guest.run(BALLAST_FILL)
    try:
        yield
    finally:
        guest.run(BALLAST_GONE)


def skew_clock(guest: LabGuest, *, seconds: float) -> None:
    """The guest's clock jumps, back when negative."""
    guest.agent_call("guest-set-time", {"time": time.time_ns() + int(seconds * 1e9)})


def right_clock(guest: LabGuest) -> None:
    skew_clock(guest, seconds=0.0)


def kill_waagent(guest: LabGuest) -> None:
    """The Azure agent and all it has started in its control group are killed; Debian's unit does
    not start it again by itself. What the extension has started outside goes on."""
    guest.run(
        f"systemctl kill --signal=KILL {waagent.UNIT}; "
        f"while systemctl --quiet is-active {waagent.UNIT}; do sleep 0.1; done"
    )


def corrupt_extension(guest: LabGuest) -> None:
    """Every file of the unpacked extension and its downloaded package have some bytes flipped,
    as by a bad disk; sizes and times stay. At least one must be there. What the agent itself notes
    about the extension stays whole: one that chokes on that (2.7.3) reports nothing any more."""
    guest.run(["python3", "-c", FLIP, *EXTENSION_FILES])


def remove_extension(guest: LabGuest) -> None:
    """The folder that the agent unpacked the extension to is gone, as by an eager antivirus."""
    guest.run(f"rm -r {waagent.FOLDER}/Quiesce.VmBackup-*/")


def silence_option_245(network: LabNetwork, guest: LabGuest) -> None:
    """DHCP names no host address any more, and the guest has heard it."""
    network.announce(None)
    renew_lease(guest)


def renew_lease(guest: LabGuest) -> None:
    """The guest forgets its lease and asks DHCP anew."""
    assert guest.card is not None, "a guest without a network has no lease"
    guest.run(
        "systemctl stop lab-dhcp; rm -f /var/lib/dhcp/*.leases; ip address flush dev eth0; "
        "systemctl start lab-dhcp"
    )
    guest.wait_for_address()


def _ask_and_forget(guest: LabGuest, command: str) -> None:
    guest.agent_call("guest-exec", {"path": "/bin/sh", "arg": ["-c", command]})


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
