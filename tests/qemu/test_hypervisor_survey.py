"""What a real QEMU shows to whoever searches for the cause of a failure, and that looking at it
changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from bare_qemu import MIB, BareQemu

from quiesce.hypervisor.qemu import QemuVm
from quiesce.hypervisor.qmp import Monitor
from quiesce.model.failure import VmFailure
from quiesce.model.policy import SnapshotOptions
from quiesce.model.survey import PortState, Tracking, VmSurvey
from quiesce.model.vm import PowerState

T1, T2 = "000000000001", "000000000002"
USUAL = "org.qemu.guest_agent.0"
Bare = Callable[..., BareQemu]


def surveyed(
    qemu: BareQemu,
    *,
    socket: Path | None = None,
    bases: Mapping[str, Sequence[str]] | None = None,
    active: Collection[str] = (),
) -> VmSurvey:
    vm = QemuVm(replace(qemu.address, qga_socket=socket), qemu.folder / "scratch")
    return vm.survey(bases=bases or {}, active=active)


def agent_port(socket: Path, device: str) -> tuple[str, ...]:
    return (
        "-device", "virtio-serial",
        "-chardev", f"socket,id=channel0,path={socket},server=on,wait=off",
        "-device", device,
    )  # fmt: skip


def committed_point(vm: QemuVm, task: str) -> str:
    vm.prepare(task, bases={}, options=SnapshotOptions())
    vm.take(task)
    generation = vm.open(task).disks[0].generation
    vm.release(task, committed=True)
    return generation


@pytest.mark.parametrize(
    ("device", "present"),
    [
        (f"virtserialport,chardev=channel0,name={USUAL}", True),
        (f"virtserialport,chardev=channel0,name={USUAL},id=agent", True),
        ("virtserialport,chardev=channel0,name=org.example.agent", True),
        ("isa-serial,chardev=channel0", True),
    ],
)
def test_the_agents_port_is_there_under_any_name_and_of_any_kind(
    bare: Bare, tmp_path: Path, device: str, present: bool
) -> None:
    socket = tmp_path / "qga.sock"
    qemu = bare(extra=agent_port(socket, device)).start()
    seen = surveyed(qemu, socket=socket)
    assert seen.device is present
    expected = PortState.OPEN if device.startswith("isa") else PortState.CLOSED
    assert seen.port is expected, "a plain serial port is open for as long as it is there"


def test_a_vm_without_the_agents_port_has_none(bare: Bare, tmp_path: Path) -> None:
    qemu = bare().start()
    seen = surveyed(qemu, socket=tmp_path / "qga.sock")
    assert (seen.device, seen.port) == (False, PortState.MISSING)


def test_the_port_is_there_and_another_socket_than_ours_leads_to_it(
    bare: Bare, tmp_path: Path
) -> None:
    device = f"virtserialport,chardev=channel0,name={USUAL}"
    qemu = bare(extra=agent_port(tmp_path / "theirs.sock", device)).start()
    seen = surveyed(qemu, socket=tmp_path / "ours.sock")
    assert (seen.device, seen.port) == (True, PortState.MISSING)
    assert surveyed(qemu).port is None, "without a socket of ours there is nothing to look at"


def test_power_and_processors_are_told(bare: Bare) -> None:
    qemu = bare(extra=("-smp", "2")).start(paused=True)
    seen = surveyed(qemu)
    assert (seen.power, seen.status, seen.processors) == (PowerState.PAUSED, "prelaunch", 2)
    assert seen.process == (qemu.process.pid if qemu.process else 0)


def test_a_paused_vm_takes_no_processor_time(bare: Bare) -> None:
    qemu = bare().start(paused=True)
    percent = qemu.vm().processor_percent(surveyed(qemu))
    assert percent is not None
    assert 0.0 <= percent < 50.0


def test_a_process_that_has_ended_takes_no_figure(bare: Bare) -> None:
    qemu = bare().start()
    seen = surveyed(qemu)
    qemu.kill()
    assert qemu.vm().processor_percent(seen) is None
    assert qemu.vm().processor_percent(replace(seen, process=0)) is None


def test_tracking_is_good_first_missing_or_inconsistent(bare: Bare) -> None:
    qemu = bare().start()
    [fresh] = surveyed(qemu).disks
    assert (fresh.name, fresh.tracking, fresh.unsupported) == ("vda", Tracking.FIRST, "")
    base = committed_point(qemu.vm(), T1)
    bases = {"vda": [base]}
    [good] = surveyed(qemu, bases=bases).disks
    assert (good.tracking, good.reason, good.stale) == (Tracking.GOOD, "", ())

    qemu.quit()
    qemu.start()
    qemu.kill()
    qemu.start()
    [broken] = surveyed(qemu, bases=bases).disks
    assert broken.tracking is Tracking.INCONSISTENT
    assert base in broken.reason

    [lost] = surveyed(qemu, bases={"vda": [f"quiesce-{T2}-{64 * MIB:x}"]}).disks
    assert lost.tracking is Tracking.MISSING


def test_a_raw_disk_keeps_no_tracking_and_says_so(bare: Bare) -> None:
    qemu = bare({"vda": "qcow2", "vdb": "raw"}).start()
    by_name = {disk.name: disk for disk in surveyed(qemu).disks}
    assert by_name["vda"].unsupported == ""
    assert "raw" in by_name["vdb"].unsupported


def test_a_bitmap_of_no_point_is_stale_unless_its_job_is_active(bare: Bare) -> None:
    qemu = bare().start()
    base = committed_point(qemu.vm(), T1)
    [disk] = surveyed(qemu).disks
    assert disk.stale == (base,)
    [disk] = surveyed(qemu, active={T1}).disks
    assert disk.stale == ()
    [disk] = surveyed(qemu, bases={"vda": [base]}).disks
    assert disk.stale == ()


def test_an_open_session_is_told_by_its_task_also_once_the_vm_is_off(bare: Bare) -> None:
    qemu = bare().start()
    vm = qemu.vm()
    assert surveyed(qemu).sessions == ()
    vm.prepare(T1, bases={}, options=SnapshotOptions())
    vm.take(T1)
    assert surveyed(qemu).sessions == (T1,)
    qemu.kill()
    off = surveyed(qemu)
    assert (off.power, off.sessions, off.device) == (PowerState.OFF, (T1,), None)
    vm.release(T1, committed=False)
    assert surveyed(qemu).sessions == ()


def test_looking_resumes_nobody_and_changes_nothing(bare: Bare) -> None:
    qemu = bare().start()
    qemu.vm().prepare(T1, bases={}, options=SnapshotOptions())
    qemu.qmp("stop")
    before = qemu.qmp("query-named-block-nodes", flat=True), qemu.status
    assert surveyed(qemu).power is PowerState.PAUSED
    after = qemu.qmp("query-named-block-nodes", flat=True), qemu.status
    assert after == before
    qemu.vm().release(T1, committed=False)


def test_a_monitor_that_another_program_holds_is_given_up(bare: Bare) -> None:
    qemu = bare().start()
    with Monitor(qemu.socket), pytest.raises(VmFailure) as held:
        surveyed(qemu)
    assert held.value.code == "vm.unreachable"
