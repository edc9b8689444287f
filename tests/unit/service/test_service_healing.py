"""Jobs that find out why something failed and mend it, on VMs of paper."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from paper_looks import PaperLooks, seeing
from paper_machine import PaperMachine, ended, eventually
from paper_vm import PaperGuest, PaperHypervisor

from quiesce.model.diagnosis import Diagnosis, Mend, MendAction, MendStatus, Verdict
from quiesce.model.failure import FailureReport, SnapshotFailure
from quiesce.model.job import Job, JobStatus
from quiesce.model.policy import Policy
from quiesce.model.vm import AgentKind
from quiesce.service.codec import from_json, to_json
from quiesce.service.diagnosing import Diagnosing
from quiesce.service.healing import JobMender
from quiesce.service.patience import Patience
from quiesce.service.requests import RestoreRequest
from quiesce.service.service import Service
from quiesce.service.views import VmChange

STOPPED = {
    "waagent.configured": True,
    "waagent.unit": "inactive",
    "vm.power": "running",
    "qga.configured": True,
    "qga.answers": True,
}


@pytest.fixture
def polled(open_service: Service, machine: PaperMachine) -> Service:
    """A service whose VM `web` has both agents."""
    open_service.vms.change("web", VmChange(agent=AgentKind.BOTH))
    (machine.folder / "agent-condition").write_text("ready")
    return open_service


def backed_up(service: Service) -> Job:
    return ended(service, service.jobs.start_backup("web"))


def mended(machine: PaperMachine) -> list[str]:
    notes = machine.folder / "mended"
    return [line.strip() for line in notes.read_text().splitlines()] if notes.exists() else []


def without(service: Service, *actions: MendAction) -> None:
    """The VM's policy switches these off."""
    view = service.policies.show("daily")
    service.policies.change(replace(view, mends_off=actions))
    service.vms.protect("web", "daily")


def steps(job: Job) -> list[tuple[MendAction, MendStatus]]:
    return [(mend.action, mend.status) for mend in job.mends]


# --- diagnoses


def test_a_job_names_the_proven_cause_of_what_was_got_round(
    polled: Service, machine: PaperMachine
) -> None:
    seeing(polled, PaperLooks(dict(STOPPED)))
    (machine.folder / "fail-guest-route").write_text("agent.silent")

    job = backed_up(polled)

    [diagnosis] = job.diagnoses
    assert (diagnosis.symptom, diagnosis.code) == ("agent.silent", "agent.not-running")
    assert diagnosis.verdict is Verdict.PROVEN
    assert any("The cause is proven" in line.text for line in job.log)
    assert job.status is JobStatus.COMPLETED_WITH_WARNING
    assert [setback.code for setback in job.setbacks] == ["agent.silent"]


def test_without_evidence_the_job_says_that_the_cause_is_not_proven(
    polled: Service, machine: PaperMachine
) -> None:
    seeing(polled, PaperLooks())
    (machine.folder / "fail-guest-route").write_text("agent.silent")

    [diagnosis] = backed_up(polled).diagnoses

    assert diagnosis.verdict is Verdict.NOT_PROVEN
    assert diagnosis.code == "agent.silent"
    assert diagnosis.candidates


def test_a_defect_in_a_look_costs_neither_the_point_nor_silence(
    polled: Service, machine: PaperMachine
) -> None:
    seeing(polled, PaperLooks(before=lambda: 1 / 0))
    (machine.folder / "fail-guest-route").write_text("agent.silent")

    job = backed_up(polled)

    assert job.point_id
    assert job.diagnoses
    assert any("could not be looked for" in line.text for line in job.log)


def test_a_look_that_never_ends_is_given_up(polled: Service, machine: PaperMachine) -> None:
    never = threading.Event()
    seeing(polled, PaperLooks(before=never.wait))
    polled._parts.diagnosing._quick = polled._parts.diagnosing._seconds = 0.1
    (machine.folder / "fail-guest-route").write_text("agent.silent")

    job = backed_up(polled)

    never.set()
    assert job.point_id
    assert any("is still looked for after 0.1 s" in line.text for line in job.log)


