"""When a VM is backed up, how, and how long its points are kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Retention:
    """A point is kept if any rule wants it. `keep_daily` keeps the newest point of each of the
    last N days (in the policy's time zone) that have one. The newest point is always kept."""

    keep_last: int = 7
    keep_daily: int = 30


@dataclass(frozen=True, slots=True)
class SnapshotOptions:
    """How a point is taken. `hold_seconds` bounds the freeze: the guest thaws itself at its end.

    `skip_mounts` are never frozen. `scratch_bytes` bounds what guest writes may occupy on the
    host while the snapshot is read; beyond it the snapshot breaks, the guest goes on.
    0 means half of the free space at `scratch_folder`.
    """

    hold_seconds: float = 10.0
    skip_mounts: tuple[str, ...] = ()
    scratch_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """A named rule. `at` is the local time of day in `zone`; None means only on demand."""

    name: str
    at: time | None
    zone: ZoneInfo
    retention: Retention = Retention()
    snapshot: SnapshotOptions = SnapshotOptions()
    compression_level: int = 1
