"""What the lab's guest consists of. The image's identity is the hash of all that is said here."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import asdict, dataclass, field

SUITE = "bookworm"
ARCHITECTURE = "amd64"

PACKAGES = (
    "btrfs-progs",
    "busybox-static",
    "dbus",  # without it logind does not run, nobody hears the power button or `shutdown`
    "e2fsprogs",
    "iproute2",
    "isc-dhcp-client",  # the Azure agent reads option 245 from its lease file
    "kmod",  # without it udev loads no virtio-serial module and the agent never starts
    "linux-image-cloud-amd64",
    "mount",
    "openssl",
    "procps",
    "python3",
    "qemu-guest-agent",
    "systemd",
    "systemd-sysv",
    "tiny-initramfs",  # the smallest package that satisfies the kernel's wish for an initrd maker
    "udev",
    "util-linux",
    "waagent",
    "xfsprogs",
)

LEFT_OUT = (
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/i18n/*",
    "/usr/share/lintian/*",
)
"""Paths that dpkg does not unpack (its path-exclude)."""

MASKED_UNITS = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty-static.service",
    "getty@tty1.service",
    "proc-sys-fs-binfmt_misc.automount",
    "serial-getty@ttyS0.service",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-networkd-wait-online.service",
    "systemd-pcrphase.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-pstore.service",
    "systemd-timesyncd.service",
    "systemd-update-utmp-runlevel.service",
    "walinuxagent.service",
)
"""Units that a guest without people does not need; each costs boot time."""

INITRD_MODULES = ("virtio_pci", "virtio_blk", "ext4")
"""Kernel modules needed before the root file system is there; all others lie on it."""

INIT = """\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
if $b grep -qw lab.probe /proc/cmdline; then
    $b echo lab-probe-ok > /dev/console
    $b reboot -f
fi
while read module; do $b insmod "/modules/$module"; done < /modules/order
tries=0
until $b mount -t ext4 /dev/vda /root 2>/dev/null; do
    tries=$((tries + 1))
    [ $tries -gt 100 ] && { $b echo lab-no-root > /dev/console; $b poweroff -f; }
    $b usleep 50000
done
$b mount --move /dev /root/dev
$b umount /proc
exec $b switch_root /root /sbin/init
"""
"""The initrd's init. With `lab.probe` on the kernel's command line it only proves that it ran."""

FILES = {
    "etc/hostname": "lab\n",
    "etc/hosts": "127.0.0.1 localhost lab\n",
    "etc/machine-id": "6c616200000000000000000000000001\n",
    "etc/fstab": "/dev/vda / ext4 defaults 0 0\n",
    # Nothing is logged to the disk: an idle guest writes next to nothing between two backups.
    "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n",
    "etc/systemd/system.conf.d/lab.conf": "[Manager]\nDefaultTimeoutStopSec=10s\n",
    # The data disks are mounted when they are there, and cost nothing when they are not.
    "etc/udev/rules.d/90-lab.rules": (
        'ENV{ID_FS_LABEL}=="lab-xfs", TAG+="systemd", ENV{SYSTEMD_WANTS}+="mnt-xfs.mount"\n'
        'ENV{ID_FS_LABEL}=="lab-btrfs", TAG+="systemd", ENV{SYSTEMD_WANTS}+="mnt-btrfs.mount"\n'
    ),
    # A card is configured whenever it is plugged in; a guest without one runs no DHCP client.
    "etc/udev/rules.d/91-lab-network.rules": (
        'SUBSYSTEM=="net", ACTION=="add", KERNEL=="eth0", TAG+="systemd", '
        'ENV{SYSTEMD_WANTS}+="lab-dhcp.service"\n'
    ),
    "etc/systemd/system/lab-dhcp.service": (
        "[Unit]\nDefaultDependencies=no\nAfter=sysinit.target\nConflicts=shutdown.target\n"
        "Before=shutdown.target\n"
        "[Service]\nExecStart=/sbin/dhclient -d -pf /run/dhclient.eth0.pid"
        " -lf /var/lib/dhcp/dhclient.eth0.leases eth0\n"
    ),
    "etc/systemd/system/mnt-xfs.mount": (
        "[Mount]\nWhat=/dev/disk/by-label/lab-xfs\nWhere=/mnt/xfs\nType=xfs\n"
    ),
    "etc/systemd/system/mnt-btrfs.mount": (
        "[Mount]\nWhat=/dev/disk/by-label/lab-btrfs\nWhere=/mnt/btrfs\nType=btrfs\n"
    ),
}
"""Files of the root file system, path → text."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides an image's contents. Sizes in bytes."""

    suite: str = SUITE
    architecture: str = ARCHITECTURE
    packages: tuple[str, ...] = PACKAGES
    left_out: tuple[str, ...] = LEFT_OUT
    masked_units: tuple[str, ...] = MASKED_UNITS
    files: dict[str, str] = field(default_factory=lambda: dict(FILES))
    init: str = INIT
    initrd_modules: tuple[str, ...] = INITRD_MODULES
    root_bytes: int = 2 << 30
    revision: int = 1
    """Raised when the way of building changes what comes out of the same ingredients."""

    def content_hash(self) -> str:
        """16 hexadecimal digits that name the image built from this recipe."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def files_tar(self) -> bytes:
        """The files and masked units as a tar archive, owned by root."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path, text in sorted(self.files.items()):
                member = tarfile.TarInfo(f"./{path}")
                member.size = len(text.encode())
                member.mode = 0o644
                tar.addfile(member, io.BytesIO(text.encode()))
            for unit in self.masked_units:
                link = tarfile.TarInfo(f"./etc/systemd/system/{unit}")
                link.type = tarfile.SYMTYPE
                link.linkname = "/dev/null"
                tar.addfile(link)
        return buffer.getvalue()
