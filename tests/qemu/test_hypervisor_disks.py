"""Which disks a VM has, and what makes the next read of one of them a full one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from bare_qemu import KIB, MIB, BareQemu, data_ranges, dirty_ranges, image_bitmaps, make_image

from quiesce.hypervisor.qemu import QemuVm
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import SessionDisk, SnapshotSession
from quiesce.model.vm import PowerState

T1, T2, T3 = "000000000001", "000000000002", "000000000003"
Bare = Callable[..., BareQemu]


def committed_point(vm: QemuVm, task: str, bases: dict[str, list[str]] | None = None) -> str:
    """The generation of the first disk."""
    session = point(vm, task, bases)
    vm.release(task, committed=True)
    return session.disks[0].generation


def point(vm: QemuVm, task: str, bases: dict[str, list[str]] | None = None) -> SnapshotSession:
    vm.prepare(task, bases=bases or {}, options=SnapshotOptions())
    vm.take(task)
    return vm.open(task)


def only(session: SnapshotSession) -> SessionDisk:
    [disk] = session.disks
    return disk


def test_a_graceful_power_off_keeps_the_chain_of_a_qcow2_disk(bare: Bare) -> None:
    qemu = bare().start()
    base = committed_point(qemu.vm(), T1)
    qemu.write("vda", 0, 64 * KIB, 0x11)
    qemu.quit()
    qemu.start()
    qemu.write("vda", 1 * MIB, 64 * KIB, 0x22)
    disk = only(point(qemu.vm(), T2, {"vda": [base]}))
    assert dirty_ranges(disk) == [(0, 64 * KIB), (1 * MIB, 64 * KIB)]


def test_a_killed_qemu_costs_one_full_read_and_then_the_chain_starts_anew(bare: Bare) -> None:
    qemu = bare().start()
    base = committed_point(qemu.vm(), T1)
    qemu.quit()
    qemu.start()
    qemu.kill()
    qemu.start()
    assert qemu.bitmaps() == {"node0": [base]}

    disk = only(point(qemu.vm(), T2, {"vda": [base]}))
    assert disk.dirty_bitmap is None
    assert disk.full_read_reason.startswith("bitmap.inconsistent")
    qemu.vm().release(T2, committed=True)
    assert qemu.bitmaps() == {"node0": [disk.generation]}

    qemu.write("vda", 0, 64 * KIB, 0x11)
    healed = only(point(qemu.vm(), T3, {"vda": [disk.generation, base]}))
    assert healed.base_generation == disk.generation
    assert dirty_ranges(healed) == [(0, 64 * KIB)]


def test_an_inconsistent_bitmap_stays_until_a_point_is_committed(bare: Bare) -> None:
    qemu = bare().start()
    base = committed_point(qemu.vm(), T1)
    qemu.quit()
    qemu.start()
    qemu.kill()
    qemu.start()
    point(qemu.vm(), T2, {"vda": [base]})
    qemu.vm().release(T2, committed=False)
    assert qemu.bitmaps() == {"node0": [base]}


def test_a_qemu_killed_before_it_stored_a_bitmap_means_missing(bare: Bare) -> None:
    qemu = bare().start()
    base = committed_point(qemu.vm(), T1)
    qemu.kill()
    qemu.start()
    disk = only(point(qemu.vm(), T2, {"vda": [base]}))
    assert disk.full_read_reason.startswith("bitmap.missing")


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [("raw", "", "a raw disk"), ("qcow2", "compat=0.10", "qcow2 version 2")],
)
def test_a_disk_that_stores_no_bitmaps_is_incremental_until_power_off(
    bare: Bare, kind: str, options: str, said: str
) -> None:
    qemu = bare({"vda": kind}, options=options).start()
    [disk] = qemu.vm().state().disks
    assert not disk.persistent_bitmaps
    assert said in disk.note
    base = committed_point(qemu.vm(), T1)
    qemu.write("vda", 0, 64 * KIB, 0x11)
    second = point(qemu.vm(), T2, {"vda": [base]})
    assert dirty_ranges(only(second)) == [(0, 64 * KIB)]
    qemu.vm().release(T2, committed=True)
    qemu.quit()
    qemu.start()
    third = only(point(qemu.vm(), T3, {"vda": [only(second).generation]}))
    assert third.dirty_bitmap is None
    assert third.full_read_reason.startswith("bitmap.missing")
    assert said in third.full_read_reason


def test_a_resized_disk_is_read_in_full_once(bare: Bare) -> None:
    qemu = bare().start()
    base = committed_point(qemu.vm(), T1)
    qemu.qmp("block_resize", node_name="node0", size=96 * MIB)
    disk = only(point(qemu.vm(), T2, {"vda": [base]}))
    assert disk.size_bytes == 96 * MIB
    assert disk.dirty_bitmap is None
    assert disk.full_read_reason.startswith("bitmap.resized")
    qemu.vm().release(T2, committed=True)
    assert only(point(qemu.vm(), T3, {"vda": [disk.generation]})).dirty_bitmap is not None


def test_an_added_disk_is_read_in_full_beside_incremental_ones(bare: Bare) -> None:
    qemu = bare().start()
    base = committed_point(qemu.vm(), T1)
    qemu.quit()
    qemu.disks["vdb"] = (make_image(qemu.folder / "vdb.img", 8 * MIB), "qcow2")
    qemu.start()
    old, new = point(qemu.vm(), T2, {"vda": [base]}).disks
    assert (old.name, old.base_generation) == ("vda", base)
    assert (new.name, new.dirty_bitmap) == ("vdb", None)
    assert new.full_read_reason.startswith("first point")


def test_a_removed_disk_does_not_stop_the_others(bare: Bare) -> None:
    qemu = bare({"vda": "qcow2", "vdb": "qcow2"}).start()
    first = point(qemu.vm(), T1)
    qemu.vm().release(T1, committed=True)
    qemu.quit()
    del qemu.disks["vdb"]
    qemu.start()
    bases = {disk.name: [disk.generation] for disk in first.disks}
    assert only(point(qemu.vm(), T2, bases)).base_generation == bases["vda"][0]


def test_the_newest_usable_base_is_taken(bare: Bare) -> None:
    qemu = bare().start()
    base = committed_point(qemu.vm(), T1)
    disk = only(point(qemu.vm(), T2, {"vda": ["quiesce-ffffffffffff-4000000", base]}))
    assert disk.base_generation == base


def test_an_external_snapshot_is_read_in_full(bare: Bare) -> None:
    qemu = bare().start()
    base = committed_point(qemu.vm(), T1)
    qemu.qmp(
        "blockdev-snapshot-sync",
        node_name="node0",
        snapshot_file=str(qemu.folder / "overlay.qcow2"),
        snapshot_node_name="over0",
    )
    disk = only(point(qemu.vm(), T2, {"vda": [base]}))
    assert disk.full_read_reason.startswith("bitmap.missing")


def test_a_trimmed_block_is_dirty_and_not_data(bare: Bare) -> None:
    qemu = bare().start()
    qemu.write("vda", 0, 8 * MIB, 0x11)
    base = committed_point(qemu.vm(), T1)
    qemu.io("vda", f"discard {MIB} {MIB}")
    disk = only(point(qemu.vm(), T2, {"vda": [base]}))
    assert dirty_ranges(disk) == [(MIB, MIB)]
    assert data_ranges(disk) == []


def test_only_writable_disks_are_listed_with_their_files(bare: Bare, tmp_path: Path) -> None:
    medium = make_image(tmp_path / "medium.iso", MIB, kind="raw")
    qemu = bare(
        extra=(
            *("-drive", f"if=none,id=cdrom0,media=cdrom,format=raw,file={medium}"),
            *("-device", "ide-cd,id=cd,drive=cdrom0,bus=ide.1"),
            *("-device", "ide-cd,id=empty,bus=ide.2"),
            *("-drive", f"if=none,id=ro0,format=raw,readonly=on,file={medium}"),
            *("-device", "virtio-blk-pci,id=ro,drive=ro0"),
            *("-drive", "if=none,id=legacy0,format=raw,file=legacy.raw"),
            *("-device", "virtio-blk-pci,drive=legacy0"),
        ),
    )
    make_image(tmp_path / "legacy.raw", MIB, kind="raw")
    qemu.start()
    state = qemu.vm().state()
    assert state.power is PowerState.RUNNING
    assert state.hypervisor.startswith("QEMU ")
    disks = {disk.name: disk for disk in state.disks}
    assert set(disks) == {"vda", "legacy0"}
    assert disks["vda"].path == tmp_path / "vda.img"
    assert disks["legacy0"].path == tmp_path / "legacy.raw"
    assert (disks["vda"].size_bytes, disks["vda"].format) == (64 * MIB, "qcow2")
    assert disks["vda"].persistent_bitmaps


def test_a_disk_on_an_anonymous_legacy_device_is_backed_up_too(bare: Bare, tmp_path: Path) -> None:
    make_image(tmp_path / "legacy.raw", 8 * MIB, kind="raw")
    qemu = bare(
        extra=(
            *("-drive", "if=none,id=legacy0,format=raw,file=legacy.raw"),
            *("-device", "virtio-blk-pci,drive=legacy0"),
            *("-device", "virtio-scsi-pci,id=scsi0", "-device", "ide-hd,id=ide,drive=ide0"),
            *("-drive", f"if=none,id=ide0,format=raw,file={tmp_path}/ide.raw"),
        )
    )
    make_image(tmp_path / "ide.raw", 8 * MIB, kind="raw")
    qemu.start()
    before = qemu.everything()
    session = point(qemu.vm(), T1)
    assert {disk.name for disk in session.disks} == {"vda", "legacy0", "ide"}
    assert {disk.path for disk in qemu.vm().state().disks} == {
        tmp_path / "vda.img",
        tmp_path / "legacy.raw",
        tmp_path / "ide.raw",
    }
    qemu.vm().release(T1, committed=False)
    assert qemu.everything() == before


def test_a_long_disk_name_and_an_odd_size_are_fine(bare: Bare) -> None:
    size = 3 * MIB + 512
    name = "data." + "x" * 200
    qemu = bare({name: "raw"}, size_bytes=size).start()
    disk = only(point(qemu.vm(), T1))
    assert (disk.name, disk.size_bytes) == (name, size)
    assert dirty_ranges(disk) == [(0, size)]


def test_a_two_tebibyte_sparse_disk_takes_no_space_and_no_time(bare: Bare) -> None:
    qemu = bare(size_bytes=2 * 1024 * 1024 * MIB).start()
    qemu.write("vda", 1024 * 1024 * MIB, MIB, 0x11)
    base = committed_point(qemu.vm(), T1)
    qemu.write("vda", 0, 64 * KIB, 0x11)
    disk = only(point(qemu.vm(), T2, {"vda": [base]}))
    assert dirty_ranges(disk) == [(0, 64 * KIB)]


def test_an_uncommitted_generation_stored_at_power_off_is_removed_later(bare: Bare) -> None:
    qemu = bare().start()
    base = committed_point(qemu.vm(), T1)
    point(qemu.vm(), T2, {"vda": [base]})
    qemu.quit()
    assert {bitmap["name"][8:20] for bitmap in image_bitmaps(qemu.disks["vda"][0])} == {T1, T2}
    qemu.start()
    assert qemu.vm().leftovers() == (T2,)
    qemu.vm().release(T2, committed=False)
    assert qemu.bitmaps() == {"node0": [base]}
