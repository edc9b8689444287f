"""Jobs that mend what is broken, while the snapshot is taken and after the point."""

from __future__ import annotations

import threading

import pytest
from paper_healing import STOPPED, steps, without
from paper_looks import PaperLooks, seeing
from paper_machine import PaperMachine, backed_up, ended
from paper_vm import PaperGuest

from quiesce.model.diagnosis import MendAction, MendStatus
from quiesce.model.job import JobStatus
from quiesce.model.vm import AgentKind
from quiesce.service.healing import JobMender
from quiesce.service.patience import Patience
from quiesce.service.service import Service
from quiesce.service.views import VmChange


def test_an_agent_that_was_got_round_is_restarted_after_the_point_by_the_other_one(
    silent: Service, machine: PaperMachine
) -> None:
    seeing(silent, PaperLooks(dict(STOPPED)))

    job = backed_up(silent)

    assert machine.mended == ["restart-waagent", "auto-restart-waagent"]
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
    silent: Service, machine: PaperMachine
) -> None:
    without(silent, MendAction.RESTART_AGENT)
    seeing(silent, PaperLooks(dict(STOPPED)))

    job = backed_up(silent)

    assert machine.mended == ["auto-restart-waagent"]
    assert (MendAction.RESTART_AGENT, MendStatus.SWITCHED_OFF) in steps(job)
    assert job.point_id


def test_a_mend_that_fails_costs_nothing_and_says_why(silent: Service) -> None:
    silent.vms.change("web", VmChange(agent=AgentKind.WAAGENT))
    seeing(silent, PaperLooks(dict(STOPPED)))

    job = backed_up(silent)

    assert job.point_id
    restart = next(mend for mend in job.mends if mend.action is MendAction.RESTART_AGENT)
    assert restart.status is MendStatus.FAILED
    assert restart.failure is not None
    assert restart.failure.code == "agent.channel-missing"
    assert "--agent both" in restart.failure.remedy


def test_the_step_that_mends_does_nothing_a_second_time(
    silent: Service, machine: PaperMachine
) -> None:
    seeing(silent, PaperLooks(dict(STOPPED)))
    job = backed_up(silent)
    before = machine.mended

    console = silent._parts.console(job.id, job.tasks[0].name)
    JobMender(silent._parts, job, None, console).mend_what_is_broken()

    assert machine.mended == before


def test_what_has_mended_itself_by_the_end_of_the_job_is_left_alone(
    silent: Service, machine: PaperMachine
) -> None:
    looks = PaperLooks(dict(STOPPED))

    def came_back() -> None:
        if len(looks.asked) > 1:
            looks.values.update({"waagent.unit": "active", "guest.examined": True})

    looks.before = came_back
    seeing(silent, looks)

    job = backed_up(silent)

    assert machine.mended == []
    assert any("shows no more" in line.text for line in job.log)


def test_a_guest_that_cannot_be_looked_into_again_is_mended_all_the_same(
    silent: Service, machine: PaperMachine
) -> None:
    looks = PaperLooks(dict(STOPPED))

    def sees_no_more() -> None:
        if len(looks.asked) > 1:
            looks.values.pop("waagent.unit", None)

    looks.before = sees_no_more
    seeing(silent, looks)

    backed_up(silent)

    assert machine.mended == ["restart-waagent", "auto-restart-waagent"]


def test_a_mount_that_cannot_be_frozen_is_left_out_of_the_next_try_and_the_label_stays_honest(
    service: Service, machine: PaperMachine
) -> None:
    seeing(service, PaperLooks({"failed.mount": "/data"}))
    machine.fail("freeze", "/data")

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
    machine.fail("freeze", "/")
    machine.fail("freeze-code", "freeze.busy")

    job = backed_up(service)

    assert job.consistency is not None
    assert job.consistency.level == "file-system"
    assert (MendAction.WAIT, MendStatus.DONE) in steps(job)
    assert len(looks.asked) == 4
    assert set(looks.on_behalf_of) == {job.id}


@pytest.mark.parametrize("mount", ["/", ""])
def test_the_root_is_never_left_out(service: Service, machine: PaperMachine, mount: str) -> None:
    seeing(service, PaperLooks({"failed.mount": mount}))
    machine.fail("freeze", "/")

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
    machine.fail("freeze", "/data")

    job = backed_up(service)

    assert job.freeze is None
    assert (MendAction.SKIP_MOUNT, MendStatus.SWITCHED_OFF) in steps(job)


def test_without_another_route_the_agent_is_mended_and_its_route_tried_again(
    silent: Service, machine: PaperMachine
) -> None:
    """The second route fails for good, so that the first one is mended and taken after all."""
    seeing(silent, PaperLooks(dict(STOPPED)))
    without(silent, MendAction.SKIP_MOUNT)
    (machine.folder / "mends-guest-route").write_text("restart-waagent")
    machine.fail("freeze", "/")

    job = backed_up(silent)

    assert job.route == "guest"
    assert machine.mended == ["restart-waagent", "auto-restart-waagent"]
    assert [setback.code for setback in job.setbacks] == ["agent.silent", "freeze.failed"]


def test_a_step_that_takes_too_long_is_given_up_and_the_point_taken(
    silent: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(PaperGuest, "mend", lambda *_: never.wait() and "at last")
    without(silent, MendAction.OTHER_ROUTE)
    object.__setattr__(
        silent._parts, "patience", Patience(step=0.3, before_point=0.6, sleep=lambda _: None)
    )
    seeing(silent, PaperLooks(dict(STOPPED)))

    job = backed_up(silent)

    never.set()
    assert job.point_id
    assert job.consistency is not None
    assert job.consistency.level == "crash"
    step = next(mend for mend in job.mends if mend.action is MendAction.RESTART_AGENT)
    assert step.failure is not None
    assert step.failure.code == "server.mend-timeout"


def test_a_job_is_cancelled_while_a_guest_is_mended_that_does_not_answer(
    silent: Service, machine: PaperMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    never, asked = threading.Event(), threading.Event()

    def hang(*_: object) -> str:
        asked.set()
        never.wait()
        return "at last"

    monkeypatch.setattr(PaperGuest, "mend", hang)
    without(silent, MendAction.OTHER_ROUTE)
    seeing(silent, PaperLooks(dict(STOPPED)))
    job = silent.jobs.start_backup("web")
    assert asked.wait(30)

    silent.jobs.cancel(job.id)
    found = ended(silent, job)

    never.set()
    assert found.status is JobStatus.CANCELLED
    assert machine.clean
