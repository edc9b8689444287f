"""A VM that no process runs, and one whose process cannot be asked."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from bare_qemu import KIB, MIB, BareQemu, dirty_ranges, image_bitmaps, make_image, read

from quiesce.hypervisor import qmp
from quiesce.hypervisor.qemu import QemuVm
from quiesce.model.failure import Failure
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import Route, SnapshotSession
from quiesce.model.vm import PowerState, VmAddress

T1, T2, T3 = "000000000001", "000000000002", "000000000003"
Bare = Callable[..., BareQemu]


def point(vm: QemuVm, task: str, bases: dict[str, list[str]] | None = None) -> SnapshotSession:
    vm.prepare(task, bases=bases or {}, options=SnapshotOptions())
    vm.take(task)
    return vm.open(task)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # empty for one not yet reaped
    except OSError:
        return False


@pytest.fixture
def powered_off(bare: Bare) -> BareQemu:
    """Two disks with data; the VM was shut down in good order."""
    qemu = bare({"vda": "qcow2", "vdb": "raw"}).start()
    qemu.write("vda", 0, MIB, 0x11)
    qemu.write("vdb", 0, MIB, 0x22)
    qemu.quit()
    return qemu


def test_a_powered_off_vm_is_read_from_its_images(powered_off: BareQemu) -> None:
    vm = powered_off.vm()
    state = vm.state()
    assert state.power is PowerState.OFF
    assert [(d.name, d.format, d.size_bytes) for d in state.disks] == [
        ("vda", "qcow2", 64 * MIB),
        ("vdb", "raw", 64 * MIB),
    ]
    session = point(vm, T1)
    assert session.route is Route.OFFLINE
    assert [set(read(disk, 0, MIB)) for disk in session.disks] == [{0x11}, {0x22}]
    for disk in session.disks:
        assert disk.generation == ""
        assert disk.full_read_reason.startswith("offline")
    assert point(vm, T1) == session
    assert vm.leftovers() == (T1,)
    vm.release(T1, committed=True)
    assert vm.leftovers() == ()
    assert not (powered_off.folder / "scratch" / T1).exists()
    vm.release(T1, committed=True)


def test_releasing_an_offline_session_ends_its_processes(powered_off: BareQemu) -> None:
    vm = powered_off.vm()
    point(vm, T1)
    pids = [int(p.read_text()) for p in (powered_off.folder / "scratch" / T1).glob("*.pid")]
    assert [runs(pid) for pid in pids] == [True, True]
    vm.release(T1, committed=False)
    for pid in pids:
        assert not runs(pid)
    powered_off.start()
    powered_off.write("vda", 0, MIB, 0x33)


def test_an_offline_point_leaves_the_chain_of_bitmaps_alone(bare: Bare) -> None:
    qemu = bare().start()
    vm = qemu.vm()
    base = point(vm, T1).disks[0].generation
    vm.release(T1, committed=True)
    qemu.write("vda", 0, 64 * KIB, 0x11)
    qemu.quit()
    point(vm, T2, {"vda": [base]})
    vm.release(T2, committed=True)
    assert [bitmap["name"] for bitmap in image_bitmaps(qemu.disks["vda"][0])] == [base]
    qemu.start()
    assert dirty_ranges(point(vm, T3, {"vda": [base]}).disks[0]) == [(0, 64 * KIB)]


def test_a_raw_disk_that_its_guest_dressed_up_as_qcow2_is_read_as_raw(
    powered_off: BareQemu, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"S" * MIB)
    forged = make_image(tmp_path / "forged", MIB, options=f"backing_file={secret},backing_fmt=raw")
    raw = powered_off.disks["vdb"][0]
    with raw.open("r+b") as start:
        start.write(forged.read_bytes())
    address = replace(powered_off.address, formats=(("vda", "qcow2"), ("vdb", "raw")))
    vm = QemuVm(address, powered_off.folder / "scratch")
    disk = point(vm, T1).disks[1]
    assert (disk.format, disk.size_bytes) == ("raw", 64 * MIB)
    assert read(disk, 0, 4) == b"QFI\xfb"
    vm.release(T1, committed=False)


@pytest.mark.parametrize(
    "borrowing", ["backing_file={secret},backing_fmt=raw", "data_file={secret},data_file_raw=on"]
)
def test_an_image_of_unknown_format_that_names_files_of_the_host_is_refused(
    powered_off: BareQemu, tmp_path: Path, borrowing: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"S" * MIB)
    forged = make_image(tmp_path / "forged", MIB, options=borrowing.format(secret=secret))
    raw = powered_off.disks["vdb"][0]
    with raw.open("r+b") as start:
        start.write(forged.read_bytes())
    with pytest.raises(Failure) as refused:
        powered_off.vm().prepare(T1, bases={}, options=SnapshotOptions())
    assert refused.value.code == "vm.format-unknown"
    assert str(secret) in refused.value.evidence[0].raw


def test_a_second_offline_task_is_refused(powered_off: BareQemu) -> None:
    point(powered_off.vm(), T1)
    with pytest.raises(Failure) as refused:
        point(powered_off.vm(), T2)
    assert refused.value.code == "snapshot.busy"
    powered_off.vm().release(T1, committed=False)


def test_an_offline_reader_that_died_is_noticed(powered_off: BareQemu) -> None:
    vm = powered_off.vm()
    point(vm, T1)
    pid = int((powered_off.folder / "scratch" / T1 / "nbd0.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(Failure) as lost:
        vm.open(T1)
    assert lost.value.code == "snapshot.session-lost"
    vm.release(T1, committed=False)
    assert vm.leftovers() == ()


def test_a_running_vm_whose_monitor_socket_is_gone_is_not_taken_for_powered_off(
    bare: Bare,
) -> None:
    qemu = bare().start()
    qemu.socket.unlink()
    with pytest.raises(Failure) as unreachable:
        qemu.vm().state()
    assert unreachable.value.code == "vm.unreachable"
    assert str(qemu.disks["vda"][0]) in unreachable.value.remedy


def test_a_vm_that_starts_between_prepare_and_take_is_not_read(powered_off: BareQemu) -> None:
    vm = powered_off.vm()
    vm.prepare(T1, bases={}, options=SnapshotOptions())
    powered_off.start()
    with pytest.raises(Failure) as refused:
        vm.take(T1)
    assert refused.value.code == "vm.unreachable"
    vm.release(T1, committed=False)
    powered_off.write("vda", 0, MIB, 0x33)


def test_no_process_and_no_images_is_not_found(tmp_path: Path) -> None:
    nowhere = QemuVm(VmAddress("nowhere", tmp_path / "no.sock"), tmp_path / "scratch")
    with pytest.raises(Failure) as missing:
        nowhere.state()
    assert missing.value.code == "vm.not-found"
    with pytest.raises(Failure) as missing:
        nowhere.prepare(T1, bases={}, options=SnapshotOptions())
    assert missing.value.code == "vm.not-found"
    assert nowhere.leftovers() == ()
    nowhere.release(T1, committed=False)


def test_a_monitor_that_somebody_else_holds_is_unreachable_and_says_why(
    bare: Bare, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = bare().start()
    monkeypatch.setattr(qmp.Monitor.__init__, "__kwdefaults__", {"connect_seconds": 0.3})
    with qmp.Monitor(qemu.socket), pytest.raises(Failure) as busy:
        qemu.vm().state()
    assert busy.value.code == "vm.unreachable"
    assert busy.value.retryable
    assert "QMP socket of its own" in busy.value.remedy
    assert qemu.vm().state().power is PowerState.RUNNING


def test_something_that_does_not_speak_qmp_is_unreachable(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as liar:
        liar.bind(str(tmp_path / "qmp.sock"))
        liar.listen()
        vm = QemuVm(VmAddress("liar", tmp_path / "qmp.sock"), tmp_path / "scratch")

        def answer() -> None:
            client, _ = liar.accept()
            with client:
                client.sendall(b"220 smtp ready\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Failure) as refused:
            vm.state()
        thread.join(5)
    assert refused.value.code == "vm.unreachable"


def test_a_guest_that_powered_itself_off_is_read_while_its_process_stays(bare: Bare) -> None:
    # Without an operating system nobody powers off; a reset that QEMU takes for one does.
    qemu = bare(extra=("-action", "reboot=shutdown,shutdown=pause")).start()
    qemu.write("vda", 0, MIB, 0x11)
    vm = qemu.vm()
    during = point(vm, T1)
    qemu.qmp("system_reset")
    deadline = time.monotonic() + 60
    while vm.state().power is not PowerState.SHUT_DOWN and time.monotonic() < deadline:
        time.sleep(0.01)
    assert vm.state().power is PowerState.SHUT_DOWN
    assert set(read(during.disks[0], 0, MIB)) == {0x11}
    vm.release(T1, committed=True)

    after = point(vm, T2, {"vda": [during.disks[0].generation]})
    assert after.route is Route.HOST
    assert dirty_ranges(after.disks[0]) == []
    vm.release(T2, committed=True)
    assert vm.state().power is PowerState.SHUT_DOWN


def test_a_scratch_folder_that_cannot_be_made_is_said(bare: Bare) -> None:
    qemu = bare().start()
    before = qemu.everything()
    in_the_way = qemu.folder / "file"
    in_the_way.touch()
    with pytest.raises(Failure) as refused:
        point(qemu.vm(in_the_way), T1)
    assert refused.value.code == "storage.scratch-unusable"
    with pytest.raises(Failure) as too_long:
        point(qemu.vm(qemu.folder / ("x" * 120)), T1)
    assert too_long.value.code == "storage.scratch-path-too-long"
    assert qemu.everything() == before
