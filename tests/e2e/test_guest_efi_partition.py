"""A guest with a vfat /boot/efi, as every one that boots by UEFI has."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path

import pytest

from quiesce.agent.extension import QgaGuest
from quiesce.agent.qga import QemuGuestAgent
from quiesce.lab.guest import LabGuest
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import Consistency, ConsistencyLabel, MountFreeze
from quiesce.snapshot.consistency import proven_consistency

pytestmark = pytest.mark.long


@pytest.fixture
def vm(guest: LabGuest, tmp_path: Path) -> LabGuest:
    image = tmp_path / "efi.img"
    image.write_bytes(bytes(4 << 20))
    subprocess.run(["mkfs.vfat", image], check=True, capture_output=True)
    agent = QemuGuestAgent(guest.qga_socket)
    agent.write_file("/run/efi.img", image.read_bytes())
    agent.disconnect()
    guest.run(
        "modprobe loop; modprobe vfat; mkdir -p /boot/efi; mount -o loop /run/efi.img /boot/efi; "
        "cp /bin/true /boot/efi/grubx64.efi"
    )
    return guest


def point(vm: LabGuest, *, meanwhile: str = "") -> tuple[MountFreeze, ConsistencyLabel]:
    """What a point of this guest would say of /boot/efi, and its label."""
    extension, task = QgaGuest(vm.qga_socket), str(uuid.uuid4())
    readiness = extension.prepare(task, SnapshotOptions())
    if meanwhile:
        command = f"(sleep 1; {meanwhile}; echo $? > /run/meanwhile) >/dev/null 2>&1 &"
        extension._agent.execute("sh", ["-c", command])
    extension.freeze(task)
    if meanwhile:
        extension._agent.execute(
            "sh", ["-c", "until test -s /run/meanwhile; do sleep 0.1; done"], seconds=8
        )
    report = extension.thaw(task)
    label = proven_consistency(readiness, report, extension.finish(task))
    (efi,) = [mount for mount in report.mounts if mount.mount == "/boot/efi"]
    assert report.held
    return efi, label


def test_an_efi_partition_that_nobody_writes_to_costs_no_consistency(vm: LabGuest) -> None:
    efi, label = point(vm)
    assert efi.skipped == "vfat cannot be frozen; it was flushed and nobody wrote to it"
    assert label.level is Consistency.FILE_SYSTEM


def test_a_boot_loader_update_during_the_freeze_makes_the_point_crash_consistent(
    vm: LabGuest,
) -> None:
    write = "dd if=/dev/urandom of=/boot/efi/grubx64.efi bs=64k count=2 conv=fsync"
    efi, label = point(vm, meanwhile=write)
    assert "sectors of 512 bytes were written to it" in efi.skipped
    assert label.level is Consistency.CRASH
    assert "/boot/efi: vfat cannot be frozen, and " in label.reason
