"""Starting, cancelling and showing jobs."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import replace

from quiesce.model.failure import InputFailure, PolicyFailure
from quiesce.model.job import Job, JobKind, JobStatus, Task, TaskName, TaskStatus
from quiesce.service.codec import to_json
from quiesce.service.copying import target_store, whole_address
from quiesce.service.job_book import backup_slot
from quiesce.service.requests import CollectRequest, CopyRequest, RestoreRequest, VerifyRequest
from quiesce.service.restore import plan_targets
from quiesce.service.work import Parts
from quiesce.service.workflow import Workflows
from quiesce.vault.upkeep.verify_report import Cursor, VerifyMode

_TASKS = {
    JobKind.BACKUP: (TaskName.TAKE_SNAPSHOT, TaskName.TRANSFER),
    JobKind.RESTORE: (TaskName.RESTORE,),
    JobKind.VERIFY: (TaskName.VERIFY,),
    JobKind.COLLECT: (TaskName.COLLECT,),
    JobKind.COPY: (TaskName.COPY,),
    JobKind.REBUILD: (TaskName.REBUILD,),
}
VERIFY_MODES = tuple(mode.value for mode in VerifyMode)


class Jobs:
    """What CLI, REST and portal call."""

    def __init__(self, parts: Parts, workflows: Workflows) -> None:
        self._parts = parts
        self._workflows = workflows

    def get(self, job_id: str) -> Job:
        """With its log and live progress.

        :raise NotFoundFailure: job.not-found
        """
        return self._parts.book.get(job_id)

    def newest(self, *, vm: str | None = None, limit: int = 50) -> tuple[Job, ...]:
        """Newest first, with live progress and without log lines."""
        return self._parts.book.newest(vm=vm, limit=limit)

    def start_backup(self, vm: str, *, trigger: str = "manual") -> Job:
        """
        :raise NotFoundFailure: vm.unknown
        :raise PolicyFailure: policy.in-progress
        """
        name = self._parts.vms.address(vm).name
        return self._start(
            JobKind.BACKUP, name, slot=backup_slot(name), request="{}", trigger=trigger
        )

    def start_restore(self, request: RestoreRequest) -> Job:
        """What can be refused is refused here, before there is a job.

        :raise NotFoundFailure: restore.point-not-found, restore.disk-not-found
        :raise InputFailure: input.path-invalid
        :raise RestoreFailure: restore.target-exists, restore.target-in-use
        :raise PolicyFailure: policy.in-progress, another restore writes to the same place
        """
        point = self._parts.points.get(request.point_id)
        plan_targets(point, request)
        return self._start(
            JobKind.RESTORE, point.vm, slot=f"restore:{request.to}", request=to_json(request)
        )

    def start_verify(self, wanted: VerifyRequest | str) -> Job:
        """`wanted` as a word is a mode without limits.

        :raise InputFailure: input.invalid, vault.cursor-unknown
        :raise PolicyFailure: policy.in-progress
        """
        request = VerifyRequest(wanted) if isinstance(wanted, str) else wanted
        if request.mode not in VERIFY_MODES:
            raise InputFailure("input.invalid", f"The mode is one of {', '.join(VERIFY_MODES)}.")
        if request.cursor:
            Cursor.parse(request.cursor)
        return self._start(JobKind.VERIFY, "", slot="verify", request=to_json(request))

    def start_collect(
        self, wanted: CollectRequest | None = None, *, trigger: str = "manual"
    ) -> Job:
        """:raise PolicyFailure: policy.in-progress"""
        request = to_json(wanted or CollectRequest())
        return self._start(JobKind.COLLECT, "", slot="gc", request=request, trigger=trigger)

    def collect_if_overdue(self) -> None:
        """A collection of its own, when no backup has done one for a day."""
        if self._parts.points.collect_overdue():
            with contextlib.suppress(PolicyFailure):  # one runs already
                self.start_collect(trigger="schedule")

    def start_rebuild(self) -> Job:
        """:raise PolicyFailure: policy.in-progress"""
        return self._start(JobKind.REBUILD, "", slot="rebuild-index", request="{}")

    def start_copy(self, request: CopyRequest) -> Job:
        """
        :raise InputFailure: input.vault-address-invalid and others of `whole_address`
        :raise NotFoundFailure: vault.copy-missing
        :raise PolicyFailure: policy.in-progress, another copy goes to the same place
        """
        request = replace(request, to=whole_address(request.to))
        cache = self._parts.composition.index_cache
        target_store(request.to, new=request.new, cache_folder=cache)
        return self._start(JobKind.COPY, "", slot=f"copy:{request.to}", request=to_json(request))

    def cancel(self, job_id: str) -> Job:
        """Ask a job to end: one that waits ends now, one that runs when it has done what it has
        in hand, mostly within a second; a store that does not answer is waited for.

        :raise NotFoundFailure: job.not-found
        :raise PolicyFailure: job.already-ended
        """
        job = self._parts.book.request_cancel(job_id)
        self._parts.cancellations.event(job_id).set()
        if job.status is JobStatus.QUEUED:
            job = self._parts.book.update(job_id, self._cancelled_if_queued)
        return job

    def _cancelled_if_queued(self, job: Job) -> Job:
        if job.status is not JobStatus.QUEUED:
            return job  # it began meanwhile, and sees the request itself
        tasks = tuple(replace(task, status=TaskStatus.CANCELLED) for task in job.tasks)
        return replace(
            job, tasks=tasks, status=JobStatus.CANCELLED, ended_at=self._parts.clock.now()
        )

    def _start(
        self, kind: JobKind, vm: str, *, slot: str, request: str, trigger: str = "manual"
    ) -> Job:
        job = Job(
            id=secrets.token_hex(6),
            kind=kind,
            vm=vm,
            status=JobStatus.QUEUED,
            created_at=self._parts.clock.now(),
            tasks=tuple(Task(name) for name in _TASKS[kind]),
            trigger=trigger,
        )
        self._parts.book.open(job, slot=slot, request=request)
        # Killed between these two lines, the job is enqueued by the next start's `reconcile`.
        self._workflows.enqueue(job)
        return job
