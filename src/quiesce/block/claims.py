"""Who keeps a block device for itself: a mount, swap, LVM, RAID, device mapper.

The kernel refuses such a device to whoever opens it with O_EXCL, and does not say whose it is. The
same holds for a disk one of whose partitions is kept. What is told here is for people: nothing is
decided by it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from quiesce.model.failure import Evidence

_DEVICES = Path("/sys/dev/block")
_TOLD = 5


def claims_on(path: Path) -> tuple[Evidence, ...]:
    """Mounts, swap and devices made of it; empty where the kernel tells nothing."""
    try:
        number = path.stat().st_rdev
        found = list(_claims(f"{os.major(number)}:{os.minor(number)}"))
    except OSError:
        return ()
    return tuple(Evidence(fact, where) for fact, where in found[:_TOLD])


def _claims(number: str) -> Iterator[tuple[str, str]]:
    """(fact, where it stands) of the device with this number, and of its partitions."""
    device = (_DEVICES / number).resolve()
    parts = [part for part in device.iterdir() if (part / "partition").exists()]
    for each in (device, *parts):
        its_number = (each / "dev").read_text().strip()
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            # man 5 proc: id, parent, major:minor, root, mount point.
            fields = line.split()
            if fields[2] == its_number:
                yield f"{each.name} is mounted at {fields[4]}", "/proc/self/mountinfo"
        for line in Path("/proc/swaps").read_text(errors="replace").splitlines()[1:]:
            if line.split()[0] == f"/dev/{each.name}":
                yield f"{each.name} is swap", "/proc/swaps"
        for holder in (each / "holders").iterdir():
            name = holder / "dm" / "name"
            label = name.read_text().strip() if name.exists() else holder.name
            yield f"{each.name} is a part of {label}", str(each / "holders")
