"""A VM as its hypervisor shows it to somebody who looks for the cause of a failure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from quiesce.model.vm import PowerState


class Tracking(StrEnum):
    """Whether the next backup of a disk can count from a bitmap. FIRST: there is no point yet to
    count from. UNUSABLE: for a reason that passes, or that has a code of its own."""

    GOOD = "good"
    MISSING = "missing"
    INCONSISTENT = "inconsistent"
    FIRST = "first"
    UNUSABLE = "unusable"


class PortState(StrEnum):
    """The channel of the QEMU guest agent. MISSING: QEMU has none behind the socket that we know;
    OPEN: a process in the guest has it open."""

    OPEN = "open"
    CLOSED = "closed"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class DiskSurvey:
    """One disk. `reason` says why tracking is not good; `unsupported` why its format keeps none
    over a power-off; `stale` are bitmaps of ours that belong to no point and no active job."""

    name: str
    tracking: Tracking
    reason: str = ""
    unsupported: str = ""
    stale: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VmSurvey:
    """`status` is QEMU's own word for the run state (paused, io-error, …), empty when it is off.
    `device` is whether there is a port of the guest agent's, under its usual name or behind the
    socket that we know; None and `port` None when that could not be found out. `process` is QEMU's
    id, 0 when unknown, and `processors` how many the VM has. `sessions` are task ids of which the
    hypervisor holds anything but a kept bitmap."""

    power: PowerState
    status: str = ""
    hypervisor: str = ""
    disks: tuple[DiskSurvey, ...] = ()
    device: bool | None = None
    port: PortState | None = None
    process: int = 0
    processors: int = 0
    sessions: tuple[str, ...] = ()
