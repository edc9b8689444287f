"""Writable file systems without a freeze operation: flushed, then proven quiet by their device.

A guest that boots by UEFI has one, its vfat /boot/efi, which nobody writes to for weeks. It is as
good as frozen if all of it was on its disk when the others were frozen, and nothing went to the
disk until they are thawed:

    before the freeze   syncfs until one changes no counter: then nothing was half done in memory
    at the thaw         the counters again, while the others are still frozen

The counters are the kernel's, per partition: sectors written and discarded in `stat`
(Documentation/block/stat.rst) and writes under way in `inflight`. Both files are opened
beforehand; reading them reads and writes no disk. Whatever is not proven costs consistency.
"""

import os
import threading
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from .failure import Failure
from .freeze import open_mount
from .libc import write_back
from .mounts import Mount, printable

_FLUSHES = 4
_SECTORS_WRITTEN, _SECTORS_DISCARDED = 6, 13
_WRITES = 1


class Counters(NamedTuple):
    """`changed` sectors of 512 bytes since the device came up, and writes under way now."""

    changed: int
    in_flight: int


class DeviceCounters:
    """The counters of one block device, given by its "major:minor".

    :raise OSError: there are none
    """

    def __init__(self, device: str, sysfs: str = "/sys") -> None:
        folder = os.path.realpath(os.path.join(sysfs, "dev/block", device))
        disk = folder if os.path.exists(os.path.join(folder, "queue")) else os.path.dirname(folder)
        with open(os.path.join(disk, "queue/iostats")) as file:
            if file.read().strip() != "1":
                raise OSError("its device does not count (queue/iostats is off)")
        self._stat = os.open(os.path.join(folder, "stat"), os.O_RDONLY | os.O_CLOEXEC)
        self._inflight = os.open(os.path.join(folder, "inflight"), os.O_RDONLY | os.O_CLOEXEC)
        self.read()

    def read(self) -> Counters:
        """:raise OSError: the device is gone, or counts in a way that is not known"""
        stat = os.pread(self._stat, 4096, 0).split()
        inflight = os.pread(self._inflight, 4096, 0).split()
        try:
            changed = int(stat[_SECTORS_WRITTEN])
            if len(stat) > _SECTORS_DISCARDED:  # Linux 4.18
                changed += int(stat[_SECTORS_DISCARDED])
            return Counters(changed, int(inflight[_WRITES]))
        except (IndexError, ValueError) as error:
            raise OSError("the counters are not understood: {!r}".format(error)) from error


class Unfreezable:
    """One such file system. `problem` is why it cannot be proven quiet, "" as long as it can."""

    def __init__(self, mount: Mount, sysfs: str = "/sys") -> None:
        self.mount = mount
        self.problem = ""
        self.before: Optional[Counters] = None
        try:
            self._fd = open_mount(mount)
            self._counters = DeviceCounters(mount.device, sysfs)
        except Failure as failure:
            self.problem = "it cannot be flushed: {}".format(failure.__cause__ or failure.message)
        except OSError as error:
            self.problem = "its device's counters cannot be read: {}".format(error)

    def flush(self) -> None:
        """Returns with `before` or `problem` set; as late as the device answers."""
        last: Optional[Counters] = None
        for _ in range(_FLUSHES):
            unflushed = write_back(self._fd)
            if unflushed:
                self.problem = "it cannot be flushed: {}".format(unflushed)
                return
            now = self._read()
            if now is None:
                return
            if now == last and not now.in_flight:
                self.before = now
                return
            last = now
        self.problem = "it was being written to when the others were to be frozen"

    def look_again(self) -> None:
        if self.before is None:
            return
        now = self._read()
        if now is None:
            return
        written = now.changed - self.before.changed
        if written:
            self.problem = "{} sectors of 512 bytes were written to it".format(written)
        elif now.in_flight:
            self.problem = "a write to it was under way"

    def _read(self) -> Optional[Counters]:
        try:
            return self._counters.read()
        except OSError as error:
            self.problem = "its device's counters cannot be read: {}".format(error)
            return None


class Watch:
    """All of a guest's file systems that cannot be frozen. Used by one thread."""

    def __init__(self, mounts: Sequence[Mount] = (), sysfs: str = "/sys") -> None:
        self._all = [Unfreezable(mount, sysfs) for mount in mounts]
        self._looked_again = False

    def flush(self, until: float) -> None:
        """Flush all and note their counters, at most until then (monotonic seconds): a flush may
        block for as long as its device does, and must not keep the others from being frozen."""
        todo = [one for one in self._all if not one.problem]
        thread = threading.Thread(target=_flush, args=(todo,), daemon=True)
        if todo:
            thread.start()
            thread.join(max(0.0, until - time.monotonic()))
        for one in todo:
            if one.before is None and not one.problem:
                one.problem = "flushing it took too long"

    def look_again(self) -> None:
        """At the thaw, while the others are frozen: some microseconds each."""
        self._looked_again = True
        for one in self._all:
            if not one.problem:
                one.look_again()

    def report(self) -> List[Dict[str, Any]]:
        """Entries of the freeze report."""
        return [self._entry(one) for one in self._all]

    def _entry(self, one: Unfreezable) -> Dict[str, Any]:
        kind = printable(one.mount.file_system)
        problem = one.problem
        if not problem and not (one.before and self._looked_again):
            problem = "it was not watched to the end"
        proven = "{} cannot be frozen; it was flushed and nobody wrote to it".format(kind)
        return {
            "mount": printable(one.mount.point),
            "file_system": kind,
            "freeze_ms": 0.0,
            "frozen_ms": 0.0,
            "skipped": "{} cannot be frozen, and {}".format(kind, problem) if problem else proven,
            "downgrades": bool(problem),
        }


def _flush(mounts: Sequence[Unfreezable]) -> None:
    for one in mounts:
        one.flush()
