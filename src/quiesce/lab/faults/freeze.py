"""Freezing: mounts that others would hang on, disks that do not answer, somebody else's freeze."""

from __future__ import annotations

from collections.abc import Iterator

from quiesce.lab.faults.fault import Scene, fault
from quiesce.lab.faults.hanging_fuse import HANGING_FUSE

FREEZE = "freeze"
_LEFT_OUT = {"freeze.mount-left-out": "the point was taken without that mount, and says so"}
_STUCK = {
    **_LEFT_OUT,
    "session.active": "the session whose freeze never returned still holds the guest",
}


@fault("frozen-by-somebody-else", FREEZE, "freeze.busy", beside=_LEFT_OUT, heals=False)
def frozen_by_somebody_else(scene: Scene) -> Iterator[None]:
    """Another program has frozen a file system and holds it."""
    scene.hand.run("fsfreeze --freeze /mnt/xfs")
    yield
    scene.hand.run("fsfreeze --unfreeze /mnt/xfs || true")


@fault(
    "file-system-shut-down",
    FREEZE,
    "freeze.mount-unavailable",
    accepted=("freeze.failed",),
    because="one kernel refuses to open such a file system, another one to freeze it",
    beside=_LEFT_OUT,
    heals=False,
)
def file_system_shut_down(scene: Scene) -> Iterator[None]:
    """A file system has shut itself down after an error of its disk."""
    scene.hand.run("xfs_io -x -c shutdown /mnt/xfs")
    yield
    scene.hand.run("umount /mnt/xfs && systemctl start mnt-xfs.mount")


@fault("disk-does-not-answer", FREEZE, "freeze.timeout", beside=_STUCK, heals=False)
def disk_does_not_answer(scene: Scene) -> Iterator[None]:
    """The disk below a file system with much to write back takes a byte per second."""
    _throttle(scene, 1)
    scene.hand.run(
        "systemd-run --quiet --unit=writer sh -c "
        "'while :; do dd if=/dev/zero of=/mnt/xfs/stalled bs=64k count=200 2>/dev/null; done'; "
        "sleep 1"
    )
    yield
    _throttle(scene, 0)
    scene.hand.run("systemctl stop writer; rm -f /mnt/xfs/stalled; sync", seconds=120)


def _throttle(scene: Scene, bytes_per_second: int) -> None:
    limits = dict.fromkeys(("bps", "bps_rd", "iops", "iops_rd", "iops_wr"), 0)
    drive = "/machine/peripheral/vdb/virtio-backend"
    scene.guest.qmp("block_set_io_throttle", {"id": drive, **limits, "bps_wr": bytes_per_second})


@fault("loop-mount", FREEZE, "", quick=True)
def loop_mount(scene: Scene) -> Iterator[None]:
    """A file system in a file of another one: frozen in the wrong order, both would hang."""
    scene.hand.run(
        "set -e; modprobe loop; truncate -s 64M /root/loop.img; mkfs.ext4 -q /root/loop.img; "
        "mkdir -p /mnt/loop; mount -o loop /root/loop.img /mnt/loop; echo x > /mnt/loop/file"
    )
    yield
    scene.hand.run("umount /mnt/loop; rm /root/loop.img")


@fault("bind-mount", FREEZE, "")
def bind_mount(scene: Scene) -> Iterator[None]:
    """The same file system mounted twice: frozen twice, the second call fails."""
    scene.hand.run("mkdir -p /mnt/bind /mnt/xfs/sub; mount --bind /mnt/xfs/sub /mnt/bind")
    yield
    scene.hand.run("umount /mnt/bind")


@fault("overlay-mount", FREEZE, "")
def overlay_mount(scene: Scene) -> Iterator[None]:
    """An overlay, as containers have, over file systems that are frozen."""
    scene.hand.run(
        "set -e; modprobe overlay; mkdir -p /mnt/xfs/up /mnt/xfs/work /mnt/over; "
        "mount -t overlay overlay -o lowerdir=/opt,upperdir=/mnt/xfs/up,workdir=/mnt/xfs/work "
        "/mnt/over; echo x > /mnt/over/file"
    )
    yield
    scene.hand.run("umount /mnt/over; rm -rf /mnt/xfs/up /mnt/xfs/work")


@fault("fuse-hangs", FREEZE, "")
def fuse_hangs(scene: Scene) -> Iterator[None]:
    """A FUSE mount whose process answers no more: whoever touches it hangs."""
    scene.hand.put("/run/hanging-fuse.py", HANGING_FUSE)
    scene.hand.run(
        "mkdir -p /mnt/fuse; systemd-run --quiet --unit=fuse python3 /run/hanging-fuse.py; "
        "for i in $(seq 100); do grep -q ' /mnt/fuse fuse' /proc/mounts && exit 0; sleep 0.1; "
        "done; exit 1"
    )
    yield
    scene.hand.run("systemctl kill --signal=KILL fuse; umount --lazy /mnt/fuse; true")


@fault("loop-on-a-fuse-that-hangs", FREEZE, "freeze.timeout", beside=_STUCK, heals=False)
def loop_on_hanging_fuse(scene: Scene) -> Iterator[None]:
    """A file system in a file of a FUSE mount whose process answers no more."""
    scene.hand.put("/run/hanging-fuse.py", HANGING_FUSE)
    scene.hand.run(
        "set -e; modprobe loop; mkdir -p /mnt/fuse /mnt/loop; rm -f /run/hang; "
        "truncate -s 64M /run/loop.img; mkfs.ext4 -q /run/loop.img; "
        "systemd-run --quiet --unit=fuse python3 /run/hanging-fuse.py /run/loop.img; "
        "for i in $(seq 100); do grep -q ' /mnt/fuse fuse' /proc/mounts && break; sleep 0.1; "
        "done; "
        "mount -o loop /mnt/fuse/file /mnt/loop; echo x > /mnt/loop/file; sync; "
        "touch /run/hang; (dd if=/dev/urandom of=/mnt/loop/more bs=1M count=8 & ) 2>/dev/null; "
        "sleep 1"
    )
    yield
    # The kernel ends what waits for a FUSE process that is gone.
    scene.hand.run(
        "systemctl kill --signal=KILL fuse; sleep 1; umount --lazy /mnt/loop; "
        "umount --lazy /mnt/fuse; losetup -D; rm -f /run/hang /run/loop.img; true"
    )
