"""Guests whose agent, or who themselves, fall silent. Each test harms a guest of its own."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from quiesce.agent.extension import QgaGuest
from quiesce.agent.qga import QemuGuestAgent
from quiesce.hypervisor.qemu import QemuVm
from quiesce.lab import faults
from quiesce.lab.guest import LabGuest
from quiesce.lab.state import ready_guest
from quiesce.model.failure import AgentFailure, ExtensionFailure, Failure
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import FreezeReport
from quiesce.model.vm import VmAddress

pytestmark = pytest.mark.guest


@pytest.fixture
def vm() -> Iterator[LabGuest]:
    with tempfile.TemporaryDirectory(prefix="qe-") as folder, ready_guest(Path(folder)) as guest:
        yield guest


@pytest.fixture
def task() -> str:
    return str(uuid.uuid4())


def silence(vm: LabGuest, command: str) -> None:
    """Run `command` in the guest a moment after the agent has said that it started it."""
    agent = QemuGuestAgent(vm.qga_socket)
    agent.execute("sh", ["-c", f"(sleep 0.3; {command}) >/dev/null 2>&1 &"])
    agent.disconnect()
    time.sleep(1.5)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("pkill -STOP -x qemu-ga", "agent.hung"),
        ("systemctl stop qemu-guest-agent", "agent.not-running"),
    ],
)
def test_a_hung_agent_and_a_stopped_one_are_told_apart_in_bounded_time(
    vm: LabGuest, task: str, command: str, code: str
) -> None:
    silence(vm, command)
    began = time.monotonic()
    with pytest.raises(AgentFailure) as caught:
        QgaGuest(vm.qga_socket).prepare(task, SnapshotOptions())
    assert caught.value.code == code
    assert len(caught.value.evidence) == 3
    assert time.monotonic() - began < 30


def reached(vm: LabGuest) -> QgaGuest:
    """As the service reaches a guest: with QEMU's word for who has the port open."""
    address = VmAddress("lab", vm.qmp_socket, vm.qga_socket)
    qemu = QemuVm(address, vm.folder / "scratch")
    return QgaGuest(vm.qga_socket, frontend_open=qemu.agent_port_open)


def test_a_stopped_agent_is_told_at_once(vm: LabGuest, task: str) -> None:
    faults.stop_agent(vm)
    began = time.monotonic()
    with pytest.raises(AgentFailure) as caught:
        reached(vm).prepare(task, SnapshotOptions())
    seconds = time.monotonic() - began
    print(f"agent.not-running told after {seconds:.2f} s")
    assert caught.value.code == "agent.not-running"
    assert "the guest has not opened the port" in [fact.fact for fact in caught.value.evidence]
    assert seconds < 3.0, "it was told by the sync's end and not by the port"


def test_a_hung_agent_is_told_in_seconds(vm: LabGuest, task: str) -> None:
    faults.hang_agent(vm, seconds=20)
    began = time.monotonic()
    with pytest.raises(AgentFailure) as caught:
        reached(vm).prepare(task, SnapshotOptions())
    seconds = time.monotonic() - began
    print(f"agent.hung told after {seconds:.2f} s")
    assert caught.value.code == "agent.hung"
    assert "the guest has opened the port" in [fact.fact for fact in caught.value.evidence]
    assert seconds < 15


def test_a_guest_whose_agent_hangs_while_frozen_thaws_itself(vm: LabGuest, task: str) -> None:
    guest = QgaGuest(vm.qga_socket)
    guest.prepare(task, SnapshotOptions(hold_seconds=3.0))
    hang = "(sleep 1; pkill -STOP -x qemu-ga; sleep 10; pkill -CONT -x qemu-ga) >/dev/null 2>&1 &"
    guest._agent.execute("sh", ["-c", hang])
    guest.freeze(task)
    time.sleep(1.5)
    with pytest.raises(AgentFailure) as caught:
        guest.thaw(task)
    assert caught.value.code == "agent.hung"
    report = thaw_when_the_agent_goes_on(guest, task)
    assert not report.held
    assert max(mount.frozen_ms for mount in report.mounts) <= 5000
    guest.finish(task)


def thaw_when_the_agent_goes_on(guest: QgaGuest, task: str) -> FreezeReport:
    deadline = time.monotonic() + 40
    while True:
        try:
            return guest.thaw(task)
        except AgentFailure:
            assert time.monotonic() < deadline, "the agent stays silent"


def test_a_guest_whose_agent_is_restarted_while_frozen_is_thawed_by_request(
    vm: LabGuest, task: str
) -> None:
    guest = QgaGuest(vm.qga_socket)
    guest.prepare(task, SnapshotOptions(hold_seconds=10.0))
    restart = "(sleep 0.5; pkill -KILL -x qemu-ga) >/dev/null 2>&1 &"
    guest._agent.execute("sh", ["-c", restart])
    guest.freeze(task)
    time.sleep(2.0)
    report = guest.thaw(task)
    assert report.held
    guest.finish(task)


def test_an_agent_whose_journal_lies_on_the_frozen_disk_still_obeys(
    vm: LabGuest, task: str
) -> None:
    vm.run(
        "mkdir -p /var/log/journal; rm /etc/systemd/journald.conf.d/lab.conf; "
        "systemctl restart systemd-journald; journalctl --flush; "
        "test -e /var/log/journal/*/system.journal"
    )
    guest = QgaGuest(vm.qga_socket)
    guest.prepare(task, SnapshotOptions(hold_seconds=10.0))
    guest.freeze(task)
    with pytest.raises(ExtensionFailure, match="stands at “frozen”"):
        guest._sessions[task].wait(lambda seen: seen.phase.thawed, seconds=7.0)
    report = guest.thaw(task)
    assert report.held
    guest.finish(task)


def test_a_vm_that_dies_with_a_session_is_said_to_be_gone(vm: LabGuest, task: str) -> None:
    guest = QgaGuest(vm.qga_socket)
    guest.prepare(task, SnapshotOptions())
    vm.kill()
    with pytest.raises(Failure) as caught:
        guest.freeze(task)
    assert caught.value.code in ("agent.channel-lost", "agent.channel-missing")