def test_a_look_that_takes_long_does_not_keep_the_point_waiting_and_still_names_the_cause(
    polled: Service, machine: PaperMachine
) -> None:
    """The cause is known when the point is in the vault, and what is broken is mended then."""
    late = threading.Event()
    looks = seeing(polled, PaperLooks(dict(STOPPED), before=late.wait))
    polled._parts.diagnosing._quick = 0.1
    (machine.folder / "fail-guest-route").write_text("agent.silent")
    machine.hold("read")
    started = polled.jobs.start_backup("web")
    machine.reached("read")

    late.set()
    machine.let_go("read")
    job = ended(polled, started)

    [diagnosis] = job.diagnoses
    assert (diagnosis.code, diagnosis.verdict) == ("agent.not-running", Verdict.PROVEN)
    assert "restart-waagent" in mended(machine)
    asked = [failure for failure in looks.asked if failure]
    assert len(asked) == 1, "what was begun is not begun again"


def test_a_look_that_the_snapshot_was_in_the_way_of_is_had_again_after_the_point(
    polled: Service, machine: PaperMachine
) -> None:
    late = threading.Event()
    looks = seeing(polled, PaperLooks(before=late.wait))
    polled._parts.diagnosing._quick = 0.1
    (machine.folder / "fail-guest-route").write_text("agent.silent")
    machine.hold("read")
    started = polled.jobs.start_backup("web")
    machine.reached("read")

    late.set()  # it ends now, and has found nothing
    [case] = polled._parts.diagnosing._cases[started.id].values()
    assert case.look is not None
    case.look._ended.wait()
    looks.values.update(STOPPED)
    machine.let_go("read")

    assert [each.code for each in ended(polled, started).diagnoses] == ["agent.not-running"]
    assert len([failure for failure in looks.asked if failure]) == 2


def test_a_job_cancelled_while_its_failure_is_looked_at_ends_at_once(
    polled: Service, machine: PaperMachine
) -> None:
    never = threading.Event()
    looks = seeing(polled, PaperLooks(before=never.wait))
    (machine.folder / "fail-guest-route").write_text("agent.silent")
    job = polled.jobs.start_backup("web")
    eventually(lambda: looks.asked, "the look")

    polled.jobs.cancel(job.id)
    found = ended(polled, job)

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


# --- mends after the point


def test_an_agent_that_was_got_round_is_restarted_after_the_point_by_the_other_one(
    polled: Service, machine: PaperMachine
) -> None:
    seeing(polled, PaperLooks(dict(STOPPED)))
    (machine.folder / "fail-guest-route").write_text("agent.silent")

    job = backed_up(polled)

    assert mended(machine) == ["restart-waagent", "auto-restart-waagent"]
    assert steps(job) == [
        (MendAction.OTHER_ROUTE, MendStatus.DONE),
        (MendAction.RESTART_AGENT, MendStatus.DONE),
        (MendAction.AUTO_RESTART, MendStatus.DONE),
    ]
    assert {mend.because for mend in job.mends} == {"agent.not-running"}
    texts = [line.text for line in job.log]
    taken = next(i for i, text in enumerate(texts) if "is in the vault" in text)
    restarted = next(i for i, text in enumerate(texts) if "restart-waagent" in text)
    assert taken < restarted


def test_what_the_policy_switches_off_is_said_and_not_done(
    polled: Service, machine: PaperMachine
) -> None:
    without(polled, MendAction.RESTART_AGENT)
    seeing(polled, PaperLooks(dict(STOPPED)))
    (machine.folder / "fail-guest-route").write_text("agent.silent")

    job = backed_up(polled)

    assert mended(machine) == ["auto-restart-waagent"]
    assert (MendAction.RESTART_AGENT, MendStatus.SWITCHED_OFF) in steps(job)
    assert job.point_id


def test_a_mend_that_fails_costs_nothing_and_says_why(
    polled: Service, machine: PaperMachine
) -> None:
    polled.vms.change("web", VmChange(agent=AgentKind.WAAGENT))
    seeing(polled, PaperLooks(dict(STOPPED)))
    (machine.folder / "fail-guest-route").write_text("agent.silent")

    job = backed_up(polled)

    assert job.point_id
    restart = next(mend for mend in job.mends if mend.action is MendAction.RESTART_AGENT)
    assert restart.status is MendStatus.FAILED
    assert restart.failure is not None
    assert restart.failure.code == "agent.channel-missing"
    assert "--agent both" in restart.failure.remedy


