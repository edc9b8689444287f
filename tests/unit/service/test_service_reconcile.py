"""Jobs that fell between our tables and the workflow engine, one of them broken."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
import sqlalchemy as sa
from dbos import DBOS
from paper_machine import FakeClock, PaperMachine, ended
from structlog.testing import capture_logs

from quiesce.model.job import Job, JobKind, JobStatus, Task, TaskName
from quiesce.model.vm import VmAddress
from quiesce.service.database import jobs
from quiesce.service.job_book import backup_slot
from quiesce.service.service import Service


@pytest.fixture
def unknown(service: Service, clock: FakeClock, tmp_path: Path) -> list[Job]:
    """Three backups that were written down when the process was killed, before the engine heard
    of them."""
    found = []
    for name in ("first", "second", "third"):
        service.vms.add(VmAddress(name, PaperMachine(tmp_path / name).folder))
        tasks = tuple(Task(task) for task in (TaskName.TAKE_SNAPSHOT, TaskName.TRANSFER))
        job = Job(secrets.token_hex(6), JobKind.BACKUP, name, JobStatus.QUEUED, clock.now(), tasks)
        service._book.open(job, slot=backup_slot(name), request="{}")
        found.append(job)
    return found


def assert_the_others_complete(service: Service, unknown: list[Job], broken: Job) -> None:
    with capture_logs() as said:
        for _ in range(3):
            service.ticker._workflows.reconcile()
    told = [line["job"] for line in said if line["log_level"] == "error"]
    assert told == [broken.id], "it is said once, not at every tick"
    for job in unknown:
        if job.id != broken.id:
            assert ended(service, job).status is JobStatus.COMPLETED


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_job_that_the_engine_cannot_tell_of_does_not_keep_the_others_waiting(
    service: Service, unknown: list[Job], monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    ask = DBOS.get_workflow_status

    def broken_for_one(job_id: str) -> object:
        if job_id == unknown[which].id:
            raise TypeError("not a status")
        return ask(job_id)

    with monkeypatch.context() as patched:
        patched.setattr(DBOS, "get_workflow_status", broken_for_one)
        assert_the_others_complete(service, unknown, unknown[which])
    service.ticker._workflows.reconcile()
    assert ended(service, unknown[which]).status is JobStatus.COMPLETED


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_job_whose_row_is_damaged_does_not_hide_or_stop_the_others(
    service: Service, unknown: list[Job], which: int
) -> None:
    with service._book._database.write() as connection:
        damaged = sa.update(jobs).where(jobs.c.id == unknown[which].id).values(body='{"id": 1}')
        connection.execute(damaged)

    assert_the_others_complete(service, unknown, unknown[which])

    shown = {job.id for job in service.jobs.newest()}
    assert shown == {job.id for job in unknown} - {unknown[which].id}
    assert ended(service, service.jobs.start_backup("web")).status is JobStatus.COMPLETED
