"""Jobs as durable workflows, by DBOS on SQLite.

Finished steps are not run again after the process was killed; the step that was interrupted is.
A workflow's id is its job's id. What a person sees of a job is in our own tables; DBOS's only say
which step comes next. Executor id and application version are constants: that is what lets the
next process of this server, whatever its version, recover the jobs of the one before.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
import structlog
from dbos import DBOS, DBOSConfig, Serializer, SetWorkflowID

from quiesce.model.failure import Evidence, JobFailure
from quiesce.model.job import Job, JobKind, JobStatus, TaskName, TaskStatus
from quiesce.service import backup, collecting, copying, rebuilding, restore, verify
from quiesce.service.database import tune
from quiesce.service.settings import Settings
from quiesce.service.work import Parts, Work, end_by_task, end_task, finish, only_task

log = structlog.get_logger(__name__)

Workflow = Callable[[str], None]

_QUEUE = "jobs"
_QUEUE_POLL_SECONDS = 0.2
_RUNNABLE = frozenset({"ENQUEUED", "PENDING", "DELAYED"})

_parts: Parts | None = None
"""DBOS finds workflows by name, not by object, so there is one set of parts in a process."""


class JsonSerializer(Serializer):
    """Steps take and return JSON values only: nothing that a later version could not read."""

    def name(self) -> str:
        return "json"

    def serialize(self, data: Any) -> str:
        return json.dumps(data, default=_error_text)

    def deserialize(cls, serialized_data: str) -> Any:  # noqa: N805 - as the base class has it
        return json.loads(serialized_data)


def _error_text(value: object) -> object:
    """DBOS also stores the error that ended a workflow; steps of ours never raise."""
    if isinstance(value, BaseException):
        return {"error": repr(value)}
    raise TypeError(f"{type(value).__name__} is not a JSON value")


class Workflows:
    """The running engine. One in a process."""

    def __init__(self, settings: Settings, parts: Parts) -> None:
        """Start it: jobs that a former process left unfinished go on from here."""
        global _parts
        _parts = self._work = parts
        self._said_broken: set[str] = set()
        self._engine = _engine(settings)
        logging.getLogger("dbos").setLevel(logging.WARNING)
        DBOS(
            config=DBOSConfig(
                name="quiesce",
                system_database_url=str(self._engine.url),
                system_database_engine=self._engine,
                serializer=JsonSerializer(),
                executor_id="server",
                application_version="1",
                log_level="WARNING",
                enable_otlp=False,
                notification_listener_polling_interval_sec=0.25,
            )
        )
        DBOS.launch()
        DBOS.register_queue(
            _QUEUE,
            worker_concurrency=settings.concurrent_jobs,
            polling_interval_sec=_QUEUE_POLL_SECONDS,
            on_conflict="always_update",
        )

    def enqueue(self, job: Job) -> None:
        """Idempotent by the job's id.

        One active job per VM is held by the unique `slot` of our own table, not by DBOS's
        deduplication: that frees a VM only some time after its job has ended for everybody else.
        """
        with SetWorkflowID(job.id):
            DBOS.enqueue_workflow(_QUEUE, _WORKFLOWS[job.kind], job.id)

    def reconcile(self) -> None:
        """Bring the engine into step with our tables: an active job that the engine never heard
        of is enqueued, one that the engine has given up is ended. What one job meets is no
        reason to leave the others alone."""
        for job_id in self._work.book.active_ids():
            try:
                self._reconcile(job_id)
            except Exception as error:
                if job_id not in self._said_broken:
                    self._said_broken.add(job_id)
                    log.error("a job could not be reconciled", job=job_id, exc_info=error)

    def _reconcile(self, job_id: str) -> None:
        status = DBOS.get_workflow_status(job_id)
        # Read after the engine's word: a job that ended in between is none of our business.
        job = self._work.book.get(job_id)
        if job.status.ended:
            return
        if status is None:
            self.enqueue(job)
        elif status.status not in _RUNNABLE:
            self._end_abandoned(job, status.status)

    def _end_abandoned(self, job: Job, engine_status: str) -> None:
        stopped = JobFailure(
            "job.interrupted",
            "The job's workflow ended before the job did.",
            evidence=[Evidence(f"workflow status {engine_status}", "workflow engine")],
        )
        for task in job.tasks:
            if task.status in (TaskStatus.WAITING, TaskStatus.IN_PROGRESS):
                end_task(self._work, job.id, task.name, stopped.report())
                break
        if job.kind is JobKind.BACKUP:
            backup.release(self._work, job.id, job.point_id)
        finish(self._work, job.id, lambda _: JobStatus.FAILED)

    def close(self) -> None:
        """Stop taking up work. Steps that run are left to end with the process; they are
        recovered by the next."""
        DBOS.destroy(workflow_completion_timeout_sec=0)
        self._engine.dispose()


def _engine(settings: Settings) -> sa.Engine:
    engine = sa.create_engine(
        f"sqlite:///{settings.workflow_database}",
        pool_size=20,
        max_overflow=40,
        hide_parameters=True,
    )

    @sa.event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:
        # As DBOS sets it on engines of its own: writers queue up instead of failing.
        connection.isolation_level = "IMMEDIATE"
        tune(connection)

    return engine


def _running() -> Parts:
    if _parts is None:
        raise RuntimeError("the workflow engine is not started")
    return _parts


def _step(name: str, function: Any, job_id: str, *given: str) -> str:
    return DBOS.run_step({"name": name}, function, _running(), job_id, *given) or ""


@DBOS.workflow(name="backup")
def _backup(job_id: str) -> None:
    snapshot = _step("take snapshot", backup.take, job_id)
    point_id = _step("transfer", backup.transfer, job_id, snapshot) if snapshot else ""
    _step("release", backup.release, job_id, point_id)
    _step("retention", backup.retain, job_id, point_id)
    # The last but one: a job begun by a version without it has recorded the steps before.
    _step("mend", backup.mend, job_id)
    _step("end", backup.end, job_id)


@DBOS.workflow(name="restore")
def _restore(job_id: str) -> None:
    _step("restore", restore.restore, job_id)
    _step("end", restore.end, job_id)


def _of_one_task(kind: JobKind, step: str, task: TaskName, work: Work) -> Workflow:
    """Of a job with one task, which begins again when it was interrupted."""

    @DBOS.workflow(name=kind.value)
    def workflow(job_id: str) -> None:
        _step(step, lambda parts, job_id: only_task(parts, job_id, task, work), job_id)
        _step("end", lambda parts, job_id: end_by_task(parts, job_id, task), job_id)

    return workflow


_WORKFLOWS: dict[JobKind, Workflow] = {
    JobKind.BACKUP: _backup,
    JobKind.RESTORE: _restore,
} | {
    kind: _of_one_task(kind, step, task, work)
    for kind, step, task, work in (
        (JobKind.VERIFY, "verify", TaskName.VERIFY, verify.verify),
        (JobKind.COLLECT, "collect", TaskName.COLLECT, collecting.collect),
        (JobKind.COPY, "copy", TaskName.COPY, copying.copy),
        (JobKind.REBUILD, "rebuild", TaskName.REBUILD, rebuilding.rebuild),
    )
}
