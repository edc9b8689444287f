"""One point in time of one VM: its consistency, the freeze that led to it, its session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from quiesce.model.failure import FailureReport


class Consistency(StrEnum):
    """What was proven about a point, best first."""

    APPLICATION = "application"
    """Frozen for the whole snapshot, and the operator's pre- and post-scripts both succeeded."""
    FILE_SYSTEM = "file-system"
    """Every writable local file system was frozen for the whole snapshot."""
    CRASH = "crash"
    """As after a power cut."""
    OFFLINE = "offline"
    """The VM was off; nothing could change."""


class Route(StrEnum):
    HOST = "host"
    GUEST = "guest"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class ConsistencyLabel:
    """The level that was proven and, unless it is the best there is, why it is not better."""

    level: Consistency
    reason: str = ""


@dataclass(frozen=True, slots=True)
class MountFreeze:
    """One mount during one freeze. Times in milliseconds.

    `freeze_ms` is what the freeze call took, `frozen_ms` how long writes were held. A mount that
    was not frozen has `skipped` with the reason and zeros. `downgrades` is true when leaving it out
    costs consistency: it lies on a disk of this VM and something writes to it (an operator's own
    skip counts too); a second mount of a frozen file system does not.
    """

    mount: str
    file_system: str
    freeze_ms: float = 0.0
    frozen_ms: float = 0.0
    skipped: str = ""
    downgrades: bool = False


@dataclass(frozen=True, slots=True)
class FreezeReport:
    """What the guest reported about one freeze.

    `held` is true only when every frozen mount stayed frozen from before the snapshot until the
    thaw was asked for; false when the watchdog had to thaw first.
    """

    mounts: tuple[MountFreeze, ...]
    held: bool
    hold_seconds: float


@dataclass(frozen=True, slots=True)
class SessionDisk:
    """One disk of a snapshot session, readable over NBD on a unix socket.

    `dirty_bitmap` is the exported bitmap's name, for the meta context
    `qemu:dirty-bitmap:<name>`, or None for a full read, in which case `full_read_reason` says why.
    `base_generation` is the generation that the dirty bitmap counts from.
    `generation` is this point's own: later incrementals may count from it; empty when no bitmap
    could be started for this disk.
    `allocation_exports` are further exports on the same socket. When there are any, they tell what
    is allocated instead of `export` itself: asked in this order, a range reads as zeros where all
    of them say so. `read_unit_bytes`: no single read may cross a multiple of it; 0 for no limit.
    """

    name: str
    size_bytes: int
    nbd_socket: Path
    export: str
    dirty_bitmap: str | None = None
    base_generation: str = ""
    full_read_reason: str = ""
    generation: str = ""
    format: str = "raw"
    allocation_exports: tuple[str, ...] = ()
    read_unit_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotSession:
    """A point in time held open by the hypervisor until it is released. Plain data: it survives
    a restart of the server, since QEMU keeps the session."""

    task_id: str
    taken_at: datetime
    route: Route
    disks: tuple[SessionDisk, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The outcome of the task *Take snapshot*. `setbacks` are what failed on the way to it and was
    got round, such as the other route: kept whole as evidence."""

    session: SnapshotSession
    consistency: ConsistencyLabel
    freeze: FreezeReport | None
    warnings: tuple[str, ...] = ()
    setbacks: tuple[FailureReport, ...] = ()
