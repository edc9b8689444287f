"""Disk images as targets of a restore: a raw file, a qcow2 file, an existing block device.

A file gets its final name as the last act, see `place`: whoever sees that sees a whole disk.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from quiesce.block import image_lock
from quiesce.block.claims import claims_on
from quiesce.block.past_cache import Output
from quiesce.block.place import Place, not_writable, write_failure
from quiesce.block.qemu_nbd import Qcow2Server, create_qcow2
from quiesce.block.room import require_room
from quiesce.model.failure import Evidence, InputFailure, RestoreFailure

FORMATS = ("raw", "qcow2")
BLKZEROOUT = 0x127F
"""linux/fs.h: zero a range of a block device, by the device itself where it can."""
ZERO_STEP_BYTES = 1 << 30


class Target(Protocol):
    """Fulfils `transfer.ports.BlockTarget`."""

    @property
    def size_bytes(self) -> int: ...
    def reserve(self, offset_bytes: int, length_bytes: int) -> None: ...
    def write(self, offset_bytes: int, data: memoryview) -> None: ...
    def finish(self) -> None: ...
    def abandon(self) -> tuple[Evidence, ...]: ...


def open_target(
    path: Path,
    size_bytes: int,
    format: str,  # noqa: A002 - the field's own word
    *,
    overwrite: bool,
    data_bytes: int = 0,
    on_begun: Callable[[Path], None] = lambda temporary: None,
    on_whole: Callable[[str], None] = lambda file: None,
) -> Target:
    """A target that reads as zeros, ready to be written.

    `format` is raw or qcow2; an existing block device takes the disk's bytes as they are and
    is zeroed first. `overwrite` allows an existing file to be replaced (at the very end) or a
    block device to be written. `data_bytes`, if known, is what will be written: it must fit.
    `on_begun` is told the name of a file until it is whole, right before there is one.
    `on_whole` is told the `place.identity` of a file that is whole and durable, right before it
    gets its name: whoever notes it can tell later, after any crash, whether it did get it.

    :raise InputFailure: input.unknown-format
    :raise RestoreFailure: restore.target-exists, restore.target-in-use,
        restore.target-too-small, restore.target-not-writable, restore.no-space,
        restore.tool-missing
    """
    if format not in FORMATS:
        raise InputFailure(
            "input.unknown-format",
            f"Images are written as {' or '.join(FORMATS)}, not as {format}.",
        )
    path = path.absolute()
    try:
        found = _stat(path)
    except (FileNotFoundError, NotADirectoryError):
        found = None
    except OSError as error:
        raise not_writable(error, path) from error
    if found is not None and not overwrite:
        raise RestoreFailure(
            "restore.target-exists",
            f"{path} exists already.",
            evidence=[
                Evidence(f"{found.st_size} bytes, {stat.filemode(found.st_mode)}", str(path))
            ],
            remedy="Choose another path, or allow overwriting.",
        )
    if found is not None and stat.S_ISBLK(found.st_mode):
        return DeviceTarget(path, size_bytes)
    if found is not None and not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
        raise RestoreFailure(
            "restore.target-not-writable",
            f"{path} is neither a file nor a block device.",
            evidence=[Evidence(f"its kind is {stat.filemode(found.st_mode)}", str(path))],
        )
    require_room([(path, data_bytes)])
    place = Place(path, overwrite=overwrite, on_begun=on_begun, on_whole=on_whole)
    return RawTarget(place, size_bytes) if format == "raw" else Qcow2Target(place, size_bytes)


def _stat(path: Path) -> os.stat_result:
    """Of what a link leads to, or of one that leads nowhere: its name is not free either."""
    try:
        return path.stat()
    except FileNotFoundError:
        return path.lstat()


class RawTarget:
    """A sparse raw file."""

    def __init__(self, place: Place, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._place = place
        self._file = Output(place.create())
        try:
            os.ftruncate(self._file.descriptor, size_bytes)
        except OSError as error:
            failure = write_failure(error, place.final, "setting the size")
            failure.evidence += self.abandon()
            raise failure from error

    def reserve(self, offset_bytes: int, length_bytes: int) -> None:
        try:
            self._file.reserve(offset_bytes, length_bytes)
        except OSError as error:
            what = f"reserving {length_bytes} bytes at {offset_bytes}"
            raise write_failure(error, self._place.final, what) from error

    def write(self, offset_bytes: int, data: memoryview) -> None:
        _write(self._file, offset_bytes, data, self._place.final)

    def finish(self) -> None:
        _finish(self._file, self._place.final)
        self._place.publish()

    def abandon(self) -> tuple[Evidence, ...]:
        _give_up(self._file)
        return self._place.discard()


class Qcow2Target:
    """A qcow2 file, written by QEMU's own qemu-nbd."""

    def __init__(self, place: Place, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._place = place
        os.close(place.create())
        try:
            create_qcow2(place.temporary, size_bytes)
            self._server = Qcow2Server(place.temporary)
        except RestoreFailure as failure:
            failure.evidence += place.discard()
            raise
        except BaseException:
            place.discard()
            raise

    def reserve(self, offset_bytes: int, length_bytes: int) -> None:
        """qemu-nbd allocates by itself."""

    def write(self, offset_bytes: int, data: memoryview) -> None:
        self._server.disk.write(offset_bytes, data)

    def finish(self) -> None:
        self._server.disk.flush()
        self._server.stop()
        self._place.publish()

    def abandon(self) -> tuple[Evidence, ...]:
        self._server.kill()
        return self._place.discard()


class DeviceTarget:
    """An existing block device, all of it: behind the disk's end it reads as zeros. It has no
    temporary name: what was abandoned halfway is lost, and may be restored onto again."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        try:
            # On a block device O_EXCL means: not while it is mounted or otherwise claimed.
            self._file = Output(os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC))
        except OSError as error:
            raise _claimed(error, path) from error
        try:
            image_lock.hold(self._file.descriptor, path)
        except BaseException:
            self.abandon()
            raise
        self.size_bytes = os.lseek(self._file.descriptor, 0, os.SEEK_END)
        if self.size_bytes < size_bytes:
            self.abandon()
            raise RestoreFailure(
                "restore.target-too-small",
                f"{path} holds {self.size_bytes} bytes, the disk has {size_bytes}.",
            )
        try:
            self._zero()
        except OSError as error:
            self.abandon()
            if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
                raise not_writable(error, path) from error
            raise write_failure(error, path, "zeroing the device") from error

    def _zero(self) -> None:
        for start in range(0, self.size_bytes, ZERO_STEP_BYTES):
            length = min(ZERO_STEP_BYTES, self.size_bytes - start)
            fcntl.ioctl(self._file.descriptor, BLKZEROOUT, struct.pack("QQ", start, length))

    def reserve(self, offset_bytes: int, length_bytes: int) -> None:
        """A device has all of its space."""

    def write(self, offset_bytes: int, data: memoryview) -> None:
        _write(self._file, offset_bytes, data, self._path)

    def finish(self) -> None:
        _finish(self._file, self._path)

    def abandon(self) -> tuple[Evidence, ...]:
        _give_up(self._file)
        return ()


def _write(output: Output, offset: int, data: memoryview, path: Path) -> None:
    try:
        output.write(offset, data)
    except OSError as error:
        raise write_failure(error, path, f"write of {len(data)} bytes at {offset}") from error


def _finish(output: Output, path: Path) -> None:
    try:
        os.fsync(output.descriptor)
        output.close()
    except OSError as error:
        raise write_failure(error, path, "fsync") from error


def _give_up(output: Output) -> None:
    with suppress(OSError):  # that something written did not arrive, which nobody wants any more
        output.close()


def _claimed(error: OSError, path: Path) -> RestoreFailure:
    if error.errno != errno.EBUSY:
        return not_writable(error, path)
    return RestoreFailure(
        "restore.target-in-use",
        f"{path} is in use: it, or a partition of it, is mounted or part of something else.",
        evidence=[Evidence("refused by the system", str(path), raw=str(error)), *claims_on(path)],
        remedy="Unmount it, or choose another device: `lsblk` tells what is made of it.",
    )
