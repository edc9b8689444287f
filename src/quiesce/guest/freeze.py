"""Freezing and thawing: the two ioctls, the handles they are called on, and who calls them.

FIFREEZE and FITHAW: include/uapi/linux/fs.h, `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)`.
Either call may block for as long as its device does, for ever included, and cannot be
interrupted then. So each is made on a thread that nobody has to wait for.
"""

import errno
import fcntl
import os
import threading
import time
from typing import Callable, List, Optional, Sequence

from .failure import Fact, Failure
from .ledger import By, Ledger, Phase, Thaw
from .libc import write_back
from .mounts import Mount, printable, read_mounts

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
_THREAD_STACK_BYTES = 256 * 1024
_PATIENCE_SECONDS = 1.0


def call_freeze(fd: int) -> None:
    """:raise OSError: EBUSY when somebody else has frozen it, EOPNOTSUPP when it cannot be"""
    fcntl.ioctl(fd, FIFREEZE, 0)


def call_thaw(fd: int) -> None:
    """:raise OSError: EINVAL when it was not frozen"""
    fcntl.ioctl(fd, FITHAW, 0)


def open_mount(mount: Mount) -> int:
    """A handle on exactly this mount, for the ioctls.

    :raise Failure: freeze.mount-unavailable, when its path leads elsewhere or nowhere
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(mount.point, flags)
    except OSError as error:
        raise _unavailable(mount, "it cannot be opened", str(error)) from error
    found = _mount_id(fd)
    if found != mount.id:
        os.close(fd)
        raise _unavailable(mount, "its path leads to another mount", "mnt_id {}".format(found))
    return fd


def still_mounted(mount: Mount) -> bool:
    return any(one.id == mount.id and one.device == mount.device for one in read_mounts())


def _mount_id(fd: int) -> int:
    with open("/proc/self/fdinfo/{}".format(fd)) as file:
        for line in file:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    return -1


def _unavailable(mount: Mount, why: str, raw: str) -> Failure:
    point = printable(mount.point)
    return Failure(
        "freeze.mount-unavailable",
        "The mount {} cannot be frozen: {}.".format(point, why),
        [Fact("mount {} (id {}, {})".format(point, mount.id, mount.device), "guest", raw)],
        'Unmount it, or add it to MountsToSkip in /etc/azure/vmbackup.conf ("[SnapshotThread]", '
        '"MountsToSkip = {}").'.format(point),
        retryable=True,
    )


def freeze_failure(mount: Mount, error: int) -> Failure:
    """Why a freeze call was refused, coded."""
    point = printable(mount.point)
    fact = Fact("FIFREEZE on {}".format(point), "guest", "errno {} ({}): {}".format(
        error, errno.errorcode.get(error, "?"), os.strerror(error)))  # fmt: skip
    if error == errno.EBUSY:
        return Failure(
            "freeze.busy",
            "The file system at {} is already frozen by somebody else.".format(point),
            [fact],
            "Another product (or `fsfreeze`) holds it frozen; let that end, or schedule the two "
            "apart. If nothing does: fsfreeze --unfreeze '{}'".format(point),
            retryable=True,
        )
    return Failure(
        "freeze.failed",
        "The file system at {} could not be frozen: {}.".format(point, os.strerror(error)),
        [fact],
        "Check the file system (dmesg, fsck), or add it to MountsToSkip in "
        '/etc/azure/vmbackup.conf ("[SnapshotThread]", "MountsToSkip = {}").'.format(point),
        retryable=error in (errno.EIO, errno.ENOSPC, errno.ENOMEM),
    )


def too_slow(mount: Mount, seconds: float) -> Failure:
    point = printable(mount.point)
    return Failure(
        "freeze.timeout",
        "Freezing the file system at {} did not end in {:g} s.".format(point, seconds),
        [Fact("the freeze call on {} was under way".format(point), "guest")],
        "See what the disk below it is busy with (iostat, dmesg); back up off-peak, raise the "
        "hold, or add it to MountsToSkip in /etc/azure/vmbackup.conf "
        '("[SnapshotThread]", "MountsToSkip = {}").'.format(point),
        retryable=True,
    )


class Freezer:
    """Writes back what is dirty, then freezes in order, each when asked and on one thread made
    beforehand; `done()` is called on that thread after each of the two."""

    def __init__(self, fds: Sequence[int], ledger: Ledger, done: Callable[[], None]) -> None:
        self._fds = fds
        self._ledger = ledger
        self._done = done
        self._go = threading.Semaphore(0)
        self.refused: Optional[int] = None
        self.complete = False
        _start_thread(self._run)

    def go_on(self) -> None:
        self._go.release()

    def _run(self) -> None:
        self._go.acquire()
        for fd in self._fds:
            # Now, so that the freeze itself, which holds writers up, is short. What goes wrong
            # here shows in the freeze.
            write_back(fd)
        self._done()
        self._go.acquire()
        self.complete = all(self._freeze(index) for index in range(len(self._fds)))
        self._done()

    def _freeze(self, index: int) -> bool:
        # Said before it is asked: the watchdog, which says "closed" before it looks, either is
        # seen here or sees this one.
        self._ledger.began(index, time.monotonic())
        error = 0
        try:
            if self._ledger.closed_by is not By.NOBODY:
                error = errno.ECANCELED
            else:
                call_freeze(self._fds[index])
        except OSError as inner:
            error = inner.errno or errno.EIO
            self.refused = index
        self._ledger.ended(index, time.monotonic(), error)
        return error == 0


class Thawer:
    """Thaws what the ledger owes, last frozen first, each mount on a thread of its own made
    beforehand: one that blocks does not keep the others frozen. Used by one process at a time."""

    def __init__(self, fds: Sequence[int], ledger: Ledger) -> None:
        self._ledger = ledger
        self._workers = [_ThawWorker(index, fd, ledger) for index, fd in enumerate(fds)]

    def thaw(self, by: By, freezer_gone: bool = False) -> List[int]:
        """One pass over all that is owed; returns what is still owed. Bounded: a second each.

        `freezer_gone`: no freeze call can be under way any more, so "not frozen" is final.
        """
        self._ledger.close(by)
        for index in reversed(self._ledger.owed()):
            self._workers[index].try_once(freezer_gone)
        return self._ledger.owed()


class _ThawWorker:
    def __init__(self, index: int, fd: int, ledger: Ledger) -> None:
        self._index = index
        self._fd = fd
        self._ledger = ledger
        self._asked = threading.Semaphore(0)
        self._idle = threading.Event()
        self._idle.set()
        self._final = False
        _start_thread(self._run)

    def try_once(self, final: bool) -> None:
        if self._idle.is_set():  # else its last call is still in the kernel
            self._final = final
            self._idle.clear()
            self._asked.release()
        self._idle.wait(_PATIENCE_SECONDS)

    def _run(self) -> None:
        while True:
            self._asked.acquire()
            self._thaw()
            self._idle.set()

    def _thaw(self) -> None:
        known_frozen = self._ledger.phase(self._index) is Phase.FROZEN
        try:
            call_thaw(self._fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                self._ledger.thaw_failed(self._index, error.errno or errno.EIO)
            elif known_frozen or self._final:
                self._ledger.thawed(self._index, time.monotonic(), Thaw.WAS_NOT_FROZEN)
            # EINVAL while FREEZING: not frozen yet, but it may still be: it stays owed.
            return
        self._ledger.thawed(self._index, time.monotonic(), Thaw.DONE)


def _start_thread(run: Callable[[], None]) -> None:
    # Small stacks: with locked memory every byte of them is resident.
    before = threading.stack_size(_THREAD_STACK_BYTES)
    try:
        threading.Thread(target=run, daemon=True).start()
    finally:
        threading.stack_size(before)
