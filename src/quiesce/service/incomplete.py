"""A restore that has salvaged what can be read: what is missing, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quiesce.model.damage import DiskHealth
from quiesce.model.extent import Extent
from quiesce.model.failure import Evidence, RestoreFailure
from quiesce.model.units import size_text


@dataclass(frozen=True, slots=True)
class Incomplete:
    """A restored disk, at `path`, in which zeros stand for what is `lost`."""

    lost: DiskHealth
    path: str


def loss_of(disk: str, lost: Iterable[Extent]) -> DiskHealth:
    """What of it heals is not looked for."""
    return DiskHealth.of(disk, ((each.offset_bytes, each.length_bytes, False) for each in lost))


def incomplete(disks: Sequence[Incomplete], why: Iterable[Evidence]) -> RestoreFailure:
    """How a restore ends that could not read all of these disks. `why`: facts about the vault."""
    if len(disks) == 1:
        (only,) = disks
        who = f"Disk {only.lost.name} is incomplete"
    else:
        who = f"{len(disks)} disks are incomplete"
    lost = sum(disk.lost.hurt_bytes for disk in disks)
    return RestoreFailure(
        "restore.point-incomplete",
        f"{who}: {size_text(lost)} could not be read, and zeros stand for them.",
        evidence=[*(Evidence(loss_text(disk.lost), disk.path) for disk in disks), *why],
    )


def loss_text(lost: DiskHealth) -> str:
    """Which bytes of it cannot be read."""
    ranges = [f"{r.offset_bytes}–{r.offset_bytes + r.length_bytes}" for r in lost.ranges]
    if lost.more_ranges:
        ranges.append(f"and {lost.more_ranges} more of {size_text(lost.more_bytes)}")
    count = len(lost.ranges) + lost.more_ranges
    return (
        f"disk {lost.name}: {size_text(lost.hurt_bytes)} ({lost.hurt_bytes} bytes) in {count} "
        f"{'range' if count == 1 else 'ranges'} cannot be read, bytes {', '.join(ranges)}"
    )
