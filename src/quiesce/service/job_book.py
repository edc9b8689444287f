"""The record of all jobs: their rows, their log, and the one function that moves their state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
import structlog
from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError

from quiesce.model.failure import Evidence, Failure, JobFailure, NotFoundFailure, PolicyFailure
from quiesce.model.job import Job, JobKind, JobStatus, LogLine, TaskName, TaskStatus
from quiesce.model.progress import Progress
from quiesce.service.clock import Clock
from quiesce.service.codec import from_json, to_json
from quiesce.service.database import Database, job_log, jobs
from quiesce.service.logs import on_one_line

log = structlog.get_logger(__name__)

JOB_MOVES: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.IN_PROGRESS, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.IN_PROGRESS: frozenset(
        {
            JobStatus.COMPLETED,
            JobStatus.COMPLETED_WITH_WARNING,
            JobStatus.FAILED,
            JobStatus.CANCELLED,
        }
    ),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.COMPLETED_WITH_WARNING: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}

TASK_MOVES: dict[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.WAITING: frozenset(
        {TaskStatus.IN_PROGRESS, TaskStatus.SKIPPED, TaskStatus.FAILED, TaskStatus.CANCELLED}
    ),
    TaskStatus.IN_PROGRESS: frozenset(
        {TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED}
    ),
    TaskStatus.COMPLETED: frozenset(),
    TaskStatus.SKIPPED: frozenset(),
    TaskStatus.FAILED: frozenset(),
    TaskStatus.CANCELLED: frozenset(),
}


def backup_slot(vm: str) -> str:
    """What only one active backup of a VM may hold."""
    return f"vm:{vm}"


class JobBook:
    """Thread-safe. Progress is kept in memory and written down when asked, so that a screen sees
    every step and the database two a second."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._live: dict[tuple[str, TaskName], Progress] = {}
        self._live_lock = threading.Lock()
        self._said_unreadable: set[str] = set()
        self._slots = threading.Lock()
        self._held: dict[str, str] = {}

    @contextmanager
    def hold(self, vm: str, what: str) -> Iterator[None]:
        """Keep backups of `vm` from beginning for as long as this lasts, since `what` (as in "It is
        being mended.") goes on in it. Lasts no longer than this process.

        :raise PolicyFailure: policy.in-progress, a backup of it waits or runs, or it is held
        """
        slot = backup_slot(vm)
        with self._slots:
            self._check_not_held(vm, slot)
            self.check_idle(vm)
            self._held[slot] = what
        try:
            yield
        finally:
            with self._slots:
                del self._held[slot]

    def open(self, job: Job, *, slot: str, request: str) -> Job:
        """Write a new job down, queued. `slot` names what only one active job may hold.

        :raise PolicyFailure: policy.in-progress
        """
        try:
            with self._slots, self._database.write() as connection:
                self._check_not_held(job.vm, slot)
                connection.execute(
                    sa.insert(jobs).values(
                        id=job.id,
                        kind=job.kind,
                        vm=job.vm,
                        status=job.status,
                        slot=slot,
                        cancel_requested=False,
                        request=request,
                        body=to_json(job),
                    )
                )
        except IntegrityError as taken:
            raise self._in_progress(job, slot) from taken
        return job

    def _check_not_held(self, vm: str, slot: str) -> None:
        what = self._held.get(slot)
        if what is not None:
            raise PolicyFailure(
                "policy.in-progress",
                f"The VM {vm} is in use: {what}",
                evidence=[Evidence(what, "this server")],
                remedy="Wait until that has ended, some minutes at most, and try again.",
                retryable=True,
            )

    def get(self, job_id: str) -> Job:
        """With log and live progress.

        :raise NotFoundFailure: job.not-found
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one_or_none()
            if row is None:
                raise _not_found(job_id)
            lines = connection.execute(
                sa.select(job_log.c.at, job_log.c.level, job_log.c.text)
                .where(job_log.c.job == job_id)
                .order_by(job_log.c.number)
            ).all()
        return replace(self._job(row), log=tuple(LogLine(*line) for line in lines))

    def newest(self, *, vm: str | None = None, limit: int = 50) -> tuple[Job, ...]:
        """Newest first, without log lines; without rows that cannot be read."""
        query = sa.select(jobs).order_by(jobs.c.number.desc()).limit(limit)
        if vm is not None:
            query = query.where(jobs.c.vm == vm)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return tuple(self._readable(rows))

    def active(self) -> tuple[Job, ...]:
        """Jobs that are queued or in progress; without rows that cannot be read."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(jobs).where(jobs.c.slot.is_not(None))).all()
        return tuple(self._readable(rows))

    def active_ids(self) -> tuple[str, ...]:
        """Of all jobs that are queued or in progress, whatever state their rows are in."""
        with self._database.read() as connection:
            return tuple(connection.scalars(sa.select(jobs.c.id).where(jobs.c.slot.is_not(None))))

    def newest_backups(self) -> dict[str, Job]:
        """The newest ended backup of each VM."""
        newest = (
            sa.select(sa.func.max(jobs.c.number))
            .where(jobs.c.kind == JobKind.BACKUP, jobs.c.slot.is_(None))
            .group_by(jobs.c.vm)
        )
        with self._database.read() as connection:
            rows = connection.execute(sa.select(jobs).where(jobs.c.number.in_(newest))).all()
        return {job.vm: job for job in self._readable(rows)}

    def with_requests(self, kind: JobKind) -> tuple[tuple[Job, str], ...]:
        """Jobs of this kind and what they were asked for, newest first; without rows that cannot
        be read."""
        query = sa.select(jobs).where(jobs.c.kind == kind).order_by(jobs.c.number.desc())
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        requests = {row.id: row.request for row in rows}
        return tuple((job, requests[job.id]) for job in self._readable(rows))

    def holder(self, slot: str) -> str:
        """The id of the active job that holds `slot`; empty when it is free."""
        with self._database.read() as connection:
            return connection.scalar(sa.select(jobs.c.id).where(jobs.c.slot == slot)) or ""

    def check_idle(self, vm: str) -> None:
        """:raise PolicyFailure: policy.in-progress, while a backup of `vm` waits or runs"""
        holder = self.holder(backup_slot(vm))
        if holder:
            raise in_progress(f"A backup of the VM {vm} is in progress.", holder)

    def request(self, job_id: str) -> str:
        """What the job was asked for, as it was given to `open`."""
        with self._database.read() as connection:
            return connection.scalar(sa.select(jobs.c.request).where(jobs.c.id == job_id)) or "{}"

    def update(self, job_id: str, change: Callable[[Job], Job]) -> Job:
        """Replace a job by `change(job)`, in one transaction. The one place where states move.

        :raise JobFailure: job.illegal-move, a defect: the state is not reachable from the old one
        """
        with self._database.write() as connection:
            row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one_or_none()
            if row is None:
                raise _not_found(job_id)
            old = self._job(row)
            new = change(old)
            _check_moves(old, new)
            values: dict[str, object] = {"status": new.status, "body": to_json(new)}
            if new.status.ended:
                values["slot"] = None
            connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(**values))
        if new.status.ended:
            self._forget_progress(job_id)
        return new

    def move_task(
        self,
        job_id: str,
        name: TaskName,
        status: TaskStatus,
        change: Callable[[Job], Job] = lambda job: job,
    ) -> Job:
        """Move one task, with its times, and whatever else `change` does to the job."""
        now = self._clock.now()
        return self.update(job_id, lambda job: _with_task(change(job), name, status, now))

    def request_cancel(self, job_id: str) -> Job:
        """
        :raise NotFoundFailure: job.not-found
        :raise PolicyFailure: job.already-ended
        """
        with self._database.write() as connection:
            done = connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job_id, jobs.c.slot.is_not(None))
                .values(cancel_requested=True)
            )
        job = self.get(job_id)
        if not done.rowcount:
            raise PolicyFailure(
                "job.already-ended", f"The job {job_id} has ended already: {job.status}."
            )
        return job

    def cancel_requested(self, job_id: str) -> bool:
        with self._database.read() as connection:
            return bool(
                connection.scalar(sa.select(jobs.c.cancel_requested).where(jobs.c.id == job_id))
            )

    def log(self, job_id: str, level: str, text: str) -> None:
        """One line, whatever a guest has put into it."""
        text = on_one_line(text)
        with self._database.write() as connection:
            connection.execute(
                sa.insert(job_log).values(job=job_id, at=self._clock.now(), level=level, text=text)
            )

    def show_progress(self, job_id: str, name: TaskName, progress: Progress) -> None:
        """In memory; seen by `get` and `newest` at once."""
        with self._live_lock:
            self._live[job_id, name] = progress

    def write_progress(self, job_id: str, name: TaskName) -> None:
        """Write what `show_progress` was told last."""
        with self._live_lock:
            progress = self._live.get((job_id, name))
        if progress is not None:
            self.update(job_id, lambda job: job)

    def _forget_progress(self, job_id: str) -> None:
        with self._live_lock:
            for key in [key for key in self._live if key[0] == job_id]:
                del self._live[key]

    def _readable(self, rows: Iterable[sa.Row[tuple[object, ...]]]) -> Iterator[Job]:
        """One row that is damaged, or of a later version, must not hide all others."""
        for row in rows:
            try:
                yield self._job(row)
            except ValidationError as error:
                if row.id not in self._said_unreadable:
                    self._said_unreadable.add(row.id)
                    log.error("a job's row cannot be read", job=row.id, exc_info=error)

    def _job(self, row: sa.Row[tuple[object, ...]]) -> Job:
        job = replace(from_json(Job, row.body), cancel_requested=row.cancel_requested)
        with self._live_lock:
            return replace(
                job,
                tasks=tuple(
                    replace(task, progress=self._live.get((job.id, task.name), task.progress))
                    for task in job.tasks
                ),
            )

    def _in_progress(self, job: Job, slot: str) -> Failure:
        holder = self.holder(slot)
        what = f"of the VM {job.vm} " if job.vm else ""
        return in_progress(f"A {job.kind} {what}is in progress already.", holder)


