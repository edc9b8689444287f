"""Misfortunes of the VM and of its server during a backup, on real guests.

Whatever happens: the guest's writes go on, QEMU holds nothing of ours afterwards, no point is
half, the reason is named, and the next backup works.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from quiesce_server import (
    VM,
    QuiesceServer,
    held_by_qemu,
    new_server,
    nothing_is_left,
    told,
    wait_for,
)
from test_backup_chain import put_scripts, read_independently, restored_hashes, write

from quiesce.lab import faults
from quiesce.lab.guest import LabGuest
from quiesce.lab.ledger import acknowledged, start_ledger

MIB = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[QuiesceServer]:
    """One for all tests that let it live."""
    with new_server() as server:
        yield server


@pytest.fixture
def vm(server: QuiesceServer, guest: LabGuest, request: pytest.FixtureRequest) -> Iterator[str]:
    """The test's own guest, known to the server under a name of the test's own."""
    name = f"{VM} {request.node.name}"[:128]
    server.add(guest, name)
    yield name
    for job in server.get("jobs"):
        if not job["ended_at"]:
            server.post("jobs", job["id"], "cancel")
            server.end_of(job["id"])
    server.call("DELETE", "vms", name)


def points_of(server: QuiesceServer, vm: str) -> list[str]:
    return [point["id"] for point in server.points() if point["vm"] == vm]


def transferring(server: QuiesceServer, job_id: str) -> None:
    """Wait until data of the job is on its way."""

    def moving() -> bool:
        job = server.job(job_id)
        assert not job["ended_at"], told(job)
        return job["tasks"][1]["progress"]["done_bytes"] > 0

    wait_for("data to move", moving)


def test_a_server_killed_during_the_transfer_goes_on_with_the_same_point(
    guest: LabGuest, tmp_path: Path
) -> None:
    with new_server() as server:
        server.add(guest)
        before = held_by_qemu(guest)
        start_ledger(guest)
        job_id = server.begin()
        transferring(server, job_id)
        server.kill()
        wanted = read_independently(server.session(guest, job_id))
        write(guest, "/root/meanwhile", 4)

        server.start()
        job = server.end_of(job_id)
        point = server.point_of(job)
        assert any("during the transfer; it goes on" in line["text"] for line in job["log"])
        assert [point["id"] for point in server.points()] == [job["point_id"]]
        assert restored_hashes(server, point["id"], tmp_path / "restored") == wanted
        nothing_is_left(server, guest, before)
        assert server.cli("vault", "verify", "--mode", "chunks").returncode == 0


def test_a_backup_can_be_cancelled_watched_and_left_and_is_never_run_twice_at_once(
    server: QuiesceServer, guest: LabGuest, vm: str
) -> None:
    before = held_by_qemu(guest)
    put_scripts(guest, pre="sleep 3; echo pre >> /run/order", post="echo post >> /run/order")

    # Somebody who watches goes away, another one wants the same at the same time.
    watching = server.start_cli("backup", vm, "--wait")
    job_id = wait_for("the job", lambda: server.get("vms", vm)["active_job"] or None)
    second = server.cli("backup", vm)
    assert second.returncode == 6
    assert "policy.in-progress" in second.stderr
    assert server.call("POST", "vms", vm, "backup").status_code == 409
    watching.send_signal(signal.SIGINT)
    said, _ = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert f"quiesce job cancel {job_id}" in said

    # Cancelled in the task Take snapshot: the guest's session is ended as always.
    assert server.cli("job", "cancel", job_id).returncode == 0
    job = server.end_of(job_id)
    assert job["status"] == "Cancelled", told(job)
    assert guest.run("cat /run/order").split() == ["pre", "post"]
    nothing_is_left(server, guest, before)

    # Cancelled in the task Transfer data to vault.
    put_scripts(guest, pre="true", post="true")
    with server.stuck_in_transfer(guest, vm) as job_id:
        pass
    server.post("jobs", job_id, "cancel")
    job = server.end_of(job_id)
    assert job["status"] == "Cancelled", told(job)
    nothing_is_left(server, guest, before)

    assert points_of(server, vm) == []
    server.point_of(server.backup(vm))


@pytest.mark.parametrize("misfortune", ["stopped", "hung", "no socket"])
def test_without_its_agent_a_vm_gets_a_crash_consistent_point_that_says_why(
    server: QuiesceServer, guest: LabGuest, vm: str, misfortune: str
) -> None:
    before = held_by_qemu(guest)
    start_ledger(guest)
    if misfortune == "stopped":
        faults.stop_agent(guest)
        code = "agent.not-running"
    elif misfortune == "hung":
        faults.hang_agent(guest, seconds=25)
        code = "agent.hung"
    else:
        guest.qga_socket.rename(guest.folder / "elsewhere")
        code = "agent.channel-missing"
    ended = server.cli("backup", vm, "--wait")
    assert ended.returncode == 4, ended.stdout + ended.stderr
    assert "Completed with warning" in ended.stdout
    assert code in ended.stdout
    [point] = points_of(server, vm)
    consistency = server.get("points", point)["consistency"]
    assert consistency["level"] == "crash"
    assert code in consistency["reason"]
    assert held_by_qemu(guest) == before
    assert list(server.scratch.iterdir()) == []
    if misfortune != "stopped":
        # Nothing was lost by it: the next point is whole again, and incremental.
        if misfortune == "no socket":
            (guest.folder / "elsewhere").rename(guest.qga_socket)
        guest.wait_for_agent(60)
        again = server.point_of(server.backup(vm))
        assert again["consistency"]["level"] == "file-system"
        assert again["disks"][0]["incremental"]


def test_a_qemu_killed_during_the_transfer_costs_this_point_and_says_so(
    server: QuiesceServer, guest: LabGuest, vm: str
) -> None:
    with server.stuck_in_transfer(guest, vm) as job_id:
        faults.kill_qemu(guest)
    job = server.end_of(job_id)
    assert job["tasks"][1]["status"] == "Failed", told(job)
    assert job["failure"]["code"] == "vm.gone", told(job)
    assert points_of(server, vm) == []
    assert list(server.scratch.iterdir()) == []

    # Its disks are still there, and the VM is off by all evidence: an offline point.
    point = server.get("points", server.backup(vm)["point_id"])
    assert point["consistency"]["level"] == "offline"
    assert list(server.scratch.iterdir()) == []


def test_a_guest_reset_during_the_transfer_loses_nothing_of_the_point(
    server: QuiesceServer, guest: LabGuest, vm: str, tmp_path: Path
) -> None:
    before = held_by_qemu(guest)
    with server.stuck_in_transfer(guest, vm) as job_id:
        wanted = read_independently(server.session(guest, job_id))
    # Not while the server stands still: QEMU resets a guest once all reads are answered, and a
    # reader that takes no answers holds it up.
    faults.reset(guest)
    assert not server.job(job_id)["ended_at"]
    guest.wait_for_agent()
    point = server.point_of(server.end_of(job_id))
    assert restored_hashes(server, point["id"], tmp_path / "restored") == wanted
    nothing_is_left(server, guest, before)


def test_a_vm_that_is_powered_off_between_two_backups_gets_an_offline_point(
    server: QuiesceServer, guest: LabGuest, vm: str
) -> None:
    server.point_of(server.backup(vm))
    write(guest, "/root/last", 2)
    faults.power_off(guest)
    point = server.point_of(server.backup(vm))
    assert point["consistency"]["level"] == "offline"
    assert list(server.scratch.iterdir()) == []
    # Started again, it goes on from where it was: only what changed since its own last point.
    guest.start()
    point = server.point_of(server.backup(vm))
    assert point["consistency"]["level"] == "file-system"
    assert point["disks"][0]["incremental"], point["disks"]


@pytest.mark.long
def test_a_running_vm_whose_monitor_socket_was_removed_is_not_taken_for_powered_off(
    server: QuiesceServer, guest: LabGuest, vm: str
) -> None:
    start_ledger(guest)
    server.point_of(server.backup(vm))
    faults.remove_qmp_socket(guest)
    ended = server.cli("backup", vm, "--wait")
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "vm.unreachable" in ended.stdout + ended.stderr
    assert len(points_of(server, vm)) == 1
    records = acknowledged(guest).records
    wait_for("the ledger to go on", lambda: acknowledged(guest).records > records)


def test_a_guest_that_writes_more_than_the_scratch_holds_is_not_hurt_and_the_job_says_so(
    server: QuiesceServer, guest: LabGuest, vm: str
) -> None:
    server.protect(vm, snapshot={"scratch_bytes": 4 * MIB})
    before = held_by_qemu(guest)
    write(guest, "/root/data", 32)
    start_ledger(guest)
    with server.stuck_in_transfer(guest, vm) as job_id:
        write(guest, "/root/data", 32)
        write(guest, "/root/more", 32)
    job = server.end_of(job_id)
    assert job["tasks"][1]["status"] == "Failed", told(job)
    assert job["failure"]["code"] == "storage.scratch-full", told(job)
    assert points_of(server, vm) == []
    nothing_is_left(server, guest, before)
    assert acknowledged(guest).worst_write_ms < 10_000
    assert guest.run("dmesg | grep -ci 'i/o error' || true").strip() == "0"

    server.protect(vm, snapshot={"scratch_bytes": 0})
    server.point_of(server.backup(vm))
    nothing_is_left(server, guest, before)


def test_names_of_vms_that_no_file_could_have_are_no_danger_and_some_are_refused(
    server: QuiesceServer, guest: LabGuest
) -> None:
    strange = "..$(reboot) `id` 'x' \"y\" ☃ — " + "n" * 95
    server.add(guest, strange)
    point = server.point_of(server.backup(strange))
    assert point["vm"] == strange
    qmp = str(guest.qmp_socket)
    for refused in ("a/b", "n" * 300):
        ended = server.cli("vm", "add", refused, "--qmp", qmp)
        assert ended.returncode == 2
        assert "input." in ended.stderr
