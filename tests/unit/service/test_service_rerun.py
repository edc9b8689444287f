"""A step that is called again, for the process was killed after its work and before the engine's
record of it."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from paper_machine import PaperMachine, ended
from paper_vm import PaperHypervisor

from quiesce.model.job import Job, JobKind, JobStatus, Task, TaskName, TaskStatus
from quiesce.service import backup, restore, verify
from quiesce.service.codec import to_json
from quiesce.service.job_book import backup_slot
from quiesce.service.requests import RestoreRequest, VerifyRequest
from quiesce.service.service import Service
from quiesce.service.work import Parts, end_by_task, only_task

TASKS = {
    JobKind.BACKUP: (TaskName.TAKE_SNAPSHOT, TaskName.TRANSFER),
    JobKind.RESTORE: (TaskName.RESTORE,),
    JobKind.VERIFY: (TaskName.VERIFY,),
}


def opened(service: Service, kind: JobKind, request: str = "{}") -> str:
    """A job that the engine does not know, so that its steps can be called one by one."""
    job = Job(
        secrets.token_hex(6),
        kind,
        "web",
        JobStatus.QUEUED,
        service._parts.clock.now(),
        tuple(Task(name) for name in TASKS[kind]),
    )
    service._parts.book.open(job, slot=backup_slot("web"), request=request)
    return job.id


def test_the_steps_of_a_backup_called_again_return_what_they_returned(
    service: Service, machine: PaperMachine
) -> None:
    parts = service._parts
    job_id = opened(service, JobKind.BACKUP)

    snapshot = backup.take(parts, job_id)
    assert snapshot
    assert backup.take(parts, job_id) == snapshot
    point_id = backup.transfer(parts, job_id, snapshot)
    assert point_id
    assert backup.transfer(parts, job_id, snapshot) == point_id
    for step in (backup.release, backup.retain):
        step(parts, job_id, point_id)
        step(parts, job_id, point_id)
    backup.end(parts, job_id)
    backup.end(parts, job_id)

    assert service.jobs.get(job_id).status is JobStatus.COMPLETED
    assert machine.clean


def test_a_snapshot_that_is_gone_when_its_step_is_called_again_fails_the_transfer(
    service: Service, machine: PaperMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = service._parts
    job_id = opened(service, JobKind.BACKUP)
    assert backup.take(parts, job_id)

    def gone(self: PaperHypervisor, task_id: str) -> None:
        raise OSError("gone")

    monkeypatch.setattr(PaperHypervisor, "open", gone)
    assert backup.take(parts, job_id) == ""
    backup.release(parts, job_id, "")
    backup.end(parts, job_id)

    job = service.jobs.get(job_id)
    assert [task.status for task in job.tasks] == [TaskStatus.COMPLETED, TaskStatus.FAILED]
    assert machine.clean


def test_a_defect_while_releasing_becomes_a_warning_and_costs_no_point(
    service: Service, machine: PaperMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: PaperHypervisor, task_id: str, *, committed: bool) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(PaperHypervisor, "release", broken)
        job = ended(service, service.jobs.start_backup("web"))
    for task in PaperHypervisor(machine.folder).leftovers():
        PaperHypervisor(machine.folder).release(task, committed=True)

    assert job.status is JobStatus.COMPLETED_WITH_WARNING
    assert job.point_id
    assert any("internal.defect" in warning for warning in job.warnings)


def verify_again(parts: Parts, job_id: str) -> None:
    only_task(parts, job_id, TaskName.VERIFY, verify.verify)


def end_of_verify(parts: Parts, job_id: str) -> None:
    end_by_task(parts, job_id, TaskName.VERIFY)


def test_a_restore_and_a_verify_called_again_stay_completed(
    service: Service, tmp_path: Path
) -> None:
    parts = service._parts
    point_id = ended(service, service.jobs.start_backup("web")).point_id
    request = RestoreRequest(point_id=point_id, to=tmp_path / "restored.img")
    for kind, step, end, wanted in (
        (JobKind.RESTORE, restore.restore, restore.end, to_json(request)),
        (JobKind.VERIFY, verify_again, end_of_verify, to_json(VerifyRequest("structure"))),
    ):
        job_id = opened(service, kind, wanted)
        step(parts, job_id)
        step(parts, job_id)
        end(parts, job_id)
        assert service.jobs.get(job_id).status is JobStatus.COMPLETED
