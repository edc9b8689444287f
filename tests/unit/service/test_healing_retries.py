"""What passes is tried again after pauses that grow, and what does not is not."""

from __future__ import annotations

import pytest
from paper_looks import PaperLooks, seeing
from paper_machine import PaperMachine, backed_up, ended, eventually
from paper_vm import PaperHypervisor

from quiesce.model.failure import SnapshotFailure
from quiesce.model.job import JobStatus
from quiesce.service.patience import Patience
from quiesce.service.service import Service


def test_a_passing_failure_is_tried_again_after_pauses_that_grow(
    service: Service, machine: PaperMachine
) -> None:
    seeing(service, PaperLooks())
    machine.fail("prepare", "vm.unreachable\nvm.gone")

    job = backed_up(service)

    assert job.point_id
    said = [line.text for line in job.log if "is tried again" in line.text]
    assert [line.partition(",")[0] for line in said] == [
        "It is tried again in 5 s",
        "It is tried again in 20 s",
    ]
    assert "vm.unreachable" in said[0]
    assert machine.clean


def test_a_passing_failure_that_stays_ends_the_job_after_three_more_tries(
    service: Service, machine: PaperMachine
) -> None:
    seeing(service, PaperLooks())
    machine.fail("prepare", "vm.unreachable\n" * 9)

    job = backed_up(service)

    assert job.status is JobStatus.FAILED
    assert (machine.folder / "fail-prepare").read_text().split() == ["vm.unreachable"] * 5
    assert machine.clean


def test_a_hypervisor_that_fails_in_its_instant_freezes_the_guest_twice_at_most(
    service: Service, machine: PaperMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = []

    def take(self: PaperHypervisor, task_id: str) -> None:
        frozen.append(task_id)
        raise SnapshotFailure("snapshot.take-failed", "QEMU refused.", retryable=True)

    monkeypatch.setattr(PaperHypervisor, "take", take)
    seeing(service, PaperLooks())

    job = backed_up(service)

    assert job.status is JobStatus.FAILED
    assert len(frozen) == 2
    assert machine.clean


def test_a_deterministic_failure_is_not_tried_again(
    service: Service, machine: PaperMachine
) -> None:
    machine.fail("prepare", "script.pre-failed\n" * 9)

    job = backed_up(service)

    assert job.status is JobStatus.FAILED
    assert len((machine.folder / "fail-prepare").read_text().split()) == 8


def test_a_job_is_cancelled_while_it_waits_to_be_tried_again(
    service: Service, machine: PaperMachine
) -> None:
    seeing(service, PaperLooks())
    object.__setattr__(service._parts, "patience", Patience(retries=(3600.0,)))
    machine.fail("prepare", "vm.unreachable\n")
    job = service.jobs.start_backup("web")
    phase = eventually(
        lambda: service.jobs.get(job.id).tasks[0].progress.phase, "the reason, shown"
    )

    service.jobs.cancel(job.id)

    assert ended(service, job).status is JobStatus.CANCELLED
    assert "vm.unreachable" in phase
