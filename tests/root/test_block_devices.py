"""Disks restored onto real block devices: needs root, and loop devices."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quiesce.block.file import FileSource
from quiesce.block.image import open_target
from quiesce.model.failure import RestoreFailure
from quiesce.model.snapshot import (
    Consistency,
    ConsistencyLabel,
    Route,
    SessionDisk,
    Snapshot,
    SnapshotSession,
)
from quiesce.transfer.backup import back_up
from quiesce.transfer.restore import restore_disk
from quiesce.vault import KeyFile, LocalStore, Vault

pytestmark = pytest.mark.root

MIB = 1 << 20
DEVICE_BYTES = 24 * MIB
JUNK = b"old!"


@dataclass(frozen=True)
class Device:
    """A block device over a file, which shows what is on it."""

    path: Path
    backing: Path

    def content(self) -> bytes:
        with self.path.open("rb") as device:
            return device.read()

    @property
    def untouched(self) -> bool:
        return self.content() == JUNK * (DEVICE_BYTES // len(JUNK))


def attached(backing: Path, *options: str) -> Iterator[Device]:
    backing.write_bytes(JUNK * (DEVICE_BYTES // len(JUNK)))
    command = ["losetup", "--find", "--show", *options, str(backing)]
    path = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    yield Device(path, backing)
    subprocess.run(["losetup", "--detach", path], check=True)


@pytest.fixture(params=["512", "4096"], ids=["512 byte sectors", "4 KiB sectors"])
def device(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Device]:
    """Full of what somebody left on it."""
    yield from attached(tmp_path / "backing", "--sector-size", request.param)


@pytest.fixture
def plain_device(tmp_path: Path) -> Iterator[Device]:
    yield from attached(tmp_path / "backing")


@pytest.fixture
def read_only_device(tmp_path: Path) -> Iterator[Device]:
    yield from attached(tmp_path / "backing", "--read-only")


@pytest.fixture(params=[0, 1536], ids=["whole chunks", "an odd end"])
def disk(request: pytest.FixtureRequest) -> bytes:
    """Data, a long hole, a hole within a run of data, and data at the very end."""
    dice = random.Random(request.param)
    data = bytearray(16 * MIB + request.param)
    data[: 3 * MIB] = dice.randbytes(3 * MIB)
    data[MIB : MIB + 128 * 1024] = bytes(128 * 1024)
    data[MIB + 400_000 : MIB + 400_100] = bytes(100)
    data[12 * MIB : 13 * MIB + 7] = b"text" * (MIB // 4) + b"odd end"
    data[-2000:] = dice.randbytes(2000)
    return bytes(data)


@pytest.fixture
def reader(tmp_path: Path, disk: bytes) -> object:
    """The disk as a point of a real vault has it."""
    image = tmp_path / "image"
    image.write_bytes(disk)
    vault = Vault.create(LocalStore.create(tmp_path / "vault"), KeyFile(bytes(32)))
    disks = (SessionDisk("vda", len(disk), image, "", format="raw"),)
    session = SnapshotSession("task", datetime.now(UTC), Route.OFFLINE, disks)
    snapshot = Snapshot(session, ConsistencyLabel(Consistency.OFFLINE, ""), None)
    point = back_up(snapshot, vault.writer("vm", "job"), lambda _: FileSource(image))
    return vault.reader(point.id, "vda")


def test_a_device_full_of_old_bytes_reads_as_the_disk_and_then_as_zeros(device, reader, disk):
    target = open_target(device.path, len(disk), "raw", overwrite=True)
    restored = restore_disk(reader, target)
    assert device.content() == disk.ljust(DEVICE_BYTES, b"\0")
    assert restored.size_bytes == len(disk)
    assert restored.written_bytes < len(disk)


def test_a_restore_that_broke_off_midway_is_simply_repeated(plain_device, reader, disk):
    target = open_target(plain_device.path, len(disk), "raw", overwrite=True)
    write, written = target.write, []

    def written_once(offset: int, data: memoryview) -> None:
        if written:
            raise RestoreFailure("restore.write-failed", "The cable was pulled.")
        written.append(offset)
        write(offset, data)

    target.write = written_once
    with pytest.raises(RestoreFailure, match="cable"):
        restore_disk(reader, target, workers=1)
    assert plain_device.content() not in (disk.ljust(DEVICE_BYTES, b"\0"), bytes(DEVICE_BYTES))
    restore_disk(reader, open_target(plain_device.path, len(disk), "raw", overwrite=True))
    assert plain_device.content() == disk.ljust(DEVICE_BYTES, b"\0")


def test_another_disk_restored_later_leaves_nothing_of_the_first(plain_device, reader, disk):
    restore_disk(reader, open_target(plain_device.path, len(disk), "raw", overwrite=True))
    target = open_target(plain_device.path, 5 * MIB, "raw", overwrite=True)
    target.write(MIB, memoryview(b"new" * 1000))
    target.finish()
    expected = bytearray(DEVICE_BYTES)
    expected[MIB : MIB + 3000] = b"new" * 1000
    assert plain_device.content() == expected


def code_of_refused(device: Device, size_bytes: int = MIB, *, overwrite: bool = True) -> str:
    return refused(device, size_bytes, overwrite=overwrite).code


def refused(device: Device, size_bytes: int = MIB, *, overwrite: bool = True) -> RestoreFailure:
    with pytest.raises(RestoreFailure) as caught:
        open_target(device.path, size_bytes, "raw", overwrite=overwrite)
    return caught.value


def test_a_device_is_left_alone_unless_overwriting_is_allowed(plain_device):
    assert code_of_refused(plain_device, overwrite=False) == "restore.target-exists"
    assert plain_device.untouched


def test_a_device_one_sector_too_small_is_left_alone(plain_device):
    assert code_of_refused(plain_device, DEVICE_BYTES + 512) == "restore.target-too-small"
    assert plain_device.untouched


def test_a_device_exactly_as_large_as_the_disk_takes_it(plain_device):
    open_target(plain_device.path, DEVICE_BYTES, "raw", overwrite=True).finish()
    assert plain_device.content() == bytes(DEVICE_BYTES)


def test_a_read_only_device_is_left_alone(read_only_device):
    assert code_of_refused(read_only_device) == "restore.target-not-writable"
    assert read_only_device.untouched


def test_a_mounted_device_is_left_alone_and_its_mount_is_named(plain_device, tmp_path):
    subprocess.run(["mkfs.ext4", "-q", plain_device.path], check=True)
    folder = tmp_path / "mounted"
    folder.mkdir()
    subprocess.run(["mount", plain_device.path, folder], check=True)
    try:
        (folder / "file").write_text("kept")
        failure = refused(plain_device)
    finally:
        subprocess.run(["umount", folder], check=True)
    assert failure.code == "restore.target-in-use"
    told = [evidence.fact for evidence in failure.evidence]
    assert f"{plain_device.path.name} is mounted at {folder}" in told
    subprocess.run(["mount", plain_device.path, folder], check=True)
    try:
        assert (folder / "file").read_text() == "kept"
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_device_that_is_swap_is_left_alone(plain_device):
    for command in ("mkswap", "swapon"):
        subprocess.run([command, plain_device.path], check=True, stdout=subprocess.DEVNULL)
    try:
        failure = refused(plain_device)
    finally:
        subprocess.run(["swapoff", plain_device.path], check=True)
    assert failure.code == "restore.target-in-use"
    assert failure.evidence[1].fact == f"{plain_device.path.name} is swap"


def test_a_device_that_another_restore_writes_is_left_to_it(plain_device):
    first = open_target(plain_device.path, MIB, "raw", overwrite=True)
    try:
        assert code_of_refused(plain_device) == "restore.target-in-use"
    finally:
        first.abandon()


def test_a_device_that_qemu_has_open_is_left_alone(plain_device, tmp_path):
    socket = tmp_path / "nbd"
    command = ["qemu-nbd", "--format=raw", f"--socket={socket}", "--persistent", "--fork",
               f"--pid-file={tmp_path / 'pid'}", str(plain_device.path)]  # fmt: skip
    subprocess.run(command, check=True)
    try:
        failure = refused(plain_device)
    finally:
        subprocess.run(["kill", (tmp_path / "pid").read_text().strip()], check=True)
    assert failure.code == "restore.target-in-use"
    assert plain_device.untouched
