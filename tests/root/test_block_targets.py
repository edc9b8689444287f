"""Restore targets on file systems of their own: needs root. Devices: `test_block_devices.py`."""

from __future__ import annotations

import subprocess

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
def test_a_file_system_that_fills_under_a_qcow2_image_is_named(full_disk):
    target = open_target(full_disk / "out.qcow2", 64 * MIB, "qcow2", overwrite=False)
    with pytest.raises(RestoreFailure) as caught:
        target.write(0, memoryview(b"x" * 8 * MIB))
    assert caught.value.code == "restore.no-space"
    target.abandon()
    assert list(full_disk.iterdir()) == []