def test_the_step_that_mends_does_nothing_a_second_time(
    polled: Service, machine: PaperMachine
) -> None:
    seeing(polled, PaperLooks(dict(STOPPED)))
    (machine.folder / "fail-guest-route").write_text("agent.silent")
    job = backed_up(polled)
    before = mended(machine)

    console = polled._parts.console(job.id, job.tasks[0].name)
    JobMender(polled._parts, job, None, console).mend_what_is_broken()

    assert mended(machine) == before


def test_what_has_mended_itself_by_the_end_of_the_job_is_left_alone(
    polled: Service, machine: PaperMachine
) -> None:
    looks = PaperLooks(dict(STOPPED))

    def came_back() -> None:
        if len(looks.asked) > 1:
            looks.values.update({"waagent.unit": "active", "guest.examined": True})

    looks.before = came_back
    seeing(polled, looks)
    (machine.folder / "fail-guest-route").write_text("agent.silent")

    job = backed_up(polled)

    assert mended(machine) == []
    assert any("shows no more" in line.text for line in job.log)


def test_a_guest_that_cannot_be_looked_into_again_is_mended_all_the_same(
    polled: Service, machine: PaperMachine
) -> None:
    looks = PaperLooks(dict(STOPPED))

    def sees_no_more() -> None:
        if len(looks.asked) > 1:
            looks.values.pop("waagent.unit", None)

    looks.before = sees_no_more
    seeing(polled, looks)
    (machine.folder / "fail-guest-route").write_text("agent.silent")

    backed_up(polled)

    assert mended(machine) == ["restart-waagent", "auto-restart-waagent"]


# --- mends while the snapshot is taken


def test_a_mount_that_cannot_be_frozen_is_left_out_of_the_next_try_and_the_label_stays_honest(
    service: Service, machine: PaperMachine
) -> None:
    seeing(service, PaperLooks({"failed.mount": "/data"}))
    (machine.folder / "fail-freeze").write_text("/data")

    job = backed_up(service)

    assert (MendAction.SKIP_MOUNT, MendStatus.DONE) in steps(job)
    assert job.freeze is not None, "the others were frozen"
    assert [setback.code for setback in job.setbacks] == ["freeze.failed"]


def test_somebody_elses_freeze_is_waited_for_by_the_job_that_looks_at_it(
    service: Service, machine: PaperMachine
) -> None:
    looks = seeing(service, PaperLooks({"guest.frozen": True}))

    def fall() -> None:
        if len(looks.asked) > 3:
            looks.values["guest.frozen"] = False
            (machine.folder / "fail-freeze").unlink(missing_ok=True)

    looks.before = fall
    (machine.folder / "fail-freeze").write_text("/")
    (machine.folder / "fail-freeze-code").write_text("freeze.busy")

    job = backed_up(service)

    assert job.consistency is not None
    assert job.consistency.level == "file-system"
    assert (MendAction.WAIT, MendStatus.DONE) in steps(job)
    assert len(looks.asked) == 4
    assert set(looks.on_behalf_of) == {job.id}


@pytest.mark.parametrize("mount", ["/", ""])
def test_the_root_is_never_left_out(service: Service, machine: PaperMachine, mount: str) -> None:
    seeing(service, PaperLooks({"failed.mount": mount}))
    (machine.folder / "fail-freeze").write_text("/")

    job = backed_up(service)

    assert (MendAction.SKIP_MOUNT, MendStatus.FAILED) in steps(job)
    assert job.consistency is not None
    assert job.consistency.level == "crash"
    assert "freeze.failed" in job.consistency.reason


def test_with_the_mount_skip_switched_off_the_point_is_crash_consistent(
    service: Service, machine: PaperMachine
) -> None:
    without(service, MendAction.SKIP_MOUNT)
    seeing(service, PaperLooks({"failed.mount": "/data"}))
    (machine.folder / "fail-freeze").write_text("/data")

    job = backed_up(service)

    assert job.freeze is None
    assert (MendAction.SKIP_MOUNT, MendStatus.SWITCHED_OFF) in steps(job)


def test_without_another_route_the_agent_is_mended_and_its_route_tried_again(
    polled: Service, machine: PaperMachine
) -> None:
    """The second route fails for good, so that the first one is mended and taken after all."""
    seeing(polled, PaperLooks(dict(STOPPED)))
    without(polled, MendAction.SKIP_MOUNT)
    (machine.folder / "fail-guest-route").write_text("agent.silent")
    (machine.folder / "mends-guest-route").write_text("restart-waagent")
    (machine.folder / "fail-freeze").write_text("/")

    job = backed_up(polled)

    assert job.route == "guest"
    assert mended(machine) == ["restart-waagent", "auto-restart-waagent"]
    assert [setback.code for setback in job.setbacks] == ["agent.silent", "freeze.failed"]


