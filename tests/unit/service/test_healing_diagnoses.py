"""Jobs that find out why something failed, on VMs of paper."""

from __future__ import annotations

import threading
from dataclasses import replace

from paper_healing import STOPPED
from paper_looks import PaperLooks, seeing
from paper_machine import PaperMachine, backed_up, ended, eventually

from quiesce.model.diagnosis import Verdict
from quiesce.model.failure import FailureReport
from quiesce.model.job import JobStatus
from quiesce.service.diagnosing import Diagnosing
from quiesce.service.requests import RestoreRequest
from quiesce.service.service import Service


def test_a_job_names_the_proven_cause_of_what_was_got_round(silent: Service) -> None:
    seeing(silent, PaperLooks(dict(STOPPED)))

    job = backed_up(silent)

    [diagnosis] = job.diagnoses
    assert (diagnosis.symptom, diagnosis.code) == ("agent.silent", "agent.not-running")
    assert diagnosis.verdict is Verdict.PROVEN
    assert any("The cause is proven" in line.text for line in job.log)
    assert job.status is JobStatus.COMPLETED_WITH_WARNING
    assert [setback.code for setback in job.setbacks] == ["agent.silent"]


def test_without_evidence_the_job_says_that_the_cause_is_not_proven(silent: Service) -> None:
    seeing(silent, PaperLooks())

    [diagnosis] = backed_up(silent).diagnoses

    assert diagnosis.verdict is Verdict.NOT_PROVEN
    assert diagnosis.code == "agent.silent"
    assert diagnosis.candidates


def test_a_defect_in_a_look_costs_neither_the_point_nor_silence(silent: Service) -> None:
    seeing(silent, PaperLooks(before=lambda: 1 / 0))

    job = backed_up(silent)

    assert job.point_id
    assert job.diagnoses
    assert any("could not be looked for" in line.text for line in job.log)


def test_a_look_that_never_ends_is_given_up(silent: Service) -> None:
    never = threading.Event()
    seeing(silent, PaperLooks(before=never.wait))
    silent._parts.diagnosing._quick = silent._parts.diagnosing._seconds = 0.1

    job = backed_up(silent)

    never.set()
    assert job.point_id
    assert any("is still looked for after 0.1 s" in line.text for line in job.log)


def test_a_look_that_takes_long_does_not_keep_the_point_waiting_and_still_names_the_cause(
    silent: Service, machine: PaperMachine
) -> None:
    """The cause is known when the point is in the vault, and what is broken is mended then."""
    late = threading.Event()
    looks = seeing(silent, PaperLooks(dict(STOPPED), before=late.wait))
    silent._parts.diagnosing._quick = 0.1
    machine.hold("read")
    started = silent.jobs.start_backup("web")
    machine.reached("read")

    late.set()
    machine.let_go("read")
    job = ended(silent, started)

    [diagnosis] = job.diagnoses
    assert (diagnosis.code, diagnosis.verdict) == ("agent.not-running", Verdict.PROVEN)
    assert "restart-waagent" in machine.mended
    asked = [failure for failure in looks.asked if failure]
    assert len(asked) == 1, "what was begun is not begun again"


def test_a_look_that_the_snapshot_was_in_the_way_of_is_had_again_after_the_point(
    silent: Service, machine: PaperMachine
) -> None:
    late = threading.Event()
    looks = seeing(silent, PaperLooks(before=late.wait))
    silent._parts.diagnosing._quick = 0.1
    machine.hold("read")
    started = silent.jobs.start_backup("web")
    machine.reached("read")

    late.set()  # it ends now, and has found nothing
    [case] = silent._parts.diagnosing._cases[started.id].values()
    assert case.look is not None
    case.look._ended.wait()
    looks.values.update(STOPPED)
    machine.let_go("read")

    assert [each.code for each in ended(silent, started).diagnoses] == ["agent.not-running"]
    assert len([failure for failure in looks.asked if failure]) == 2


def test_a_job_cancelled_while_its_failure_is_looked_at_ends_at_once(
    silent: Service, machine: PaperMachine
) -> None:
    never = threading.Event()
    looks = seeing(silent, PaperLooks(before=never.wait))
    job = silent.jobs.start_backup("web")
    eventually(lambda: looks.asked, "the look")

    silent.jobs.cancel(job.id)
    found = ended(silent, job)

    never.set()
    assert found.status is JobStatus.CANCELLED
    assert machine.clean


def test_what_ends_a_job_is_diagnosed_whatever_its_task(
    service: Service, machine: PaperMachine
) -> None:
    seeing(service, PaperLooks())
    point = backed_up(service).point_id
    target = machine.folder / "nowhere" / "at" / "all"
    (machine.folder / "nowhere").write_text("a file where a folder must be")

    job = ended(service, service.jobs.start_restore(RestoreRequest(point, target)))

    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert [each.symptom for each in job.diagnoses] == [job.failure.code]


def test_the_same_failure_is_looked_at_once(service: Service) -> None:
    looks = PaperLooks()
    diagnosing = Diagnosing(service._parts.book, looks)
    job = backed_up(service)
    failure = FailureReport("agent.silent", "nothing was heard")

    first = diagnosing.on_job(job.id, failure)
    again = diagnosing.on_job(job.id, replace(failure))

    assert first is again
    assert len(looks.asked) == 1
