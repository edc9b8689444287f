"""VMs and their disks, as the hypervisor shows them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from quiesce.model.network import Proxy


class AgentKind(StrEnum):
    """Through which agent Quiesce speaks with the extension in a VM."""

    QGA = "qga"
    """The QEMU guest agent: a socket, no network."""
    WAAGENT = "waagent"
    """The Azure Linux agent: it polls the wire server over the VM's network."""
    BOTH = "both"

    @property
    def waagent(self) -> bool:
        return self is not AgentKind.QGA

    @property
    def qga(self) -> bool:
        return self is not AgentKind.WAAGENT


class PowerState(StrEnum):
    """What the hypervisor says about a VM; OFF means no process runs it."""

    RUNNING = "running"
    PAUSED = "paused"
    MIGRATING = "migrating"
    SHUT_DOWN = "shut-down"
    """The guest has powered down but the VM's process still holds the disks."""
    CRASHED = "crashed"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class VmAddress:
    """How to reach one QEMU VM. Paths are absolute, on the hypervisor host.

    `disks` (name → image file) is needed only to back the VM up while it is powered off; while
    it runs, its disks are asked of QEMU and remembered. `formats` (name → image format) likewise:
    a disk without one is probed, and a guest that owns a raw disk can make it look like anything.

    `guest_address` is the VM's address on its network, for an agent that comes from somewhere
    where its network card cannot be seen (a router between); empty: the card tells which VM it is.
    `proxy` None: the server's.
    """

    name: str
    qmp_socket: Path
    qga_socket: Path | None = None
    disks: tuple[tuple[str, Path], ...] = ()
    formats: tuple[tuple[str, str], ...] = ()
    agent: AgentKind = AgentKind.QGA
    guest_address: str = ""
    proxy: Proxy | None = None


@dataclass(frozen=True, slots=True)
class NetworkCard:
    """One network card of a VM: its hardware address ("52:54:00:…", lower case) and the host's
    interface behind it, empty when it has none (QEMU's user network)."""

    hardware_address: str
    interface: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    """One writable disk of a VM.

    `name` is stable across reboots (the device id, else the drive id); `node` is QEMU's node
    name of today; `bitmaps` are Quiesce's own bitmaps that may be used, newest last.
    """

    name: str
    size_bytes: int
    path: Path | None
    format: str
    node: str = ""
    bitmaps: tuple[str, ...] = ()
    persistent_bitmaps: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class VmState:
    power: PowerState
    disks: tuple[Disk, ...]
    hypervisor: str
    """Name and version, such as "QEMU 7.2.22"."""
