"""Restore targets on file systems and devices of their own: needs root."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

from quiesce.block.image import open_target
from quiesce.model.failure import RestoreFailure

MIB = 1 << 20


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def read_only_folder(tmp_path):
    folder = tmp_path / "ro"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def loop_device(tmp_path):
    """A block device of 8 MiB that holds old bytes."""
    backing = tmp_path / "backing"
    backing.write_bytes(b"old!" * (2 * MIB))
    command = ["losetup", "--find", "--show", str(backing)]
    device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    yield SimpleNamespace(path=type(tmp_path)(device), backing=backing)
    subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.root
def test_a_file_system_that_fills_midway_keeps_no_half_image(full_disk):
    target = open_target(full_disk / "disk.raw", 8 * MIB, "raw", overwrite=False)
    with pytest.raises(RestoreFailure) as caught:
        target.write(0, memoryview(b"x" * 8 * MIB))
    assert caught.value.code == "restore.no-space"
    target.abandon()
    assert list(full_disk.iterdir()) == []


@pytest.mark.root
def test_a_read_only_file_system_is_not_writable(read_only_folder):
    with pytest.raises(RestoreFailure) as caught:
        open_target(read_only_folder / "disk.raw", MIB, "raw", overwrite=False)
    assert caught.value.code == "restore.target-not-writable"
    assert "Read-only" in caught.value.evidence[0].raw


@pytest.mark.root
def test_a_block_device_is_zeroed_and_takes_the_disk(loop_device):
    target = open_target(loop_device.path, 6 * MIB, "raw", overwrite=True)
    target.write(MIB, memoryview(b"new" * 1000))
    target.finish()
    expected = bytearray(8 * MIB)
    expected[MIB : MIB + 3000] = b"new" * 1000
    assert loop_device.backing.read_bytes() == expected


@pytest.mark.root
def test_a_block_device_is_left_alone_unless_overwriting_is_allowed(loop_device):
    with pytest.raises(RestoreFailure) as caught:
        open_target(loop_device.path, MIB, "raw", overwrite=False)
    assert caught.value.code == "restore.target-exists"
    assert loop_device.backing.read_bytes() == b"old!" * (2 * MIB)


@pytest.mark.root
def test_a_block_device_that_is_too_small_is_left_alone(loop_device):
    with pytest.raises(RestoreFailure) as caught:
        open_target(loop_device.path, 9 * MIB, "raw", overwrite=True)
    assert caught.value.code == "restore.target-too-small"
    assert loop_device.backing.read_bytes() == b"old!" * (2 * MIB)


@pytest.mark.root
def test_a_mounted_block_device_is_never_written(loop_device, tmp_path):
    subprocess.run(["mkfs.ext4", "-q", loop_device.path], check=True)
    (tmp_path / "mnt").mkdir()
    subprocess.run(["mount", loop_device.path, tmp_path / "mnt"], check=True)
    try:
        with pytest.raises(RestoreFailure) as caught:
            open_target(loop_device.path, MIB, "raw", overwrite=True)
    finally:
        subprocess.run(["umount", tmp_path / "mnt"], check=True)
    assert caught.value.code == "restore.target-not-writable"
    assert "busy" in caught.value.evidence[0].raw


@pytest.mark.root
def test_a_file_system_that_fills_under_a_qcow2_image_is_named(full_disk):
    target = open_target(full_disk / "out.qcow2", 64 * MIB, "qcow2", overwrite=False)
    with pytest.raises(RestoreFailure) as caught:
        target.write(0, memoryview(b"x" * 8 * MIB))
    assert caught.value.code == "restore.no-space"
    target.abandon()
    assert list(full_disk.iterdir()) == []