def in_progress(message: str, job_id: str) -> PolicyFailure:
    """What is asked for has to wait for this job."""
    return PolicyFailure(
        "policy.in-progress",
        message,
        evidence=[Evidence(f"the job {job_id} is active", "jobs")],
        remedy=f"Wait for it (`quiesce job show {job_id}`), or cancel it "
        f"(`quiesce job cancel {job_id}`).",
        retryable=True,
    )


def _with_task(job: Job, name: TaskName, status: TaskStatus, now: datetime) -> Job:
    return replace(
        job,
        tasks=tuple(
            replace(
                task,
                status=status,
                started_at=task.started_at or (now if status is TaskStatus.IN_PROGRESS else None),
                ended_at=None if status is TaskStatus.IN_PROGRESS else now,
            )
            if task.name is name
            else task
            for task in job.tasks
        ),
    )


def _check_moves(old: Job, new: Job) -> None:
    if new.status is not old.status and new.status not in JOB_MOVES[old.status]:
        raise _illegal(old, f"job {old.status} → {new.status}")
    for before, after in zip(old.tasks, new.tasks, strict=True):
        if after.status is not before.status and after.status not in TASK_MOVES[before.status]:
            raise _illegal(old, f"{before.name}: {before.status} → {after.status}")


def _illegal(job: Job, move: str) -> JobFailure:
    return JobFailure(
        "job.illegal-move",
        f"The job {job.id} cannot change its state in this way.",
        evidence=[Evidence(move, "jobs")],
    )


def _not_found(job_id: str) -> NotFoundFailure:
    return NotFoundFailure("job.not-found", f"There is no job {job_id!r}.")
