"""What is mounted, and what lies on what: /proc/self/mountinfo and /sys/dev/block.

Format of mountinfo: Documentation/filesystems/proc.rst, section 3.5. Names come from whoever
could mount or plug something in; they are bytes, escaped in octal, and trusted for nothing.
"""

import os
import re
from typing import Callable, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Set

_OCTAL = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of mountinfo. `point`, `root` and `source` are paths as the kernel shows them
    (undecodable bytes as surrogates); `device` is the superblock's "major:minor"."""

    id: int
    parent: int
    device: str
    root: str
    point: str
    file_system: str
    source: str
    read_only: bool


def parse_mountinfo(text: bytes) -> List[Mount]:
    """All mounts in the kernel's order; lines that are not mountinfo are left out."""
    mounts = []
    for line in text.split(b"\n"):
        left, separator, right = line.partition(b" - ")
        fields = left.split(b" ")
        tail = right.split(b" ")
        if not separator or len(fields) < 6 or len(tail) < 2 or not fields[0].isdigit():
            continue
        # The superblock's own options decide: a read-only bind mount of a writable file
        # system does not keep anyone else from writing to it.
        options = tail[2].split(b",") if len(tail) > 2 else []
        mounts.append(
            Mount(
                id=int(fields[0]),
                parent=int(fields[1]) if fields[1].isdigit() else 0,
                device=os.fsdecode(fields[2]),
                root=_unescape(fields[3]),
                point=_unescape(fields[4]),
                file_system=os.fsdecode(tail[0]),
                source=_unescape(tail[1]),
                read_only=b"ro" in options,
            )
        )
    return mounts


def _unescape(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match.group(1), 8) & 0xFF]), field))


def printable(name: str) -> str:
    """A name as it may stand in JSON and logs: valid UTF-8, no control characters."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def read_mounts() -> List[Mount]:
    with open("/proc/self/mountinfo", "rb") as file:
        return parse_mountinfo(file.read())


def mount_of_path(path: str, mounts: Sequence[Mount]) -> Optional[Mount]:
    """The mount that `path` lies on, by name alone: nothing is touched, so nothing can hang."""
    found: Optional[Mount] = None
    for mount in mounts:  # a later mount on the same point hides the earlier one
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        if inside and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


class Storage(NamedTuple):
    """What one block device rests on. `loop_files` are the backing files of the loop devices
    anywhere below it; `suspended` names a device-mapper device below it that is suspended."""

    loop_files: FrozenSet[str] = frozenset()
    suspended: str = ""


StorageOf = Callable[[Mount], Storage]


def storage_of(mount: Mount, sysfs: str = "/sys") -> Storage:
    """Follow partitions, device-mapper, md and bcache down to loop files, by sysfs."""
    files: Set[str] = set()
    suspended = ""
    seen: Set[str] = set()
    todo = [os.path.realpath(os.path.join(sysfs, "dev/block", mount.device))]
    if mount.file_system == "btrfs":
        todo = _btrfs_members(mount, sysfs)
    while todo:
        device = todo.pop()
        if device in seen or not os.path.isdir(device):
            continue
        seen.add(device)
        if os.path.exists(os.path.join(device, "partition")):
            todo.append(os.path.dirname(device))
        backing = _first_line(os.path.join(device, "loop/backing_file"))
        if backing:
            files.add(backing)
        if _first_line(os.path.join(device, "dm/suspended")) == "1":
            suspended = _first_line(os.path.join(device, "dm/name")) or os.path.basename(device)
        slaves = os.path.join(device, "slaves")
        if os.path.isdir(slaves):
            todo += [os.path.realpath(os.path.join(slaves, name)) for name in os.listdir(slaves)]
    return Storage(frozenset(files), suspended)


def _btrfs_members(mount: Mount, sysfs: str) -> List[str]:
    """btrfs shows an anonymous device number; its members stand in /sys/fs/btrfs/UUID/devices."""
    wanted = os.path.basename(os.path.realpath(mount.source))
    base = os.path.join(sysfs, "fs/btrfs")
    for uuid in os.listdir(base) if os.path.isdir(base) else []:
        folder = os.path.join(base, uuid, "devices")
        names = os.listdir(folder) if os.path.isdir(folder) else []
        if wanted in names:
            return [os.path.realpath(os.path.join(folder, name)) for name in names]
    return []


def _first_line(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.readline().rstrip(b"\n"))
    except OSError:
        return ""  # not every device has every attribute


def ancestors(mount: Mount, by_id: Dict[int, Mount]) -> List[Mount]:
    """The mounts that a path walk to `mount` crosses, nearest first."""
    chain: List[Mount] = []
    seen = {mount.id}
    above = by_id.get(mount.parent)
    while above is not None and above.id not in seen:
        chain.append(above)
        seen.add(above.id)
        above = by_id.get(above.parent)
    return chain
