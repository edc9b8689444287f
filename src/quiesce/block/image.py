"""Disk images as targets of a restore: a raw file, a qcow2 file, an existing block device.

A file is written under a temporary name in its own folder and gets its final name, durably, as
the last act: whoever sees the final name sees a whole disk.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shlex
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from quiesce.block import image_lock
from quiesce.block.claims import claims_on
from quiesce.block.past_cache import Output
from quiesce.block.qemu_nbd import Qcow2Server, create_qcow2
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
    def abandon(self) -> None: ...


def open_target(
    path: Path,
    size_bytes: int,
    format: str,  # noqa: A002 - the field's own word
    *,
    overwrite: bool,
    data_bytes: int = 0,
    on_whole: Callable[[str], None] = lambda file: None,
) -> Target:
    """A target that reads as zeros, ready to be written.

    `format` is raw or qcow2; an existing block device takes the disk's bytes as they are and
    is zeroed first. `overwrite` allows an existing file to be replaced (at the very end) or a
    block device to be written. `data_bytes`, if known, is what will be written: it must fit.
    `on_whole` is told the `identity` of a file that is whole and durable, right before it gets
    its name: whoever notes it can tell later, after any crash, whether it did get it.

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
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        found = None
    except OSError as error:
        raise _not_writable(error, path) from error
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
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise RestoreFailure(
            "restore.target-not-writable",
            f"{path} is neither a file nor a block device.",
            evidence=[Evidence(f"its kind is {stat.filemode(found.st_mode)}", str(path))],
        )
    _require_space(path, data_bytes)
    place = _Place(path, overwrite=overwrite, on_whole=on_whole)
    return RawTarget(place, size_bytes) if format == "raw" else Qcow2Target(place, size_bytes)


