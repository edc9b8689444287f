"""When a VM is backed up, how, and how long its points are kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time
from enum import StrEnum
from zoneinfo import ZoneInfo

from quiesce.model.diagnosis import MendAction

LEVELS = range(1, 20)
"""zstd's, without those that it calls ultra and that cost a thread much memory."""

LEAST_BANDWIDTH = 64 * 1024
"""Bytes a second. A slower transfer would hold its snapshot open for days, and give its vault so
few signs of life that it is taken for dead."""


@dataclass(frozen=True, slots=True)
class Retention:
    """A point is kept if any rule wants it. `keep_daily` keeps the newest point of each of the
    last N days (in the policy's time zone) that have one. The newest point is always kept."""

    keep_last: int = 7
    keep_daily: int = 30


class RoutePreference(StrEnum):
    """Who asks for the snapshot while the guest is frozen: the extension inside the VM (guest) or
    the server (host). A VM has the guest route when its agent is the Azure Linux agent."""

    GUEST_THEN_HOST = "guest-then-host"
    HOST_THEN_GUEST = "host-then-guest"
    GUEST = "guest"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class SnapshotOptions:
    """How a point is taken. `hold_seconds` bounds the freeze: the guest thaws itself at its end.

    `skip_mounts` are never frozen. `scratch_bytes` bounds what guest writes may occupy on the
    host while the snapshot is read; beyond it the snapshot breaks, the guest goes on.
    0 means half of the free space at `scratch_folder`. `route` says which way is tried, and which
    one next; a VM that has only one of them is taken by that one, unless the other is demanded.
    """

    hold_seconds: float = 10.0
    skip_mounts: tuple[str, ...] = ()
    scratch_bytes: int = 0
    route: RoutePreference = RoutePreference.GUEST_THEN_HOST


@dataclass(frozen=True, slots=True)
class Policy:
    """A named rule. `at` is the local time of day in `zone`; None means only on demand.
    `bandwidth` bounds what a backup reads from its disks, in bytes per second; 0 for no bound.
    With `audit`, every increment is checked for what its change tracking has missed."""

    name: str
    at: time | None
    zone: ZoneInfo
    retention: Retention = Retention()
    snapshot: SnapshotOptions = SnapshotOptions()
    compression_level: int = 1
    bandwidth: int = 0
    audit: bool = True
    mends_off: tuple[MendAction, ...] = ()
    """What Quiesce must not do by itself about a failure."""
