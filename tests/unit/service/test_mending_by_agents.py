"""Every step of self-healing goes through an agent that answers, and says what it would take."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from paper_agents import PaperAgents
from paper_healing import BOTH, GUEST, HOST, QGA, WAAGENT, CarryOut, planned
from paper_machine import FakeClock, PaperMachine
from paper_vm import PaperGuest

from quiesce.diagnosis.engine import standing
from quiesce.model.agent import AgentCondition, AgentState
from quiesce.model.diagnosis import Fact, MendAction, MendStatus
from quiesce.model.failure import AgentFailure, Evidence, JobFailure
from quiesce.model.presence import Presence
from quiesce.model.snapshot import Route
from quiesce.model.vm import AgentKind
from quiesce.service.mending import Mending
from quiesce.service.service import Service
from quiesce.service.views import VmChange


@pytest.mark.parametrize(
    ("action", "route", "kind", "did"),
    [
        (MendAction.RESTART_AGENT, GUEST, BOTH, "restart-waagent"),
        (MendAction.RESTART_AGENT, HOST, BOTH, "restart-qga"),
        (MendAction.AUTO_RESTART, GUEST, BOTH, "auto-restart-waagent"),
        (MendAction.AUTO_RESTART, GUEST, WAAGENT, "auto-restart-waagent"),
        (MendAction.AUTO_RESTART, HOST, QGA, "auto-restart-qga"),
        (MendAction.ENABLE_EXTENSIONS, GUEST, BOTH, "enable-extensions"),
        (MendAction.ENABLE_EXTENSIONS, HOST, BOTH, "allow-qga"),
        (MendAction.ENABLE_EXTENSIONS, HOST, QGA, "allow-qga"),
        (MendAction.SET_ENDPOINT, GUEST, BOTH, "exempt-host 192.0.2.1"),
        (MendAction.REINSTALL_EXTENSION, GUEST, BOTH, "end-extension"),
        (MendAction.REINSTALL_EXTENSION, HOST, QGA, "end-extension"),
        (MendAction.THAW, HOST, QGA, "end-extension"),
        (MendAction.THAW, GUEST, WAAGENT, "end-extension"),
    ],
)
def test_each_step_goes_through_an_agent_that_answers(
    mend: CarryOut,
    machine: PaperMachine,
    action: MendAction,
    route: Route,
    kind: AgentKind,
    did: str,
) -> None:
    done = mend(action, route, kind)
    assert (done.status, done.failure) == (MendStatus.DONE, None)
    assert machine.mended == [did]


@pytest.mark.parametrize(
    ("action", "route", "kind"),
    [
        (MendAction.RESTART_AGENT, HOST, QGA),
        (MendAction.RESTART_AGENT, GUEST, WAAGENT),
        (MendAction.ENABLE_EXTENSIONS, GUEST, WAAGENT),
        (MendAction.RENEW_ACCESS, None, QGA),
    ],
)
def test_without_the_other_agent_a_step_fails_and_says_what_it_would_take(
    mend: CarryOut, machine: PaperMachine, action: MendAction, route: Route, kind: AgentKind
) -> None:
    failed = mend(action, route, kind)
    assert failed.status is MendStatus.FAILED
    assert failed.failure is not None
    assert failed.failure.code == "agent.channel-missing"
    assert "is not reached by it" in failed.failure.message
    assert machine.mended == []


@pytest.mark.parametrize(("answers", "did"), [(True, "restart-waagent"), (False, "restart-qga")])
def test_without_a_failed_route_the_agent_that_does_not_answer_is_the_broken_one(
    mend: CarryOut,
    machine: PaperMachine,
    monkeypatch: pytest.MonkeyPatch,
    answers: bool,
    did: str,
) -> None:
    def presence(self: PaperGuest) -> Presence:
        if answers or did in machine.mended:
            return Presence("7.2")
        raise AgentFailure("agent.hung", "The guest agent does not answer.")

    monkeypatch.setattr(PaperGuest, "presence", presence)
    assert mend(MendAction.RESTART_AGENT).status is MendStatus.DONE
    assert machine.mended == [did]


def test_an_agent_that_does_not_come_back_after_its_restart_is_a_failed_step(
    mend: CarryOut, machine: PaperMachine
) -> None:
    (machine.folder / "agent-condition").unlink()
    failed = mend(MendAction.RESTART_AGENT, GUEST)
    assert failed.status is MendStatus.FAILED
    assert failed.failure is not None
    assert failed.failure.code == "agent.silent"


def test_what_the_old_process_asked_during_its_restart_is_no_sign_of_the_new_one(
    mend: CarryOut, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    began = clock.time

    def restart(*_: object) -> str:
        clock.time = began + timedelta(minutes=1)
        return "It was restarted."

    old = AgentState(AgentCondition.READY, "2.7", "paper", began + timedelta(seconds=30))
    monkeypatch.setattr(PaperGuest, "mend", restart)
    monkeypatch.setattr(PaperAgents, "state", lambda self, vm: old)
    failed = mend(MendAction.RESTART_AGENT, GUEST)
    assert failed.failure is not None
    assert failed.failure.code == "agent.silent"


def test_a_reinstallation_that_is_cancelled_begins_nothing_more(
    mend: CarryOut,
    open_service: Service,
    machine: PaperMachine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    removing, go_on = threading.Event(), threading.Event()

    def uninstall(self: PaperGuest) -> None:
        removing.set()
        go_on.wait(30)

    def cancelled(_: str) -> None:
        if removing.is_set():
            raise JobFailure("job.cancelled", "It was cancelled.")

    monkeypatch.setattr(PaperGuest, "uninstall", uninstall)
    step = planned(MendAction.REINSTALL_EXTENSION)
    with pytest.raises(JobFailure):
        Mending(open_service._parts).carry_out("web", step, route=HOST, show=cancelled)
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "errand":
            thread.join(30)
    assert not (machine.folder / "extension").exists()


def test_the_extension_is_removed_and_installed_through_the_agent_that_failed(
    mend: CarryOut, machine: PaperMachine
) -> None:
    mend(MendAction.REINSTALL_EXTENSION, GUEST)
    assert (machine.folder / "handler").exists()
    assert not (machine.folder / "extension").exists()
    mend(MendAction.REINSTALL_EXTENSION, HOST)
    assert (machine.folder / "extension").exists()


@pytest.mark.parametrize(
    "action", [MendAction.AUTO_RESTART, MendAction.THAW, MendAction.REINSTALL_EXTENSION]
)
def test_an_agent_that_our_own_session_keeps_busy_is_not_got_round(
    mend: CarryOut,
    machine: PaperMachine,
    monkeypatch: pytest.MonkeyPatch,
    action: MendAction,
) -> None:
    def busy(*_: object) -> str:
        ours = Evidence("session 0a is open", "this server")
        raise AgentFailure("agent.channel-busy", "A backup runs.", evidence=[ours])

    monkeypatch.setattr(PaperGuest, "mend", busy)
    monkeypatch.setattr(PaperGuest, "status", busy)
    failed = mend(action, GUEST)
    assert failed.status is MendStatus.FAILED
    assert failed.failure is not None
    assert failed.failure.code == "agent.channel-busy"
    assert machine.mended == []


def test_an_agent_that_somebody_else_holds_is_got_round(
    mend: CarryOut, machine: PaperMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> str:
        raise AgentFailure("agent.channel-busy", "Another program holds the agent's channel.")

    monkeypatch.setattr(PaperGuest, "mend", busy)
    assert mend(MendAction.AUTO_RESTART, HOST).status is MendStatus.DONE
    assert machine.mended == ["auto-restart-qga"]


def test_a_defect_in_a_step_is_a_failed_step(
    mend: CarryOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PaperGuest, "mend", lambda *_: 1 / 0)
    failed = mend(MendAction.AUTO_RESTART, HOST, QGA)
    assert failed.status is MendStatus.FAILED
    assert failed.failure is not None
    assert failed.failure.code == "internal.defect"


@pytest.mark.parametrize(("facts", "did"), [("qga", "restart-qga"), ("waagent", "restart-waagent")])
def test_a_step_is_for_the_agent_that_the_facts_show_to_be_broken(
    open_service: Service, machine: PaperMachine, facts: str, did: str
) -> None:
    """Both agents answer at this moment."""
    (machine.folder / "agent-condition").write_text("ready")
    open_service.vms.change("web", VmChange(agent=BOTH))
    mending = Mending(open_service._parts)
    seen = {"qga.configured": True, "waagent.configured": True, f"{facts}.unit": "inactive"}
    [cause] = standing([Fact(name, value, name, "paper") for name, value in seen.items()])
    step = mending.plan("web", cause, ())[0]
    assert mending.carry_out("web", step).status is MendStatus.DONE
    assert machine.mended == [did]
