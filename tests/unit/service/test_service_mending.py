"""Every step of self-healing, on VMs of paper: through which agent it goes, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from paper_agents import PaperAgents
from paper_looks import PaperLooks, seeing
from paper_machine import FakeClock, PaperMachine, ended
from paper_vm import PaperGuest, PaperHypervisor

from quiesce.diagnosis.catalogue import catalogue
from quiesce.diagnosis.engine import diagnose, standing
from quiesce.model.agent import AgentCondition, AgentState
from quiesce.model.diagnosis import (
    Diagnosis,
    Fact,
    FactValue,
    Mend,
    MendAction,
    MendStatus,
    Verdict,
)
from quiesce.model.extension import ExtensionState, GuestSession
from quiesce.model.failure import AgentFailure, Evidence, JobFailure, PolicyFailure
from quiesce.model.presence import Presence
from quiesce.model.snapshot import Route
from quiesce.model.vm import AgentKind
from quiesce.service.mending import IN_THE_SNAPSHOT, WORDS, Mending
from quiesce.service.service import Service
from quiesce.service.views import VmChange

GUEST, HOST = Route.GUEST, Route.HOST
QGA, WAAGENT, BOTH = AgentKind.QGA, AgentKind.WAAGENT, AgentKind.BOTH


def planned(action: MendAction, because: str = "agent.not-running") -> Mend:
    return Mend(action, because, WORDS[action], MendStatus.PLANNED)


@pytest.fixture
def mend(open_service: Service, machine: PaperMachine) -> Callable[..., Mend]:
    """Carries out one step on the VM `web`, which has the agents `kind`."""
    (machine.folder / "agent-condition").write_text("ready")

    def carry_out(
        action: MendAction,
        route: Route | None = None,
        kind: AgentKind = BOTH,
        because: str = "agent.not-running",
    ) -> Mend:
        open_service.vms.change("web", VmChange(agent=kind))
        mending = Mending(open_service._parts)
        return mending.carry_out("web", planned(action, because), route=route)

    return carry_out


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
    mend: Callable[..., Mend],
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
    mend: Callable[..., Mend], machine: PaperMachine, action: MendAction, route: Route, kind
) -> None:
    failed = mend(action, route, kind)
    assert failed.status is MendStatus.FAILED
    assert failed.failure is not None
    assert failed.failure.code == "agent.channel-missing"
    assert "is not reached by it" in failed.failure.message
    assert machine.mended == []


@pytest.mark.parametrize(("answers", "did"), [(True, "restart-waagent"), (False, "restart-qga")])
def test_without_a_failed_route_the_agent_that_does_not_answer_is_the_broken_one(
    mend: Callable[..., Mend],
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
    mend: Callable[..., Mend], machine: PaperMachine
) -> None:
    (machine.folder / "agent-condition").unlink()
    failed = mend(MendAction.RESTART_AGENT, GUEST)
    assert failed.status is MendStatus.FAILED
    assert failed.failure is not None
    assert failed.failure.code == "agent.silent"


def test_what_the_old_process_asked_during_its_restart_is_no_sign_of_the_new_one(
    mend: Callable[..., Mend], monkeypatch: pytest.MonkeyPatch, clock: FakeClock
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
    mend: Callable[..., Mend],
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
    mend: Callable[..., Mend], machine: PaperMachine
) -> None:
    mend(MendAction.REINSTALL_EXTENSION, GUEST)
    assert (machine.folder / "handler").exists()
    assert not (machine.folder / "extension").exists()
    mend(MendAction.REINSTALL_EXTENSION, HOST)
    assert (machine.folder / "extension").exists()


def test_a_session_that_no_job_owns_is_ended_and_thawed(
    mend: Callable[..., Mend], machine: PaperMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = ExtensionState(True, "1", "1", "3.11", "7.2", "paper", (GuestSession("0a", "frozen"),))
    monkeypatch.setattr(PaperGuest, "status", lambda self: state)
    (machine.folder / "frozen").touch()
    done = mend(MendAction.THAW, HOST, QGA)
    assert done.status is MendStatus.DONE
    assert "0a" in done.words
    assert machine.clean


def test_sessions_that_all_belong_to_backups_that_run_are_left_alone(
    open_service: Service,
    mend: Callable[..., Mend],
    machine: PaperMachine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = ExtensionState(True, "1", "1", "3.11", "7.2", "paper", (GuestSession("0a", "frozen"),))
    monkeypatch.setattr(PaperGuest, "status", lambda self: state)
    monkeypatch.setattr(open_service._parts.book, "active_ids", lambda: ("0a",))
    failed = mend(MendAction.THAW, HOST, BOTH)
    assert failed.status is MendStatus.FAILED
    assert machine.mended == []


@pytest.mark.parametrize(
    "action", [MendAction.AUTO_RESTART, MendAction.THAW, MendAction.REINSTALL_EXTENSION]
)
def test_an_agent_that_our_own_session_keeps_busy_is_not_got_round(
    mend: Callable[..., Mend],
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
    mend: Callable[..., Mend], machine: PaperMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> str:
        raise AgentFailure("agent.channel-busy", "Another program holds the agent's channel.")

    monkeypatch.setattr(PaperGuest, "mend", busy)
    assert mend(MendAction.AUTO_RESTART, HOST).status is MendStatus.DONE
    assert machine.mended == ["auto-restart-qga"]


def test_another_servers_session_is_waited_for(
    mend: Callable[..., Mend], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = ExtensionState(True, "1", "1", "3.11", "7.2", "paper", (GuestSession("0a", "frozen"),))
    states = [state, state, replace(state, sessions=())]
    monkeypatch.setattr(PaperGuest, "status", lambda self: states.pop(0))
    done = mend(MendAction.WAIT, HOST, BOTH, "session.active")
    assert (done.status, states) == (MendStatus.DONE, [])


def test_snapshots_of_dead_jobs_are_released(
    mend: Callable[..., Mend], machine: PaperMachine
) -> None:
    (machine.folder / "sessions" / "0123456789ab").mkdir(parents=True)
    done = mend(MendAction.CLEAN_STALE)
    assert done.status is MendStatus.DONE
    assert "1 backup" in done.words
    assert PaperHypervisor(machine.folder).leftovers() == ()


@pytest.mark.parametrize("still", [0, 2])
def test_a_load_is_waited_for_until_the_facts_do_not_show_it_any_more(
    open_service: Service, mend: Callable[..., Mend], still: int
) -> None:
    looks = PaperLooks({"guest.cpu-percent": 99.0})

    def fall() -> None:
        if len(looks.asked) > still:
            looks.values["guest.cpu-percent"] = 5.0

    looks.before = fall
    seeing(open_service, looks)
    done = mend(MendAction.WAIT, HOST, QGA, "guest.overloaded")
    assert done.status is MendStatus.DONE, done
    assert f"Waited for {15 * (still + 1)} s" in done.words


@pytest.mark.parametrize(
    ("because", "seen", "seconds"),
    [
        ("guest.overloaded", {"guest.cpu-percent": 99.0}, 300),
        ("freeze.busy", {"guest.frozen": True}, 60),
    ],
)
def test_what_stays_is_waited_for_some_minutes_at_most(
    open_service: Service,
    mend: Callable[..., Mend],
    because: str,
    seen: dict[str, FactValue],
    seconds: int,
) -> None:
    seeing(open_service, PaperLooks(seen))
    failed = mend(MendAction.WAIT, HOST, QGA, because)
    assert failed.status is MendStatus.FAILED
    assert failed.failure is not None
    assert failed.failure.code == because
    assert f"within {seconds} s" in failed.failure.message


def test_a_defect_in_a_step_is_a_failed_step(
    mend: Callable[..., Mend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PaperGuest, "mend", lambda *_: 1 / 0)
    failed = mend(MendAction.AUTO_RESTART, HOST, QGA)
    assert failed.status is MendStatus.FAILED
    assert failed.failure is not None
    assert failed.failure.code == "internal.defect"


@pytest.mark.parametrize("action", sorted(IN_THE_SNAPSHOT))
def test_ways_to_take_a_point_are_none_of_its_steps(
    mend: Callable[..., Mend], machine: PaperMachine, action: MendAction
) -> None:
    assert mend(action).status is MendStatus.PLANNED
    assert machine.mended == []


def test_a_step_that_is_switched_off_is_not_done(
    open_service: Service, machine: PaperMachine
) -> None:
    off = Mend(MendAction.AUTO_RESTART, "agent.crash-loop", "", MendStatus.SWITCHED_OFF)
    assert Mending(open_service._parts).carry_out("web", off) is off
    assert machine.mended == []


def test_nothing_is_mended_in_a_vm_whose_backup_runs(
    open_service: Service, machine: PaperMachine
) -> None:
    machine.hold("read")
    job = open_service.jobs.start_backup("web")
    machine.reached("read")
    with pytest.raises(PolicyFailure) as refused:
        Mending(open_service._parts).carry_out("web", planned(MendAction.AUTO_RESTART))
    assert refused.value.code == "policy.in-progress"
    machine.let_go("read")
    ended(open_service, job)
    assert machine.mended == []


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


def test_nothing_is_planned_for_what_the_facts_contradict(open_service: Service) -> None:
    raised = AgentFailure("agent.not-running", "Nobody listens.").report()
    facts = [Fact("qga.answers", True, "", ""), Fact("failed.route", "host", "", "")]
    found = diagnose(raised, facts)
    assert found.verdict is Verdict.NOT_PROVEN
    assert Mending(open_service._parts).plan("web", found, ()) == ()


def test_an_unproven_symptom_changes_nothing_of_the_guests_own(open_service: Service) -> None:
    found = Diagnosis("agent.hung", "agent.hung", Verdict.NOT_PROVEN, "")
    plan = Mending(open_service._parts).plan("web", found, ())
    assert [mend.action for mend in plan] == [MendAction.THAW]


def test_a_plan_has_each_action_once_and_says_what_the_policy_forbids(
    open_service: Service,
) -> None:
    diagnosis = Diagnosis(
        "agent.silent",
        "agent.not-running",
        Verdict.PROVEN,
        "",
        also=("agent.crash-loop",),
    )
    plan = Mending(open_service._parts).plan("web", diagnosis, (MendAction.AUTO_RESTART,))
    assert [(mend.action, mend.because, mend.status) for mend in plan] == [
        (MendAction.RESTART_AGENT, "agent.not-running", MendStatus.PLANNED),
        (MendAction.AUTO_RESTART, "agent.not-running", MendStatus.SWITCHED_OFF),
    ]


def test_every_action_that_a_cause_may_name_has_words() -> None:
    named = {action for entry in catalogue().entries.values() for action in entry.mend_by}
    assert named <= set(WORDS)
    assert set(WORDS) == set(MendAction)
