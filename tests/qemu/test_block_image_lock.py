"""A restore keeps away from an image that a QEMU has open, and QEMU from one that is restored."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from bare_qemu import MIB, BareQemu, make_image
from block_servers import qemu_nbd
from missing import missing

from quiesce.block.image import open_target
from quiesce.block.image_lock import refuse_in_use
from quiesce.hypervisor.qmp import Monitor
from quiesce.model.failure import RestoreFailure


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
@pytest.mark.parametrize("written_as", ["raw", "qcow2"])
def test_the_disk_of_a_running_vm_is_not_overwritten(
    bare: Callable[..., BareQemu], tmp_path: Path, kind: str, written_as: str
) -> None:
    qemu = bare({"vda": kind}).start()
    path = tmp_path / "vda.img"
    qemu.write("vda", 0, MIB, 7)
    before = path.stat().st_ino, sorted(tmp_path.iterdir())

    with pytest.raises(RestoreFailure) as caught:
        open_target(path, MIB, written_as, overwrite=True)

    assert caught.value.code == "restore.target-in-use"
    assert qemu.process is not None
    facts = [fact.fact for fact in caught.value.evidence]
    assert f"process {qemu.process.pid} (qemu-system-x86) has it open" in facts
    assert (path.stat().st_ino, sorted(tmp_path.iterdir())) == before
    assert "read 1048576/1048576 bytes" in qemu.io("vda", "read -P 7 0 1M")


def test_a_disk_is_overwritten_once_its_vm_is_off(
    bare: Callable[..., BareQemu], tmp_path: Path
) -> None:
    bare({"vda": "raw"}).start().kill()
    target = open_target(tmp_path / "vda.img", MIB, "raw", overwrite=True)
    target.write(0, memoryview(b"new!"))
    target.finish()
    assert (tmp_path / "vda.img").read_bytes()[:4] == b"new!"


def test_an_image_that_a_tool_reads_is_in_use(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk.img", MIB, kind="raw")
    refuse_in_use(image)
    with qemu_nbd(image, tmp_path / "nbd"), pytest.raises(RestoreFailure) as caught:
        refuse_in_use(image)
    assert caught.value.code == "restore.target-in-use"


def test_no_vm_starts_on_an_image_that_is_being_replaced(tmp_path: Path) -> None:
    image = make_image(tmp_path / "vda.img", MIB, kind="raw")
    command = ["qemu-io", "-f", "raw", "-c", "write 0 512", str(image)]
    target = open_target(image, MIB, "raw", overwrite=True)

    refused = subprocess.run(command, capture_output=True, text=True)
    assert "lock" in refused.stderr
    target.abandon()

    assert "wrote 512/512" in subprocess.run(command, capture_output=True, text=True).stdout


def test_a_vm_that_took_the_name_during_the_restore_keeps_it(
    bare: Callable[..., BareQemu], tmp_path: Path
) -> None:
    path = tmp_path / "vda.img"
    target = open_target(path, MIB, "raw", overwrite=True)
    qemu = bare({"vda": "raw"}).start()
    with pytest.raises(RestoreFailure) as caught:
        target.finish()
    target.abandon()
    assert caught.value.code == "restore.target-in-use"
    with Monitor(qemu.socket) as monitor:
        assert monitor.execute("query-status")["running"]
    assert list(tmp_path.glob(".quiesce-*")) == []


def test_a_device_that_a_vm_has_open_is_left_alone(
    bare: Callable[..., BareQemu], tmp_path: Path
) -> None:
    backing = make_image(tmp_path / "backing", MIB, kind="raw")
    backing.write_bytes(b"old!" * (MIB // 4))
    attach = ["losetup", "--find", "--show", str(backing)]
    found = subprocess.run(attach, capture_output=True, text=True)
    if found.returncode != 0:
        missing("no loop devices here")
    device = Path(found.stdout.strip())
    try:
        qemu = BareQemu(tmp_path, {})
        qemu.extra = (
            *(
                "-blockdev",
                f"driver=raw,node-name=n,file.driver=host_device,file.filename={device}",
            ),
            *("-device", "virtio-blk-pci,drive=n"),
        )
        qemu.start()
        with pytest.raises(RestoreFailure) as caught:
            open_target(device, MIB, "raw", overwrite=True)
        qemu.kill()
    finally:
        subprocess.run(["losetup", "--detach", str(device)], check=True)
    assert caught.value.code == "restore.target-in-use"
    assert backing.read_bytes() == b"old!" * (MIB // 4)
