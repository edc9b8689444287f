"""The locks by which QEMU keeps two programs from writing one image.

QEMU locks single bytes of an image that it has open, shared, by open file description: byte
100 + n says "I use permission n", byte 200 + n "nobody else may have it" (block/file-posix.c,
RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE). Who comes later first locks its own bytes, then asks
whether others' are in its way. We use all permissions and share none: so nobody may have the image
open in any way, and a VM that is started meanwhile is refused by its own QEMU.

The locks are advisory. A QEMU that was told `locking=off`, or runs on another host that shares the
storage without its locks, is not seen.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from quiesce.model.failure import Evidence, RestoreFailure

_FIRST_BYTE, _BYTES = 100, 200
_FLOCK = struct.Struct("@hhqqi4x")
"""struct flock on 64-bit Linux: type, whence, start, length, process (0 for these locks)."""
_NAMED_PROCESSES = 5


def hold(descriptor: int, path: Path) -> None:
    """Keep the image to this open file until it is closed. Where the file system has no such
    locks nothing is held, as QEMU does.

    :raise RestoreFailure: restore.target-in-use
    """
    try:
        _fcntl(descriptor, fcntl.F_OFD_SETLK, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            return
        raise _in_use(path, "its bytes are locked against reading") from error
    _refuse_in_use(descriptor, path)


def refuse_in_use(path: Path) -> None:
    """Look, and hold nothing. What cannot be opened is passed over: whoever writes it will say why.

    :raise RestoreFailure: restore.target-in-use
    """
    try:
        # A FIFO must not keep us waiting for somebody at its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _refuse_in_use(descriptor, path)
    finally:
        os.close(descriptor)


def _refuse_in_use(descriptor: int, path: Path) -> None:
    """What `descriptor` itself holds does not count."""
    try:
        found = _fcntl(descriptor, fcntl.F_OFD_GETLK, fcntl.F_WRLCK)
    except OSError:
        return
    kind, _, start, length, _ = _FLOCK.unpack(found)
    if kind != fcntl.F_UNLCK:
        raise _in_use(path, f"{length} byte(s) from {start} on are locked, as QEMU does")


def _fcntl(descriptor: int, command: int, kind: int) -> bytes:
    wanted = _FLOCK.pack(kind, os.SEEK_SET, _FIRST_BYTE, _BYTES, 0)
    return fcntl.fcntl(descriptor, command, wanted)


def _in_use(path: Path, fact: str) -> RestoreFailure:
    return RestoreFailure(
        "restore.target-in-use",
        f"{path} is in use: a running VM, or a tool, has the image open.",
        evidence=[Evidence(fact, str(path)), *_openers(path)],
    )


def _openers(path: Path) -> list[Evidence]:
    """The processes that have it open, as far as we may see: the kernel does not say who holds
    a lock of this kind."""
    found: list[Evidence] = []
    try:
        wanted = path.stat()
        processes = [entry for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    except OSError:
        return found
    for process in processes:
        if int(process.name) == os.getpid() or len(found) >= _NAMED_PROCESSES:
            continue
        try:
            opened = any(
                (file.st_dev, file.st_ino) == (wanted.st_dev, wanted.st_ino)
                for file in (descriptor.stat() for descriptor in (process / "fd").iterdir())
            )
            if opened:
                name = (process / "comm").read_text(errors="replace").strip()
                found.append(Evidence(f"process {process.name} ({name}) has it open", "/proc"))
        except OSError:
            continue  # it ended, or it is not ours to look into
    return found
