"""What a lab guest's hardware is, as QEMU's command line."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quiesce.model.failure import Evidence, LabFailure

LONGEST_SOCKET_PATH = 100
"""Bytes; a unix socket's address ends at 107 (unix(7)), and clients add suffixes to it."""

KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet loglevel=4 rootfstype=ext4 fsck.mode=skip mitigations=off "
    "net.ifnames=0 no_timer_check random.trust_cpu=on systemd.show_status=0 panic=-1"
)


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a saved state depends on, apart from the disks. Memory in MiB."""

    accelerator: str = "tcg,thread=multi"
    memory_mib: int = 512
    cpus: int = 1
    machine: str = "pc"
    """i440FX: its bus takes hot-plugged disks without further bridges."""

    @property
    def cpu(self) -> str:
        return "host" if self.accelerator.startswith("kvm") else "max"


@dataclass(frozen=True, slots=True)
class DiskFile:
    """An image file and its format, `qcow2` or `raw`."""

    path: Path
    format: str = "qcow2"


@dataclass(frozen=True, slots=True)
class Card:
    """A network card: the tap behind it in its network's namespace, its hardware address and the
    address that DHCP leases to it."""

    tap: str
    hardware_address: str
    address: str


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """Where a guest's own files lie in its folder."""

    folder: Path

    @property
    def qmp_socket(self) -> Path:
        return self.folder / "qmp.sock"

    @property
    def monitor_socket(self) -> Path:
        return self.folder / "monitor.sock"

    @property
    def qga_socket(self) -> Path:
        return self.folder / "qga.sock"

    @property
    def pid_file(self) -> Path:
        return self.folder / "qemu.pid"

    @property
    def console_log(self) -> Path:
        return self.folder / "console.log"

    @property
    def qemu_log(self) -> Path:
        return self.folder / "qemu.log"

    def check(self) -> None:
        """Raises LabFailure `lab.path-too-long` when its sockets could not be bound."""
        longest = max(len(bytes(path)) for path in (self.monitor_socket, self.qmp_socket))
        if longest > LONGEST_SOCKET_PATH:
            raise LabFailure(
                "lab.path-too-long",
                f"The folder {self.folder} is too deep for unix sockets in it.",
                evidence=[Evidence(fact=f"socket path of {longest} bytes", source="quiesce")],
                remedy="Use a folder with a shorter path.",
            )


@dataclass(frozen=True, slots=True)
class Machine:
    """One guest, ready to be turned into a command line. `disks` are `vda`, `vdb`, … in order."""

    hardware: Hardware
    kernel: Path
    initrd: Path
    files: GuestFiles
    disks: Mapping[str, DiskFile] = field(default_factory=dict)
    saved_state: Path | None = None
    """Resume this zstd-compressed migration stream instead of booting."""
    card: Card | None = None
    """Plugged in from the start. A saved state has none: a card's address would be part of it, so
    a resumed guest gets its card afterwards (`card_commands`)."""

    def command(self) -> list[str]:
        """QEMU's command line. Device ids are the disk names, node names `disk-<name>` and
        `file-<name>`, serials `lab-<name>`."""
        files = self.files
        return [
            "qemu-system-x86_64",
            "-no-user-config",
            "-nodefaults",
            *("-name", f"{_option(files.folder.name)},debug-threads=on"),
            *("-machine", f"{self.hardware.machine},hpet=off,usb=off"),
            *("-accel", self.hardware.accelerator),
            *("-cpu", self.hardware.cpu),
            *("-smp", str(self.hardware.cpus)),
            *("-m", str(self.hardware.memory_mib)),
            *("-display", "none"),
            *("-pidfile", str(files.pid_file)),
            *("-kernel", str(self.kernel)),
            *("-initrd", str(self.initrd)),
            *("-append", KERNEL_ARGUMENTS),
            *("-chardev", f"file,id=console,path={_option(files.console_log)},append=on"),
            *("-serial", "chardev:console"),
            *_monitor("qmp", files.qmp_socket),
            *_monitor("monitor", files.monitor_socket),
            *("-device", "virtio-rng-pci"),
            *("-device", "virtio-serial-pci,id=ports"),
            *("-chardev", f"socket,id=qga,path={_option(files.qga_socket)},server=on,wait=off"),
            *("-device", "virtserialport,bus=ports.0,chardev=qga,name=org.qemu.guest_agent.0"),
            *(argument for name, disk in self.disks.items() for argument in _disk(name, disk)),
            *(_card(self.card) if self.card else ()),
            *(
                ("-incoming", f"exec:zstd -qdc {shlex.quote(str(self.saved_state))}")
                if self.saved_state
                else ()
            ),
        ]


def card_commands(card: Card) -> tuple[tuple[str, dict[str, object]], ...]:
    """QMP commands, with their arguments, that plug a card into a running machine."""
    return (
        ("netdev_add", _tap(card)),
        ("device_add", _nic(card)),
    )


def state_key(image_name: str, layout: str, hardware: Hardware, qemu_version: str) -> str:
    """Names the saved state of a booted guest: 16 hexadecimal digits over all it depends on."""
    nowhere = GuestFiles(Path("/"))
    machine = Machine(hardware, Path("vmlinuz"), Path("initrd"), nowhere, {})
    text = json.dumps([image_name, layout, qemu_version, machine.command()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _monitor(name: str, socket: Path) -> list[str]:
    return [
        *("-chardev", f"socket,id={name},path={_option(socket)},server=on,wait=off"),
        *("-mon", f"chardev={name},mode=control"),
    ]


def _option(value: Path | str) -> str:
    """A value inside one of QEMU's comma-separated options."""
    return str(value).replace(",", ",,")


def _disk(name: str, disk: DiskFile) -> list[str]:
    file_node = {
        "driver": "file",
        "node-name": f"file-{name}",
        "filename": str(disk.path),
        "discard": "unmap",
    }
    disk_node = {
        "driver": disk.format,
        "node-name": f"disk-{name}",
        "file": f"file-{name}",
        "discard": "unmap",
    }
    return [
        *("-blockdev", json.dumps(file_node)),
        *("-blockdev", json.dumps(disk_node)),
        *("-device", f"virtio-blk-pci,id={name},drive=disk-{name},serial=lab-{name}"),
    ]


def _card(card: Card) -> list[str]:
    return ["-netdev", json.dumps(_tap(card)), "-device", json.dumps(_nic(card))]


def _tap(card: Card) -> dict[str, object]:
    return {
        "type": "tap",
        "id": "net0",
        "ifname": card.tap,
        "script": "no",
        "downscript": "no",
    }


def _nic(card: Card) -> dict[str, object]:
    return {
        "driver": "virtio-net-pci",
        "id": "eth0",
        "netdev": "net0",
        "mac": card.hardware_address,
        "romfile": "",  # nobody boots from the network
    }