def identity(path: Path) -> str | None:
    """Tells one file from all others of its file system, as long as it is not written to; not by
    its device's number, which may be another one after a reboot. None when there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"


class RawTarget:
    """A sparse raw file."""

    def __init__(self, place: _Place, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._place = place
        self._file = Output(place.create())
        try:
            os.ftruncate(self._file.descriptor, size_bytes)
        except OSError as error:
            self.abandon()
            raise _write_failure(error, place.final, "setting the size") from error

    def reserve(self, offset_bytes: int, length_bytes: int) -> None:
        try:
            self._file.reserve(offset_bytes, length_bytes)
        except OSError as error:
            what = f"reserving {length_bytes} bytes at {offset_bytes}"
            raise _write_failure(error, self._place.final, what) from error

    def write(self, offset_bytes: int, data: memoryview) -> None:
        _write(self._file, offset_bytes, data, self._place.final)

    def finish(self) -> None:
        try:
            os.fsync(self._file.descriptor)
        except OSError as error:
            raise _write_failure(error, self._place.final, "fsync") from error
        self._file.close()
        self._place.publish()

    def abandon(self) -> None:
        self._file.close()
        self._place.discard()


class Qcow2Target:
    """A qcow2 file, written by QEMU's own qemu-nbd."""

    def __init__(self, place: _Place, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._place = place
        os.close(place.create())
        try:
            create_qcow2(place.temporary, size_bytes)
            self._server = Qcow2Server(place.temporary)
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

    def abandon(self) -> None:
        self._server.kill()
        self._place.discard()


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
            self._file.close()
            raise
        self.size_bytes = os.lseek(self._file.descriptor, 0, os.SEEK_END)
        if self.size_bytes < size_bytes:
            self._file.close()
            raise RestoreFailure(
                "restore.target-too-small",
                f"{path} holds {self.size_bytes} bytes, the disk has {size_bytes}.",
            )
        try:
            self._zero()
        except OSError as error:
            self._file.close()
            if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
                raise _not_writable(error, path) from error
            raise _write_failure(error, path, "zeroing the device") from error

    def _zero(self) -> None:
        for start in range(0, self.size_bytes, ZERO_STEP_BYTES):
            length = min(ZERO_STEP_BYTES, self.size_bytes - start)
            fcntl.ioctl(self._file.descriptor, BLKZEROOUT, struct.pack("QQ", start, length))

    def reserve(self, offset_bytes: int, length_bytes: int) -> None:
        """A device has all of its space."""

    def write(self, offset_bytes: int, data: memoryview) -> None:
        _write(self._file, offset_bytes, data, self._path)

    def finish(self) -> None:
        try:
            os.fsync(self._file.descriptor)
        except OSError as error:
            raise _write_failure(error, self._path, "fsync") from error
        self._file.close()

    def abandon(self) -> None:
        self._file.close()


class _Place:
    """Where a file is to appear, and its temporary name until then. The image that it replaces,
    if any, is kept from being opened by a VM from `create` on."""

    def __init__(self, final: Path, *, overwrite: bool, on_whole: Callable[[str], None]) -> None:
        self.final = final
        self.temporary = final.parent / f".quiesce-{secrets.token_hex(8)}.partial"
        self._overwrite = overwrite
        self._on_whole = on_whole
        self._replaced = -1

    def create(self) -> int:
        """A descriptor of the temporary file."""
        try:
            if self._overwrite:
                self._hold_replaced()
            return os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._let_go()
            raise _not_writable(error, self.final) from error

    def _hold_replaced(self) -> None:
        try:
            self._replaced = os.open(self.final, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            image_lock.hold(self._replaced, self.final)
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        if self._replaced >= 0:
            os.close(self._replaced)
            self._replaced = -1

    def publish(self) -> None:
        """Durably under its final name. Without `overwrite`, what appeared there meanwhile wins."""
        try:
            _sync(self.temporary)
            self._on_whole(identity(self.temporary) or "")
            if self._overwrite:
                # Once more: another file may have got this name since `create`.
                self._let_go()
                self._hold_replaced()
                os.replace(self.temporary, self.final)
            else:
                self._name_if_free()
            _sync(self.final.parent)
        except FileExistsError as error:
            raise RestoreFailure(
                "restore.target-exists",
                f"{self.final} appeared while the disk was being restored.",
                evidence=[Evidence("the name was free when the restore began", str(self.final))],
            ) from error
        except OSError as error:
            raise _write_failure(error, self.final, "giving the image its name") from error
        self._let_go()

    def _name_if_free(self) -> None:
        try:
            os.link(self.temporary, self.final)
        except FileExistsError:
            raise
        except OSError:
            # No hard links here, as on vfat and some network mounts: the next best is to look
            # once more before renaming.
            if self.final.exists():
                raise FileExistsError(errno.EEXIST, "exists", str(self.final)) from None
            os.rename(self.temporary, self.final)
        else:
            os.unlink(self.temporary)

    def discard(self) -> None:
        self._let_go()
        with suppress(FileNotFoundError):
            os.unlink(self.temporary)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(output: Output, offset: int, data: memoryview, path: Path) -> None:
    try:
        output.write(offset, data)
    except OSError as error:
        raise _write_failure(error, path, f"write of {len(data)} bytes at {offset}") from error


def _require_space(path: Path, data_bytes: int) -> None:
    try:
        figures = os.statvfs(path.parent)
    except OSError as error:
        raise _not_writable(error, path) from error
    free = figures.f_bavail * figures.f_frsize
    if free < data_bytes:
        raise RestoreFailure(
            "restore.no-space",
            f"The disk's data do not fit into {path.parent}.",
            evidence=[Evidence(f"{free} bytes free, {data_bytes} needed", str(path.parent))],
        )


def _claimed(error: OSError, path: Path) -> RestoreFailure:
    if error.errno != errno.EBUSY:
        return _not_writable(error, path)
    return RestoreFailure(
        "restore.target-in-use",
        f"{path} is in use: it, or a partition of it, is mounted or part of something else.",
        evidence=[Evidence("refused by the system", str(path), raw=str(error)), *claims_on(path)],
        remedy="Unmount it, or choose another device: `lsblk` tells what is made of it.",
    )


def _not_writable(error: OSError, path: Path) -> RestoreFailure:
    return RestoreFailure(
        "restore.target-not-writable",
        f"{path} cannot be written.",
        evidence=[Evidence("refused by the system", str(path), raw=str(error))],
        remedy=f"Make the folder first: `mkdir -p {shlex.quote(str(path.parent))}`"
        if isinstance(error, FileNotFoundError)
        else "",
    )


def _write_failure(error: OSError, path: Path, what: str) -> RestoreFailure:
    evidence = [Evidence(f"{what} failed", str(path), raw=str(error))]
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RestoreFailure(
            "restore.no-space", f"There is no space left for {path}.", evidence=evidence
        )
    return RestoreFailure(
        "restore.write-failed", f"{path} could not be written.", evidence=evidence
    )
