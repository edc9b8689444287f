"""What is planned to be mended, and what is left alone."""

from __future__ import annotations

import pytest
from paper_healing import CarryOut, planned
from paper_machine import PaperMachine, ended

from quiesce.diagnosis.catalogue import catalogue
from quiesce.diagnosis.engine import diagnose
from quiesce.model.diagnosis import Diagnosis, Fact, Mend, MendAction, MendStatus, Verdict
from quiesce.model.failure import AgentFailure, PolicyFailure
from quiesce.service.mending import IN_THE_SNAPSHOT, WORDS, Mending
from quiesce.service.service import Service


@pytest.mark.parametrize("action", sorted(IN_THE_SNAPSHOT))
def test_ways_to_take_a_point_are_none_of_its_steps(
    mend: CarryOut, machine: PaperMachine, action: MendAction
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
