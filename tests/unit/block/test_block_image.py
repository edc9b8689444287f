"""Images as targets of a restore."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
from types import SimpleNamespace

import pytest

from quiesce.block.file import FileSource
from quiesce.block.image import open_target
from quiesce.model.extent import ExtentKind
from quiesce.model.failure import InputFailure, RestoreFailure, StorageFailure

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


def test_an_image_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "disk.raw"
    target = open_target(path, 3 * MIB + 5, "raw", overwrite=False)
    target.write(MIB, memoryview(b"a" * MIB))
    assert not path.exists()
    target.finish()
    assert path.read_bytes() == bytes(MIB) + b"a" * MIB + bytes(MIB + 5)
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_not_written_takes_no_space(tmp_path):
    path = tmp_path / "disk.raw"
    target = open_target(path, 1 << 41, "raw", overwrite=False)
    target.write(1 << 40, memoryview(b"x" * 4096))
    target.finish()
    assert path.stat().st_size == 1 << 41
    assert path.stat().st_blocks * 512 < MIB


def test_an_abandoned_image_leaves_nothing_and_may_be_abandoned_again(tmp_path):
    target = open_target(tmp_path / "disk.raw", MIB, "raw", overwrite=False)
    target.abandon()
    target.abandon()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_image_is_never_overwritten_by_accident(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"precious")
    with pytest.raises(RestoreFailure) as caught:
        open_target(path, MIB, "raw", overwrite=False)
    assert caught.value.code == "restore.target-exists"
    assert path.read_bytes() == b"precious"


def test_an_image_that_appeared_meanwhile_is_not_overwritten_either(tmp_path):
    path = tmp_path / "disk.raw"
    target = open_target(path, MIB, "raw", overwrite=False)
    path.write_bytes(b"precious")
    with pytest.raises(RestoreFailure) as caught:
        target.finish()
    assert caught.value.code == "restore.target-exists"
    target.abandon()
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_an_overwritten_image_stays_whole_until_the_new_one_is(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"precious")
    target = open_target(path, 10, "raw", overwrite=True)
    assert path.read_bytes() == b"precious"
    target.finish()
    assert path.read_bytes() == bytes(10)


@pytest.mark.parametrize("name", ["mit leer", "ünïcode 日本", "a:b,c=d", "x" * 250, "-dash"])
def test_names_of_any_kind(tmp_path, name):
    open_target(tmp_path / name, 7, "raw", overwrite=False).finish()
    assert (tmp_path / name).read_bytes() == bytes(7)


def test_a_name_too_long_for_the_file_system_is_refused_and_nothing_left(tmp_path):
    with pytest.raises(RestoreFailure) as caught:
        open_target(tmp_path / ("x" * 300), 7, "raw", overwrite=False)
    assert caught.value.code == "restore.target-not-writable"
    assert "too long" in caught.value.evidence[0].raw
    assert list(tmp_path.iterdir()) == []


def test_data_that_cannot_fit_are_refused_before_anything_is_written(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(RestoreFailure) as caught:
        open_target(tmp_path / "d", free * 4, "raw", overwrite=False, data_bytes=free * 2)
    assert caught.value.code == "restore.no-space"
    assert "bytes free" in caught.value.evidence[0].fact
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("parts", [("missing", "disk"), ("file", "disk"), ("folder",)])
def test_a_target_that_cannot_be_there_is_refused(tmp_path, parts):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(RestoreFailure) as caught:
        open_target(tmp_path.joinpath(*parts), MIB, "raw", overwrite=True)
    assert caught.value.code == "restore.target-not-writable"


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(InputFailure) as caught:
        open_target(tmp_path / "d", MIB, "vmdk", overwrite=False)
    assert caught.value.code == "input.unknown-format"


def test_missing_qemu_tools_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RestoreFailure) as caught:
        open_target(tmp_path / "d", MIB, "qcow2", overwrite=False)
    assert caught.value.code == "restore.tool-missing"
    assert list(tmp_path.iterdir()) == []


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


def test_a_file_source_tells_its_holes_and_reads_its_bytes(tmp_path):
    path = tmp_path / "disk.raw"
    content = random.Random(1).randbytes(MIB)
    with path.open("wb") as file:
        file.truncate(5 * MIB + 3)
        file.seek(2 * MIB)
        file.write(content)
    source = FileSource(path)
    extents = list(source.extents())
    kinds = [(e.offset_bytes, e.length_bytes, e.kind) for e in extents]
    assert kinds == [
        (0, 2 * MIB, ExtentKind.ZERO),
        (2 * MIB, MIB, ExtentKind.DATA),
        (3 * MIB, 2 * MIB + 3, ExtentKind.ZERO),
    ]
    buffer = bytearray(MIB + 2)
    source.read_into(2 * MIB - 1, memoryview(buffer))
    assert bytes(buffer) == b"\0" + content + b"\0"
    source.close()
    source.close()


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * 100)
    source = FileSource(path)
    os.truncate(path, 10)
    with pytest.raises(StorageFailure) as caught:
        source.read_into(50, memoryview(bytearray(10)))
    assert caught.value.code == "storage.io-error"
    source.close()
