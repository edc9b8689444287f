"""Which mounts are frozen or watched, in which order, and why the others are not.

One file system is frozen once, however often it is mounted. Order: a file system inside a loop
file before the one that holds the file (its own freeze must still be able to write there), then
innermost mount first, `/` last.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from .mounts import Mount, Storage, StorageOf, ancestors, mount_of_path, printable

# Local file systems whose kernel driver has a freeze operation (struct super_operations,
# freeze_fs): others answer FIFREEZE with EOPNOTSUPP.
FREEZABLE = frozenset(
    ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "nilfs2", "reiserfs", "bcachefs"]
)
REMOTE = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ncpfs",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "beegfs",
        "gpfs",
        "9p",
        "virtiofs",
        "coda",
        "orangefs",
        "davfs",
        "vboxsf",
        "vmhgfs",
    ]
)
CLUSTER = frozenset(["gfs2", "ocfs2"])
# On a disk of this VM and writable, but without a freeze operation. Of these, fuseblk is written
# by a process of its own, which no flush reaches, and zfs has no block device number to watch.
UNFREEZABLE = frozenset(
    [
        "vfat",
        "msdos",
        "exfat",
        "ntfs",
        "ntfs3",
        "fuseblk",
        "hfs",
        "hfsplus",
        "udf",
        "ufs",
        "minix",
        "affs",
        "zfs",
    ]
)


class Decision(NamedTuple):
    """One file system, its representative mount, and what is done with it. `downgrades`: leaving
    it out costs consistency, since it lies on a disk of this VM and may be written to. `watch`: it
    cannot be frozen, and costs nothing if it then proves to be quiet (see unfreezable.py)."""

    mount: Mount
    freeze: bool
    reason: str
    downgrades: bool = False
    in_memory: bool = False
    watch: bool = False

    @property
    def action(self) -> str:
        return "freeze" if self.freeze else "watch" if self.watch else "skip"

    def as_json(self) -> Dict[str, Any]:
        return {
            "mount": printable(self.mount.point),
            "device": printable(self.mount.source),
            "number": self.mount.device,
            "file_system": printable(self.mount.file_system),
            "action": self.action,
            "reason": self.reason,
            "downgrades": self.downgrades,
        }


class Wishes(NamedTuple):
    """What the operator and the host asked for. Mount points are compared as they are written
    and as they are shown. `only`: freeze nothing but these. `none`: why nothing is to be frozen."""

    skip: Tuple[str, ...] = ()
    only: Optional[Tuple[str, ...]] = None
    none: str = ""


def plan(mounts: Sequence[Mount], storage_of: StorageOf, wishes: Wishes) -> List[Decision]:
    """Every mount with its decision: those to freeze first, in freeze order."""
    by_id = {mount.id: mount for mount in mounts}
    chosen: Dict[str, Mount] = {}
    for mount in mounts:
        best = chosen.get(mount.device)
        if best is None or _rank(mount, mounts) < _rank(best, mounts):
            chosen[mount.device] = mount
    frozen: List[Decision] = []
    skipped: List[Decision] = []
    storage: Dict[str, Storage] = {}
    for mount in mounts:
        if chosen[mount.device].id != mount.id:
            twin = printable(chosen[mount.device].point)
            memory = mount.device.startswith("0:") and mount.file_system not in FREEZABLE
            reason = "the same file system as " + twin
            skipped.append(Decision(mount, False, reason, in_memory=memory))
            continue
        if mount.file_system in FREEZABLE or not (mount.read_only or _has_no_device(mount)):
            storage[mount.device] = storage_of(mount)
        twins = [other for other in mounts if other.device == mount.device]
        decision = _decide(mount, twins, by_id, storage.get(mount.device, Storage()), wishes)
        (frozen if decision.freeze else skipped).append(decision)
    ordered = _order(frozen, mounts, storage)
    return ordered + sorted(skipped, key=lambda one: one.mount.point)


def _rank(mount: Mount, mounts: Sequence[Mount]) -> Tuple[bool, bool, int, int]:
    """The mount that stands for its file system: reachable by its path, whole, shortest."""
    top = mount_of_path(mount.point, mounts)
    hidden = top is None or top.id != mount.id
    return (hidden, mount.root != "/", len(mount.point), mount.id)


def _decide(
    mount: Mount,
    twins: Sequence[Mount],
    by_id: Dict[int, Mount],
    storage: Storage,
    wishes: Wishes,
) -> Decision:
    kind = mount.file_system

    def skip(reason: str, downgrades: bool = False) -> Decision:
        return Decision(mount, False, reason, downgrades)

    if kind in REMOTE or kind.startswith(("nfs", "cifs", "smb")):
        return skip("remote file system: not on a disk of this VM")
    if kind == "fuse" or kind.startswith("fuse."):
        return skip("FUSE: a process of its own answers for it, which may hang")
    if _has_no_device(mount) and kind not in UNFREEZABLE | FREEZABLE | CLUSTER | {"overlay"}:
        return Decision(mount, False, "not on a disk", in_memory=True)  # proc, tmpfs and the like
    if mount.read_only:
        return skip("read-only")
    if kind in CLUSTER:
        return skip("cluster file system: a freeze would stop the other nodes too", True)
    if kind == "overlay":
        return skip("overlay: its files lie on the file systems below it")
    if wishes.none:
        return skip(wishes.none, True)
    points = {twin.point for twin in twins} | {printable(twin.point) for twin in twins}
    if wishes.only is not None and not points.intersection(wishes.only):
        return skip("not among the mounts asked for", True)
    unwanted = points.intersection(_plain(name) for name in wishes.skip)
    if unwanted:
        return skip("skipped on request", True)
    if storage.suspended:
        return skip("its device {} is suspended".format(printable(storage.suspended)), True)
    for above in ancestors(mount, by_id):
        if above.file_system in REMOTE or above.file_system.startswith(("nfs", "cifs", "fuse")):
            where = printable(above.point)
            return skip("its path leads through the remote mount {}".format(where), True)
    if kind in FREEZABLE:
        return Decision(mount, True, "")
    if kind == "fuseblk" or _has_no_device(mount):
        return skip(kind + " has no freeze operation", True)
    reason = kind + " cannot be frozen; it is flushed before the freeze and watched"
    return Decision(mount, False, reason, downgrades=True, watch=True)


def _has_no_device(mount: Mount) -> bool:
    """An anonymous device number: in memory, remote, or over several devices as btrfs and zfs."""
    return mount.device.startswith("0:")


def _plain(name: str) -> str:
    return name.rstrip("/") or "/"


def _order(
    frozen: Sequence[Decision], mounts: Sequence[Mount], storage: Dict[str, Storage]
) -> List[Decision]:
    """Innermost first, but never a file system before one whose loop file it holds."""
    waiting = sorted(frozen, key=lambda one: (-_depth(one.mount.point), one.mount.point))
    must_wait_for: Dict[str, Set[str]] = {}
    devices = {one.mount.device for one in waiting}
    for one in waiting:
        for path in storage[one.mount.device].loop_files:
            holder = mount_of_path(path, mounts)
            if holder is not None and holder.device in devices - {one.mount.device}:
                must_wait_for.setdefault(holder.device, set()).add(one.mount.device)
    ordered: List[Decision] = []
    while waiting:
        left = {one.mount.device for one in waiting}
        free = [one for one in waiting if not must_wait_for.get(one.mount.device, set()) & left]
        if not free:  # a circle of loop files: no order is safe
            reason = "holds the loop file of a file system that holds its own"
            return ordered + [Decision(one.mount, False, reason, True) for one in waiting]
        ordered.append(free[0])
        waiting.remove(free[0])
    return ordered


def _depth(point: str) -> int:
    return 0 if point == "/" else point.rstrip("/").count("/")
