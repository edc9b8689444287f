"""All looks at a VM of a real service, healthy and not."""

from __future__ import annotations

from pathlib import Path

import pytest
from paper_agents import PaperStorage
from paper_case import failure, values
from paper_machine import PaperMachine, ended
from paper_vm import PaperGuest, PaperHypervisor

from quiesce.diagnosis.engine import standing
from quiesce.model.failure import AgentFailure, NotFoundFailure
from quiesce.model.network import Proxy
from quiesce.model.papers import Paper, Papers
from quiesce.model.presence import Presence
from quiesce.model.snapshot import Route
from quiesce.model.vm import AgentKind, VmAddress
from quiesce.service.looks import Seen
from quiesce.service.looks.panel import Found
from quiesce.service.service import Service
from quiesce.service.views import VmChange


@pytest.fixture
def both(open_service: Service, machine: PaperMachine, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service whose VM has both agents, and which its own storage endpoint answers."""
    open_service.vms.change("web", VmChange(agent=AgentKind.BOTH))
    (machine.folder / "agent-condition").write_text("ready")
    monkeypatch.setattr("quiesce.service.looks.host.shake_hands", lambda *_: None)
    return open_service


def facts(seen: Seen) -> dict[str, object]:
    return values(Found(seen.facts))


def codes(seen: Seen) -> list[str]:
    return [problem.code for problem in seen.problems]


def test_a_healthy_vm_is_seen_through_every_channel_and_nothing_is_wrong(both: Service) -> None:
    seen = both.looks.facts("web", deep=True)
    found = facts(seen)
    assert seen.problems == ()
    assert {
        "vm.power": "running",
        "qga.answers": True,
        "guest.examined": True,
        "waagent.condition": "ready",
        "waagent.served": True,
        "net.endpoint-up": True,
        "hop.tcp": "ok",
        "session.left-over": 0.0,
    }.items() <= found.items()
    assert seen.papers is not None
    assert len(seen.channels) == 5
    assert [diagnosis.code for diagnosis in standing(seen.facts)] == []


def test_a_vm_that_nobody_knows_cannot_be_looked_at(service: Service) -> None:
    with pytest.raises(NotFoundFailure):
        service.looks.facts("nobody")


def test_a_dead_vm_is_told_as_one_and_costs_no_defect(
    both: Service, machine: PaperMachine, tmp_path: Path
) -> None:
    machine.folder.rename(tmp_path / "away")
    seen = both.looks.facts("web", failure=failure("vm.not-found"))
    assert facts(seen)["vm.power"] == "missing"
    assert "internal.defect" not in codes(seen)
    (tmp_path / "away").rename(machine.folder)


def test_where_the_guest_agent_is_dead_the_polling_one_gives_the_papers(
    both: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(_: PaperGuest) -> Presence:
        raise AgentFailure("agent.not-running", "No guest agent runs in the VM.")

    monkeypatch.setattr(PaperGuest, "presence", dead)
    seen = both.looks.facts("web", failure=failure("agent.not-running"), route=Route.HOST)
    assert seen.papers is not None
    assert "Azure" in seen.papers.source
    assert facts(seen)["qga.answers"] is False
    assert facts(seen)["failed.route"] == "host"
    assert codes(seen) == ["agent.not-running"]


def test_papers_become_facts(both: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    release = Paper("/etc/os-release", "ID=debian\n", size_bytes=10)
    monkeypatch.setattr(PaperGuest, "examine", lambda _: Papers((release,), "the guest"))
    assert facts(both.looks.facts("web"))["guest.distribution"] == "debian"


def test_papers_that_break_their_reader_cost_only_what_they_show(
    both: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PaperGuest, "examine", lambda _: "no papers at all")
    seen = both.looks.facts("web")
    assert codes(seen) == ["internal.defect"]
    assert facts(seen)["qga.answers"] is True


def test_while_another_job_takes_its_snapshot_the_guest_is_left_alone(
    both: Service, machine: PaperMachine
) -> None:
    machine.hold("frozen")
    both.policies.all()
    job = both.jobs.start_backup("web")
    machine.hold("take")
    machine.reached("take")
    seen = both.looks.facts("web", deep=True)
    assert set(codes(seen)) == {"agent.channel-busy"}
    assert "qga.answers" not in facts(seen)
    assert facts(seen)["vm.power"] == "running"
    assert facts(seen)["session.left-over"] == 0.0, "its session belongs to an active job"
    assert seen.papers is None

    own = both.looks.facts("web", job=both.jobs.get(job.id))
    assert set(codes(own)) == {"agent.channel-busy"}, "nor is it when its own job's point is tried"
    assert own.papers is None
    machine.let_go("take")
    machine.let_go("frozen")
    ended(both, job)


def test_a_session_of_no_job_is_seen(service: Service, machine: PaperMachine) -> None:
    (machine.folder / "sessions" / "0000000000aa").mkdir(parents=True)
    assert facts(service.looks.facts("web"))["session.left-over"] == 1.0
    PaperHypervisor(machine.folder).release("0000000000aa", committed=False)


def test_the_jobs_beside_it_and_what_the_endpoint_saw_belong_to_the_job(
    both: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ended(both, both.jobs.start_backup("web"))
    found = facts(both.looks.facts("web", job=job, route=Route.GUEST))
    assert found["schedule.same-time"] == 0.0
    assert found["endpoint.asked"] is False, "a paper guest asks its route, not the endpoint"
    assert PaperStorage().recent("web") == ()


def test_no_password_of_a_proxy_is_among_the_facts(both: Service) -> None:
    both.vms.change("web", VmChange(proxy=Proxy(https="http://me:verysecret@proxy:3128")))
    seen = both.looks.facts("web", deep=True, failure=failure("agent.silent"))
    assert "hop.tcp" in facts(seen)
    for fact in seen.facts:
        assert "verysecret" not in fact.words + fact.raw + str(fact.value), fact.name


def test_two_vms_do_not_mix(service: Service, tmp_path: Path) -> None:
    other = PaperMachine(tmp_path / "other")
    service.vms.add(VmAddress("mail", other.folder))
    (other.folder / "sessions" / "0000000000aa").mkdir(parents=True)
    assert facts(service.looks.facts("web"))["session.left-over"] == 0.0
    assert facts(service.looks.facts("mail"))["session.left-over"] == 1.0
