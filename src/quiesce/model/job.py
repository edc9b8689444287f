"""Jobs and their two tasks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from quiesce.model.damage import DamageReport, DiskHealth
from quiesce.model.diagnosis import Diagnosis, Mend
from quiesce.model.failure import FailureReport
from quiesce.model.progress import Progress
from quiesce.model.snapshot import ConsistencyLabel, FreezeReport, Route


class JobKind(StrEnum):
    BACKUP = "backup"
    RESTORE = "restore"
    VERIFY = "verify"
    COLLECT = "gc"
    COPY = "copy"
    REBUILD = "rebuild-index"

    @property
    def label(self) -> str:
        """As people call it."""
        return _LABELS.get(self, self.value.capitalize())


_LABELS = {JobKind.COLLECT: "Garbage collection", JobKind.REBUILD: "New index"}


class TaskName(StrEnum):
    TAKE_SNAPSHOT = "Take snapshot"
    TRANSFER = "Transfer data to vault"
    RESTORE = "Restore disks"
    VERIFY = "Verify vault"
    COLLECT = "Collect garbage"
    COPY = "Copy vault"
    REBUILD = "Rebuild index"


class TaskStatus(StrEnum):
    WAITING = "Waiting"
    IN_PROGRESS = "In progress"
    COMPLETED = "Completed"
    SKIPPED = "Skipped"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


class JobStatus(StrEnum):
    QUEUED = "Queued"
    IN_PROGRESS = "In progress"
    COMPLETED = "Completed"
    COMPLETED_WITH_WARNING = "Completed with warning"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def ended(self) -> bool:
        return self not in (JobStatus.QUEUED, JobStatus.IN_PROGRESS)


_NOT_BEGUN = Progress()


@dataclass(frozen=True, slots=True)
class Task:
    name: TaskName
    status: TaskStatus = TaskStatus.WAITING
    started_at: datetime | None = None
    ended_at: datetime | None = None
    progress: Progress = _NOT_BEGUN


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a job's story. `level` is info, warning or error."""

    at: datetime
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class RestoredDisk:
    """A disk that a restore has begun to write. It is `in_place` once its file has the name `path`;
    until that is known, `file` tells a file that is whole again, whatever its name, and `temporary`
    is the path that it has until then. Zeros stand for what is `lost`; what of it heals was not
    looked for."""

    disk: str
    path: str
    file: str = ""
    in_place: bool = False
    temporary: str = ""
    lost: DiskHealth | None = None


@dataclass(frozen=True, slots=True)
class Job:
    id: str
    kind: JobKind
    vm: str
    status: JobStatus
    created_at: datetime
    tasks: tuple[Task, ...]
    started_at: datetime | None = None
    ended_at: datetime | None = None
    trigger: str = "manual"
    point_id: str = ""
    consistency: ConsistencyLabel | None = None
    freeze: FreezeReport | None = None
    failure: FailureReport | None = None
    warnings: tuple[str, ...] = ()
    log: tuple[LogLine, ...] = ()
    cancel_requested: bool = False
    route: Route | None = None
    setbacks: tuple[FailureReport, ...] = ()
    """What failed on the way and did not cost the point, such as the guest route or the freeze:
    kept whole."""
    diagnoses: tuple[Diagnosis, ...] = ()
    """Why: one for the failure and one for each setback that names no cause by itself."""
    mends: tuple[Mend, ...] = ()
    """What Quiesce did about it by itself, in order."""
    restored: tuple[RestoredDisk, ...] = ()
    bandwidth: int = 0
    """What it may read a second, in bytes; 0 for no limit."""
    damage: DamageReport | None = None
    """Of a verification that has ended: what points have lost."""


def backup_status(snapshot: TaskStatus, transfer: TaskStatus, *, warnings: bool) -> JobStatus:
    """The status of a backup job, which follows from its two tasks.

    snapshot Completed + transfer Failed is "Completed with warning": the snapshot was good and
    the next transfer may be too, but there is no recovery point.
    """
    if TaskStatus.CANCELLED in (snapshot, transfer):
        return JobStatus.CANCELLED
    if snapshot is TaskStatus.FAILED:
        return JobStatus.FAILED
    if snapshot is TaskStatus.WAITING:
        return JobStatus.QUEUED
    if snapshot is TaskStatus.IN_PROGRESS or transfer in (
        TaskStatus.WAITING,
        TaskStatus.IN_PROGRESS,
    ):
        return JobStatus.IN_PROGRESS
    if transfer is TaskStatus.FAILED:
        return JobStatus.COMPLETED_WITH_WARNING
    return JobStatus.COMPLETED_WITH_WARNING if warnings else JobStatus.COMPLETED
