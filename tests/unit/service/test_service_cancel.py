"""Cancelling a job that waits, one that begins in this very moment, and one whose guest is
frozen."""

from __future__ import annotations

from pathlib import Path

import pytest
from paper_machine import PaperMachine, ended, eventually
from paper_vm import PaperGuest, PaperHypervisor

from quiesce.model.extension import Finish
from quiesce.model.failure import AgentFailure, FreezeFailure
from quiesce.model.job import Job, JobStatus, TaskStatus
from quiesce.model.snapshot import FreezeReport
from quiesce.model.vm import VmAddress
from quiesce.service import work
from quiesce.service.requests import RestoreRequest
from quiesce.service.service import Service


@pytest.fixture
def others(service: Service, tmp_path: Path) -> list[PaperMachine]:
    """Two VMs whose backups take all the places that there are for running jobs."""
    machines = [PaperMachine(tmp_path / name) for name in ("a", "b")]
    for other in machines:
        service.vms.add(VmAddress(other.folder.name, other.folder))
        other.hold("prepare")
        service.jobs.start_backup(other.folder.name)
        other.reached("prepare")
    return machines


def let_all_go(service: Service, others: list[PaperMachine]) -> None:
    for other in others:
        other.let_go("prepare")
    eventually(lambda: not service._book.active(), "the end of all jobs")
    # The engine goes through the cancelled job's steps too, and forgets its cancellation last.
    eventually(lambda: not service._parts.cancellations._events, "the engine's turn")


def test_a_backup_that_is_cancelled_in_the_queue_never_begins(
    service: Service, machine: PaperMachine, others: list[PaperMachine]
) -> None:
    waiting = service.jobs.start_backup("web")
    cancelled = service.jobs.cancel(waiting.id)
    assert cancelled.status is JobStatus.CANCELLED
    again = service.jobs.start_backup("web")
    assert service.jobs.cancel(again.id).status is JobStatus.CANCELLED

    let_all_go(service, others)

    for job_id in (waiting.id, again.id):
        job = service.jobs.get(job_id)
        assert job.status is JobStatus.CANCELLED
        assert [task.status for task in job.tasks] == [TaskStatus.CANCELLED] * 2
        assert (job.started_at, job.log, job.warnings, job.failure) == (None, (), (), None)
    assert service.jobs.get(waiting.id).ended_at == cancelled.ended_at
    assert machine.clean
    assert ended(service, service.jobs.start_backup("web")).status is JobStatus.COMPLETED


def test_the_log_of_a_job_that_was_cancelled_in_the_queue_stays_as_it_was(
    service: Service, others: list[PaperMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.points, "collect_when_due", lambda: "Garbage was collected.")
    waiting = service.jobs.cancel(service.jobs.start_backup("web").id)

    let_all_go(service, others)

    assert service.jobs.get(waiting.id) == waiting
    ran = service.jobs.get(next(job.id for job in service.jobs.newest(vm="a")))
    assert "Garbage was collected." in [line.text for line in ran.log]


def test_a_restore_and_a_verify_that_are_cancelled_in_the_queue_do_nothing(
    service: Service, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    point = ended(service, service.jobs.start_backup("web")).point_id
    others = request.getfixturevalue("others")
    restore = service.jobs.start_restore(RestoreRequest(point, tmp_path / "restored.img"))
    verify = service.jobs.start_verify("chunks")
    for job in (restore, verify):
        assert service.jobs.cancel(job.id).status is JobStatus.CANCELLED

    let_all_go(service, others)

    assert not (tmp_path / "restored.img").exists()
    for job in (restore, verify):
        found = service.jobs.get(job.id)
        assert (found.status, found.log) == (JobStatus.CANCELLED, ())


def test_a_job_that_begins_while_it_is_being_cancelled_ends_cancelled_too(
    service: Service,
    machine: PaperMachine,
    others: list[PaperMachine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = service.jobs.start_backup("web")
    request_cancel = service._book.request_cancel

    def begins_meanwhile(job_id: str) -> Job:
        job = request_cancel(job_id)
        work.begin(service._parts, job_id)
        return job

    monkeypatch.setattr(service._book, "request_cancel", begins_meanwhile)
    assert service.jobs.cancel(waiting.id).status is JobStatus.IN_PROGRESS

    let_all_go(service, others)

    job = service.jobs.get(waiting.id)
    assert job.status is JobStatus.CANCELLED
    assert [task.status for task in job.tasks] == [TaskStatus.CANCELLED, TaskStatus.SKIPPED]
    assert machine.clean
    assert [point.vm for point in service.points.all() if point.vm == "web"] == []


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the guest and the hypervisor were asked for, in order."""
    told: list[str] = []
    for kind, name in (
        (PaperGuest, "freeze"),
        (PaperHypervisor, "take"),
        (PaperGuest, "thaw"),
        (PaperGuest, "finish"),
        (PaperHypervisor, "release"),
    ):
        done = getattr(kind, name)

        def call(self, *given, done=done, name=name, **named):  # type: ignore[no-untyped-def]
            result = done(self, *given, **named)
            told.append(name)
            return result

        monkeypatch.setattr(kind, name, call)
    return told


def cancelled_while_frozen(service: Service, machine: PaperMachine) -> Job:
    machine.hold("frozen")
    job = service.jobs.start_backup("web")
    machine.reached("frozen")
    service.jobs.cancel(job.id)
    machine.let_go("frozen")
    return ended(service, job)


def test_cancel_during_the_freeze_thaws_and_runs_the_post_script_before_the_job_ends(
    service: Service, machine: PaperMachine, story: list[str]
) -> None:
    job = cancelled_while_frozen(service, machine)

    assert job.status is JobStatus.CANCELLED
    assert [task.status for task in job.tasks] == [TaskStatus.CANCELLED, TaskStatus.SKIPPED]
    assert job.failure is None
    assert story == ["freeze", "take", "thaw", "finish", "release", "release"]
    assert machine.clean
    assert service.points.all() == ()
    assert ended(service, service.jobs.start_backup("web")).status is JobStatus.COMPLETED


def test_cancel_during_a_freeze_that_then_fails_makes_no_point_of_a_running_guest(
    service: Service, machine: PaperMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze = PaperGuest.freeze

    def fails(self: PaperGuest, task_id: str) -> None:
        freeze(self, task_id)
        self.recover(task_id)
        raise FreezeFailure("freeze.timeout", "A mount did not freeze in time.")

    monkeypatch.setattr(PaperGuest, "freeze", fails)
    job = cancelled_while_frozen(service, machine)

    assert job.status is JobStatus.CANCELLED
    assert machine.clean
    assert service.points.all() == ()


@pytest.mark.parametrize("stage", ["thaw", "finish"])
def test_cancel_during_a_freeze_whose_guest_then_falls_silent_is_still_a_cancellation(
    service: Service, machine: PaperMachine, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def silent(self: PaperGuest, task_id: str) -> FreezeReport | Finish:
        raise AgentFailure("agent.not-running", "It does not answer any more.")

    monkeypatch.setattr(PaperGuest, stage, silent)
    job = cancelled_while_frozen(service, machine)

    assert job.status is JobStatus.CANCELLED
    assert machine.clean
