"""The lab's guests do what the other end-to-end tests rely on."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quiesce.agent.qga import QemuGuestAgent
from quiesce.lab import faults
from quiesce.lab.cache import cache_folder
from quiesce.lab.guest import LabGuest
from quiesce.lab.state import Layout, fresh_guest, ready_guest
from quiesce.model.failure import AgentFailure, LabFailure

pytestmark = pytest.mark.long


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def mounts(guest: LabGuest) -> dict[str, str]:
    """Mount point → file system of the guest's disks."""
    lines = guest.run("grep ^/dev/vd /proc/mounts").splitlines()
    return {line.split()[1]: line.split()[2] for line in lines}


def process_lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie that nobody has waited for yet is as dead as the rest.
    return ") Z " not in Path(f"/proc/{pid}/stat").read_text()


def test_fresh_guest_boots_until_systemd_is_content(guest_folder: Path) -> None:
    with fresh_guest(guest_folder) as guest:
        state = guest.run("systemctl is-system-running || true").strip()
        assert state == "running", guest.run("systemctl --failed")
        assert mounts(guest) == {"/": "ext4"}


def test_booted_guest_has_mounted_all_its_disks_when_it_is_handed_over(guest_folder: Path) -> None:
    with fresh_guest(guest_folder, Layout.THREE_DISKS) as guest:
        assert mounts(guest) == {"/": "ext4", "/mnt/xfs": "xfs", "/mnt/btrfs": "btrfs"}


def test_guest_has_the_parts_that_backup_needs(guest: LabGuest) -> None:
    assert guest.run("python3 -c 'import sys; print(sys.version_info >= (3, 6))'").strip() == "True"
    for program in ("waagent", "fsfreeze", "qemu-ga", "mkfs.xfs", "mkfs.btrfs"):
        assert guest.run(f"command -v {program}").startswith("/")
    assert guest.run("systemctl is-enabled walinuxagent || true").strip() == "masked"


def test_resumed_guest_mounts_all_its_disks(three_disk_guest: LabGuest) -> None:
    assert mounts(three_disk_guest) == {"/": "ext4", "/mnt/xfs": "xfs", "/mnt/btrfs": "btrfs"}
    assert list(three_disk_guest.disks) == ["vda", "vdb", "vdc"]


def test_resumed_guest_answers_within_seconds_and_knows_the_time(guest_folder: Path) -> None:
    guest = ready_guest(guest_folder)
    started = time.monotonic()
    with guest:
        assert time.monotonic() - started < 15.0, "it booted instead of resuming"
        assert abs(float(guest.run("date +%s.%N")) - time.time()) < 5.0


def test_what_one_guest_writes_is_not_seen_by_the_next() -> None:
    for _ in range(2):
        with (
            tempfile.TemporaryDirectory(prefix="quiesce-e2e-") as folder,
            ready_guest(Path(folder)) as guest,
        ):
            assert guest.run("ls /root") == ""
            guest.run("echo mine > /root/mine; sync")


def test_guest_hears_the_power_button_and_keeps_what_it_wrote(guest: LabGuest) -> None:
    guest.run("echo kept > /root/kept")
    faults.power_off(guest)
    assert not guest.running
    guest.start()
    assert guest.run("cat /root/kept") == "kept\n"


def test_persistent_bitmap_survives_a_clean_end_of_qemu(guest: LabGuest) -> None:
    bitmap = {"node": "disk-vda", "name": "mark", "persistent": True}
    guest.qmp("block-dirty-bitmap-add", bitmap)
    guest.stop()
    guest.start(wait_for_agent=False)
    nodes = guest.qmp("query-named-block-nodes", {"flat": True})
    assert isinstance(nodes, list)
    (node,) = (node for node in nodes if node["node-name"] == "disk-vda")
    assert [(kept["name"], kept["persistent"]) for kept in node["dirty-bitmaps"]] == [
        ("mark", True)
    ]


def test_reset_guest_boots_anew_in_the_same_qemu(guest: LabGuest) -> None:
    before, pid = guest.run("cat /proc/sys/kernel/random/boot_id"), guest.pid
    faults.reset(guest)
    guest.wait_for_agent()
    assert guest.run("cat /proc/sys/kernel/random/boot_id") != before
    assert guest.pid == pid


def test_hung_agent_has_its_port_open_and_comes_back(guest: LabGuest) -> None:
    faults.hang_agent(guest, seconds=4.0)
    agent = QemuGuestAgent(guest.qga_socket)
    with pytest.raises(AgentFailure) as hung:
        agent.sync(seconds=1.0)
    agent.disconnect()
    assert hung.value.code == "agent.hung"
    guest.wait_for_agent(20.0)


def test_stopped_agent_stays_away(guest: LabGuest) -> None:
    faults.stop_agent(guest)
    agent = QemuGuestAgent(guest.qga_socket)
    with pytest.raises(AgentFailure) as gone:
        agent.sync(seconds=2.0)
    agent.disconnect()
    assert gone.value.code == "agent.not-running"


def test_paused_guest_goes_on_where_it_was(guest: LabGuest) -> None:
    faults.pause(guest)
    status = guest.qmp("query-status")
    assert isinstance(status, dict)
    assert status["status"] == "paused"
    faults.resume(guest)
    assert guest.run("echo on") == "on\n"


def test_failed_command_tells_its_own_words(guest: LabGuest) -> None:
    with pytest.raises(LabFailure) as failed:
        guest.run("echo broken >&2; exit 3")
    assert failed.value.code == "lab.command-failed"
    assert "broken" in failed.value.evidence[0].raw


def test_guest_of_its_own_is_the_only_one_until_it_ends(guest: LabGuest) -> None:
    with (cache_folder() / "guest.lock").open("ab") as turn:
        with pytest.raises(BlockingIOError):
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        faults.kill_qemu(guest)
        wait_for(lambda: _takes(turn.fileno()), 60.0)


def _takes(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


STARTER = """
import sys, time
from pathlib import Path
from quiesce.lab.state import Layout, ready_guest
guest = ready_guest(Path(sys.argv[1]), tied=sys.argv[2] == "tied")
guest.start()
print(guest.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("tie", ["tied", "loose"])
def test_tied_guest_dies_with_its_starter_and_a_loose_one_stays(
    guest_folder: Path, tie: str
) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(guest_folder), tie], stdout=subprocess.PIPE
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    try:
        assert process_lives(pid)
        starter.kill()
        starter.wait()
        if tie == "tied":
            wait_for(lambda: not process_lives(pid), 60.0)
        else:
            agent = QemuGuestAgent(guest_folder / "qga.sock")
            agent.sync()
            agent.disconnect()
    finally:
        starter.kill()
        if process_lives(pid):
            os.kill(pid, signal.SIGKILL)


def test_saved_disks_are_written_by_nobody(three_disk_guest: LabGuest) -> None:
    info = three_disk_guest.qmp("query-block")
    assert isinstance(info, list)
    backing = [Path(device["inserted"]["image"]["backing-filename"]) for device in info]
    assert len(backing) == len(Layout.THREE_DISKS.mounts) == 3
    assert all(path.stat().st_mode & 0o222 == 0 for path in backing)
