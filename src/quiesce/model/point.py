"""Recovery points, as the vault describes them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from quiesce.model.snapshot import ConsistencyLabel, FreezeReport, Route


@dataclass(frozen=True, slots=True)
class PointDisk:
    """One disk of a recovery point. `read_bytes` travelled from the guest's disk for this point,
    `stored_bytes` were new in the vault (after deduplication, compression and encryption)."""

    name: str
    size_bytes: int
    format: str
    generation: str
    incremental: bool
    full_read_reason: str = ""
    read_bytes: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RecoveryPoint:
    """A committed point. `id` is unique in its vault; `job_id` is the job that made it."""

    id: str
    vm: str
    job_id: str
    taken_at: datetime
    committed_at: datetime
    route: Route
    consistency: ConsistencyLabel
    freeze: FreezeReport | None
    disks: tuple[PointDisk, ...]

    @property
    def size_bytes(self) -> int:
        return sum(disk.size_bytes for disk in self.disks)

    @property
    def read_bytes(self) -> int:
        return sum(disk.read_bytes for disk in self.disks)

    @property
    def stored_bytes(self) -> int:
        return sum(disk.stored_bytes for disk in self.disks)
