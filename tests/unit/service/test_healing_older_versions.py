"""Policies and jobs that an older version wrote, which knew less of healing."""

from __future__ import annotations

from paper_healing import without
from paper_machine import backed_up

from quiesce.model.diagnosis import Diagnosis, Mend, MendAction, MendStatus, Verdict
from quiesce.model.job import Job
from quiesce.model.policy import Policy
from quiesce.service.codec import from_json, to_json
from quiesce.service.service import Service


def test_a_policy_keeps_what_it_switches_off_and_an_older_one_switches_nothing_off(
    service: Service,
) -> None:
    without(service, MendAction.FULL_READ, MendAction.THAW, MendAction.FULL_READ)

    assert service.policies.show("daily").mends_off == (MendAction.FULL_READ, MendAction.THAW)
    written = to_json(service.policies.policy("daily"))
    older = written.replace(',"mends_off":["full-read","thaw"]', "")
    assert older != written
    assert from_json(Policy, older).mends_off == ()


def test_a_job_of_an_older_version_has_no_diagnoses_and_no_mends(service: Service) -> None:
    written = to_json(backed_up(service))
    older = written.replace(',"diagnoses":[],"mends":[]', "")
    assert older != written
    assert from_json(Job, older).diagnoses == ()


def test_a_diagnosis_and_a_mend_of_an_older_version_are_of_no_known_route() -> None:
    diagnosis = Diagnosis("agent.hung", "agent.hung", Verdict.PROVEN, "It hangs.")
    older = to_json(diagnosis).replace(',"route":null,"contradicted":false', "")
    assert older != to_json(diagnosis)
    assert from_json(Diagnosis, older) == diagnosis
    mend = Mend(MendAction.WAIT, "agent.hung", "Wait.", MendStatus.DONE)
    older = to_json(mend).replace(',"route":null', "")
    assert older != to_json(mend)
    assert from_json(Mend, older) == mend
