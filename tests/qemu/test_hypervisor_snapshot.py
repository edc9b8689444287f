"""A point in time of a running VM, as a reader of the session sees it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bare_qemu import KIB, MIB, BareQemu, dirty_ranges, make_image, read

from quiesce.hypervisor.qemu import QemuVm
from quiesce.model.failure import Failure
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import Route, SnapshotSession
from quiesce.model.vm import PowerState

T1, T2, T3 = "000000000001", "000000000002", "000000000003"
NOBODY = 65534
Bare = Callable[..., BareQemu]


def point(vm: QemuVm, task: str, bases: dict[str, list[str]] | None = None) -> SnapshotSession:
    vm.prepare(task, bases=bases or {}, options=SnapshotOptions())
    vm.take(task)
    return vm.open(task)


def generations(session: SnapshotSession) -> dict[str, list[str]]:
    return {disk.name: [disk.generation] for disk in session.disks}


def test_the_reader_sees_the_instant_while_the_guest_writes_on(bare: Bare) -> None:
    qemu = bare().start()
    qemu.write("vda", 0, 4 * MIB, 0x11)
    before = datetime.now(UTC)
    session = point(qemu.vm(), T1)
    qemu.write("vda", 1 * MIB, 2 * MIB, 0x22)
    qemu.write("vda", 32 * MIB, 1 * MIB, 0x33)

    [disk] = session.disks
    assert read(disk, 0, 4 * MIB) == b"\x11" * (4 * MIB)
    assert read(disk, 32 * MIB, 1 * MIB) == bytes(MIB)
    assert session.route is Route.HOST
    assert before <= session.taken_at <= before + timedelta(seconds=10)
    assert disk.full_read_reason.startswith("first point")
    assert (disk.size_bytes, disk.format, disk.dirty_bitmap) == (64 * MIB, "qcow2", None)
    assert qemu.status == "running"


def test_three_disks_share_one_instant(bare: Bare) -> None:
    qemu = bare({"vda": "qcow2", "vdb": "raw", "vdc": "qcow2"}).start()
    for name in qemu.disks:
        qemu.write(name, 0, MIB, 0x11)
    session = point(qemu.vm(), T1)
    for name in qemu.disks:
        qemu.write(name, 0, MIB, 0x22)
    assert {disk.name: set(read(disk, 0, MIB)) for disk in session.disks} == {
        "vda": {0x11},
        "vdb": {0x11},
        "vdc": {0x11},
    }


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_an_incremental_shows_exactly_what_changed_since_the_committed_point(
    bare: Bare, kind: str
) -> None:
    qemu = bare({"vda": kind}).start()
    vm = qemu.vm()
    qemu.write("vda", 0, 8 * MIB, 0x11)
    first = point(vm, T1)
    qemu.write("vda", 128 * KIB, 64 * KIB, 0x22)  # after the first instant: belongs to the second
    vm.release(T1, committed=True)
    qemu.write("vda", 4 * MIB, 192 * KIB, 0x33)
    second = point(vm, T2, generations(first))
    qemu.write("vda", 6 * MIB, 64 * KIB, 0x44)  # after the second instant

    [disk] = second.disks
    assert disk.base_generation == first.disks[0].generation
    assert disk.full_read_reason == ""
    assert dirty_ranges(disk) == [(128 * KIB, 64 * KIB), (4 * MIB, 192 * KIB)]
    assert read(disk, 128 * KIB, 64 * KIB) == b"\x22" * (64 * KIB)
    vm.release(T2, committed=True)
    assert qemu.bitmaps() == {"node0": [disk.generation]}


def test_a_point_that_was_not_committed_loses_no_change(bare: Bare) -> None:
    qemu = bare().start()
    vm = qemu.vm()
    first = point(vm, T1)
    vm.release(T1, committed=True)
    qemu.write("vda", 0, 64 * KIB, 0x11)
    point(vm, T2, generations(first))
    qemu.write("vda", 1 * MIB, 64 * KIB, 0x22)
    vm.release(T2, committed=False)
    qemu.write("vda", 2 * MIB, 64 * KIB, 0x33)
    third = point(vm, T3, generations(first))
    assert dirty_ranges(third.disks[0]) == [
        (0, 64 * KIB),
        (1 * MIB, 64 * KIB),
        (2 * MIB, 64 * KIB),
    ]


def test_release_leaves_qemu_as_it_was(bare: Bare) -> None:
    qemu = bare({"vda": "qcow2", "vdb": "raw"}).start()
    vm = qemu.vm()
    before = qemu.everything()
    point(vm, T1)
    assert vm.leftovers() == (T1,)
    vm.release(T1, committed=False)
    assert qemu.everything() == before
    assert vm.leftovers() == ()
    assert list((qemu.folder / "scratch").iterdir()) == []
    vm.release(T1, committed=False)


def test_the_same_call_again_gives_the_same_point(bare: Bare) -> None:
    qemu = bare().start()
    qemu.write("vda", 0, MIB, 0x11)
    session = point(qemu.vm(), T1)
    qemu.write("vda", 0, MIB, 0x22)
    assert point(qemu.vm(), T1) == session
    assert set(read(session.disks[0], 0, MIB)) == {0x11}


def test_two_tasks_at_once_are_refused_and_the_first_one_lives_on(bare: Bare) -> None:
    qemu = bare().start()
    qemu.write("vda", 0, MIB, 0x11)
    session = point(qemu.vm(), T1)
    with pytest.raises(Failure) as refused:
        point(qemu.vm(), T2)
    assert refused.value.code == "snapshot.busy"
    assert refused.value.retryable
    assert set(read(session.disks[0], 0, MIB)) == {0x11}
    assert qemu.vm().leftovers() == (T1,)


def test_somebody_elses_nbd_server_is_left_alone(bare: Bare) -> None:
    qemu = bare().start()
    foreign = {"type": "unix", "data": {"path": str(qemu.folder / "foreign.sock")}}
    qemu.qmp("nbd-server-start", addr=foreign)
    with pytest.raises(Failure) as refused:
        point(qemu.vm(), T1)
    assert refused.value.code == "hypervisor.nbd-server-busy"
    assert qemu.vm().leftovers() == ()
    assert qemu.everything()["nbd server"] is True


def test_a_full_scratch_breaks_the_snapshot_and_never_a_guest_write(bare: Bare) -> None:
    qemu = bare({"vda": "qcow2", "vdb": "raw"}).start()
    vm = qemu.vm()
    for name in qemu.disks:
        qemu.write(name, 0, 32 * MIB, 0x11)
    vm.prepare(T1, bases={}, options=SnapshotOptions(scratch_bytes=8 * MIB))
    vm.take(T1)
    session = vm.open(T1)
    for disk in session.disks:
        assert set(read(disk, 0, MIB)) == {0x11}
        for offset in range(0, 32 * MIB, MIB):
            qemu.write(disk.name, offset, MIB, 0x22)
        assert "read 33554432/33554432" in qemu.io(disk.name, f"read -P {0x22} 0 {32 * MIB}")
        with pytest.raises(Failure) as broken:
            read(disk, 0, MIB)
        assert broken.value.code == "storage.scratch-full"
    used = sum(f.stat().st_blocks * 512 for f in (qemu.folder / "scratch").rglob("*.qcow2"))
    assert used <= 8 * MIB
    assert qemu.status == "running"
    vm.release(T1, committed=False)
    assert vm.leftovers() == ()


def test_a_paused_vm_stays_paused(bare: Bare) -> None:
    qemu = bare().start(paused=True)
    vm = qemu.vm()
    assert vm.state().power is PowerState.PAUSED
    point(vm, T1)
    vm.release(T1, committed=True)
    assert qemu.status == "prelaunch"


def test_a_reset_of_the_guest_does_not_touch_the_session(bare: Bare) -> None:
    qemu = bare().start()
    qemu.write("vda", 0, MIB, 0x11)
    session = point(qemu.vm(), T1)
    qemu.qmp("system_reset")
    qemu.write("vda", 0, MIB, 0x22)
    assert set(read(session.disks[0], 0, MIB)) == {0x11}
    qemu.vm().release(T1, committed=True)


def test_a_killed_qemu_is_told_to_the_reader_and_released(bare: Bare) -> None:
    qemu = bare().start()
    vm = qemu.vm()
    session = point(vm, T1)
    qemu.kill()
    with pytest.raises(Failure) as gone:
        read(session.disks[0], 0, MIB)
    assert gone.value.code == "vm.gone"
    with pytest.raises(Failure) as lost:
        vm.open(T1)
    assert lost.value.code == "vm.gone"
    assert vm.leftovers() == (T1,)
    vm.release(T1, committed=False)
    assert vm.leftovers() == ()
    assert not (qemu.folder / "scratch" / T1).exists()


def test_a_session_ends_with_the_process_that_held_it(bare: Bare) -> None:
    qemu = bare().start()
    vm = qemu.vm()
    point(vm, T1)
    qemu.kill()
    qemu.start()
    with pytest.raises(Failure) as lost:
        vm.open(T1)
    assert lost.value.code == "snapshot.session-lost"
    vm.release(T1, committed=False)
    assert vm.leftovers() == ()


def test_an_iothread_disk_is_refused_where_reading_it_would_crash_the_vm(bare: Bare) -> None:
    qemu = bare(extra=("-object", "iothread,id=io0"))
    data = qemu.folder / "data.img"
    data.touch()
    data.open("r+b").truncate(MIB)
    qemu.extra += (
        "-blockdev",
        f"driver=raw,node-name=data,file.driver=file,file.filename={data}",
        "-device",
        "virtio-scsi-pci,id=scsi0,iothread=io0",
        "-device",
        "scsi-hd,id=sda,drive=data,bus=scsi0.0",
    )
    qemu.start()
    with pytest.raises(Failure) as refused:
        point(qemu.vm(), T1)
    assert refused.value.code == "hypervisor.iothread-unsafe"
    assert qemu.vm().leftovers() == ()


def test_a_bad_task_id_is_refused(bare: Bare) -> None:
    qemu = bare().start()
    with pytest.raises(Failure) as refused:
        point(qemu.vm(), "../../etc")
    assert refused.value.code == "snapshot.bad-task-id"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a QEMU that becomes nobody")
def test_a_qemu_that_runs_as_another_user_can_use_its_scratch() -> None:
    with tempfile.TemporaryDirectory(prefix="quiesce-runas-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        image = make_image(folder / "vda.img", 8 * MIB)
        os.chown(image, NOBODY, -1)
        qemu = BareQemu(folder, {"vda": (image, "qcow2")}, ("-runas", "nobody")).start()
        try:
            qemu.write("vda", 0, MIB, 0x11)
            session = point(qemu.vm(), T1)
            assert set(read(session.disks[0], 0, MIB)) == {0x11}
            assert session.disks[0].nbd_socket.parent.stat().st_mode & 0o777 == 0o700
            qemu.vm().release(T1, committed=True)
        finally:
            qemu.kill()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a QEMU that becomes nobody")
def test_a_scratch_folder_that_qemus_user_cannot_enter_is_named_with_what_mends_it() -> None:
    with tempfile.TemporaryDirectory(prefix="quiesce-runas-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        image = make_image(folder / "vda.img", 8 * MIB)
        os.chown(image, NOBODY, -1)
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        qemu = BareQemu(folder, {"vda": (image, "qcow2")}, ("-runas", "nobody")).start()
        try:
            with pytest.raises(Failure) as refused:
                point(qemu.vm(closed), T1)
            assert refused.value.code == "storage.scratch-unusable"
            assert f"user {NOBODY}" in refused.value.message
            assert "install -d -m 0711" in refused.value.remedy
            assert list(closed.iterdir()) == []
            closed.chmod(0o711)
            point(qemu.vm(closed), T1)
            qemu.vm(closed).release(T1, committed=False)
        finally:
            qemu.kill()
