"""Damage to recovery points: which of their bytes cannot be read, and which of these heal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

DISK_RANGES = 64
"""Ranges listed of one disk."""
REPORT_POINTS = 100
REPORT_RANGES = 1000
"""Points, and ranges of all their disks, that a report lists: some 100 KiB as JSON."""


@dataclass(frozen=True, slots=True)
class HurtRange:
    """Bytes of a disk that cannot be read. With `heals` they stood, as they were, in the newest
    point of some VM: the next full read of that VM stores them anew if its disk still holds them,
    and a VM with known damage is read in full. Of others no disk is known that holds them."""

    offset_bytes: int
    length_bytes: int
    heals: bool = False


@dataclass(frozen=True, slots=True)
class DiskHealth:
    """One disk of a point. `hurt_bytes` cannot be read, `healable_bytes` of them heal. `ranges` are
    the first of them; `more_ranges`, which hold `more_bytes`, are not listed."""

    name: str
    hurt_bytes: int = 0
    ranges: tuple[HurtRange, ...] = ()
    healable_bytes: int = 0
    more_ranges: int = 0
    more_bytes: int = 0

    @classmethod
    def of(
        cls, name: str, hurt: Iterable[tuple[int, int, bool]], listed: int = DISK_RANGES
    ) -> DiskHealth:
        """`hurt` are (offset, length, heals) in order, of which there may be millions; neighbours
        that heal alike become one range."""
        ranges: list[HurtRange] = []
        begin, end, alike = 0, -1, False
        total = healable = more_ranges = more_bytes = 0
        for offset, length, heals in hurt:
            total += length
            healable += length if heals else 0
            if offset != end or heals != alike:
                begin, alike = offset, heals
                if len(ranges) < listed:
                    ranges.append(HurtRange(offset, length, heals))
                else:
                    more_ranges += 1
            elif not more_ranges:
                ranges[-1] = HurtRange(begin, offset + length - begin, heals)
            if more_ranges:
                more_bytes += length
            end = offset + length
        return cls(name, total, tuple(ranges), healable, more_ranges, more_bytes)

    def listing(self, ranges: int) -> DiskHealth:
        """The same with so many ranges listed, if it lists more."""
        cut = self.ranges[ranges:]
        return replace(
            self,
            ranges=self.ranges[:ranges],
            more_ranges=self.more_ranges + len(cut),
            more_bytes=self.more_bytes + sum(each.length_bytes for each in cut),
        )


@dataclass(frozen=True, slots=True)
class PointHealth:
    """One point. `lost` says why nothing of it can be read; then `vm` and `disks` are unknown."""

    point_id: str
    vm: str
    taken_at: datetime | None
    disks: tuple[DiskHealth, ...]
    lost: str = ""

    @property
    def intact(self) -> bool:
        return not self.lost and not self.hurt_bytes

    @property
    def healable(self) -> bool:
        """Whether the next backups heal all that is hurt, if the disks still hold it."""
        return not self.lost and self.healable_bytes == self.hurt_bytes

    @property
    def hurt_bytes(self) -> int:
        return sum(disk.hurt_bytes for disk in self.disks)

    @property
    def healable_bytes(self) -> int:
        return sum(disk.healable_bytes for disk in self.disks)


@dataclass(frozen=True, slots=True)
class DamageReport:
    """What a look at recovery points has found, at `at` (UTC).

    `points` are those that are hurt, newest first, with their hurt disks; `more_points`, which
    have lost `more_bytes`, are not listed. `hurt_bytes` and `healable_bytes` are of all of them;
    what a point holds whose manifest cannot be read is not known, and is not in any figure.
    `looked_at` points were looked at, and `unseen` were not: nothing is said of those. Without
    `heals_known` a limit ended the look for what heals: more may than is said to.
    """

    at: datetime
    looked_at: int
    unseen: int = 0
    points: tuple[PointHealth, ...] = ()
    hurt_bytes: int = 0
    healable_bytes: int = 0
    more_points: int = 0
    more_bytes: int = 0
    heals_known: bool = True

    @classmethod
    def of(cls, points: Iterable[PointHealth], at: datetime, *, unseen: int = 0) -> DamageReport:
        """`points` are all that were looked at."""
        every = tuple(points)
        newest_first = sorted(
            (point for point in every if not point.intact),
            key=lambda point: (point.taken_at is not None, point.taken_at or at, point.point_id),
            reverse=True,
        )
        left = REPORT_RANGES
        listed = []
        for point in newest_first[:REPORT_POINTS]:
            disks = []
            for disk in point.disks:
                if disk.hurt_bytes:
                    disks.append(disk.listing(left))
                    left -= len(disks[-1].ranges)
            listed.append(replace(point, disks=tuple(disks)))
        more = newest_first[REPORT_POINTS:]
        return cls(
            at=at,
            looked_at=len(every),
            unseen=unseen,
            points=tuple(listed),
            hurt_bytes=sum(point.hurt_bytes for point in newest_first),
            healable_bytes=sum(point.healable_bytes for point in newest_first),
            more_points=len(more),
            more_bytes=sum(point.hurt_bytes for point in more),
        )

    @property
    def hurt_points(self) -> int:
        return len(self.points) + self.more_points

    def of_point(self, point_id: str) -> PointHealth | None:
        """None when it is not known to be hurt, or is not listed."""
        return next((point for point in self.points if point.point_id == point_id), None)