# --- trying again


def test_a_passing_failure_is_tried_again_after_pauses_that_grow(
    service: Service, machine: PaperMachine
) -> None:
    seeing(service, PaperLooks())
    (machine.folder / "fail-prepare").write_text("vm.unreachable\nvm.gone")

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
    (machine.folder / "fail-prepare").write_text("vm.unreachable\n" * 9)

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


def test_a_step_that_takes_too_long_is_given_up_and_the_point_taken(
    polled: Service, machine: PaperMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(PaperGuest, "mend", lambda *_: never.wait() and "at last")
    without(polled, MendAction.OTHER_ROUTE)
    object.__setattr__(
        polled._parts, "patience", Patience(step=0.3, before_point=0.6, sleep=lambda _: None)
    )
    seeing(polled, PaperLooks(dict(STOPPED)))
    (machine.folder / "fail-guest-route").write_text("agent.silent")

    job = backed_up(polled)

    never.set()
    assert job.point_id
    assert job.consistency is not None
    assert job.consistency.level == "crash"
    step = next(mend for mend in job.mends if mend.action is MendAction.RESTART_AGENT)
    assert step.failure is not None
    assert step.failure.code == "server.mend-timeout"


def test_a_deterministic_failure_is_not_tried_again(
    service: Service, machine: PaperMachine
) -> None:
    (machine.folder / "fail-prepare").write_text("script.pre-failed\n" * 9)

    job = backed_up(service)

    assert job.status is JobStatus.FAILED
    assert len((machine.folder / "fail-prepare").read_text().split()) == 8


def test_a_job_is_cancelled_while_it_waits_to_be_tried_again(
    service: Service, machine: PaperMachine
) -> None:
    seeing(service, PaperLooks())
    object.__setattr__(service._parts, "patience", Patience(retries=(3600.0,)))
    (machine.folder / "fail-prepare").write_text("vm.unreachable\n")
    job = service.jobs.start_backup("web")
    phase = eventually(
        lambda: service.jobs.get(job.id).tasks[0].progress.phase, "the reason, shown"
    )
    began = time.monotonic()

    service.jobs.cancel(job.id)

    assert ended(service, job).status is JobStatus.CANCELLED
    assert time.monotonic() - began < 2
    assert "vm.unreachable" in phase


def test_a_job_is_cancelled_while_a_guest_is_mended_that_does_not_answer(
    polled: Service, machine: PaperMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    never, asked = threading.Event(), threading.Event()

    def hang(*_: object) -> str:
        asked.set()
        never.wait()
        return "at last"

    monkeypatch.setattr(PaperGuest, "mend", hang)
    without(polled, MendAction.OTHER_ROUTE)
    seeing(polled, PaperLooks(dict(STOPPED)))
    (machine.folder / "fail-guest-route").write_text("agent.silent")
    job = polled.jobs.start_backup("web")
    assert asked.wait(30)

    polled.jobs.cancel(job.id)
    found = ended(polled, job)

    never.set()
    assert found.status is JobStatus.CANCELLED
    assert machine.clean


# --- older versions


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


def test_the_same_failure_is_looked_at_once(service: Service) -> None:
    looks = PaperLooks()
    diagnosing = Diagnosing(service._parts.book, looks)
    job = backed_up(service)
    failure = FailureReport("agent.silent", "nothing was heard")

    first = diagnosing.on_job(job.id, failure)
    again = diagnosing.on_job(job.id, replace(failure))

    assert first is again
    assert len(looks.asked) == 1


def test_a_diagnosis_and_a_mend_of_an_older_version_are_of_no_known_route() -> None:
    diagnosis = Diagnosis("agent.hung", "agent.hung", Verdict.PROVEN, "It hangs.")
    older = to_json(diagnosis).replace(',"route":null,"contradicted":false', "")
    assert older != to_json(diagnosis)
    assert from_json(Diagnosis, older) == diagnosis
    mend = Mend(MendAction.WAIT, "agent.hung", "Wait.", MendStatus.DONE)
    older = to_json(mend).replace(',"route":null', "")
    assert older != to_json(mend)
    assert from_json(Mend, older) == mend
