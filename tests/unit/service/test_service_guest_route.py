"""Backups by the guest route, as the job shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from paper_agents import PaperAgents, StuckStorage
from paper_machine import PaperMachine, ended, eventually
from paper_vm import PaperComposition

from quiesce.model.failure import AgentFailure, StorageFailure
from quiesce.model.job import JobStatus, TaskName
from quiesce.model.policy import RoutePreference, SnapshotOptions
from quiesce.model.vm import AgentKind, VmAddress
from quiesce.service import backup
from quiesce.service.codec import from_json
from quiesce.service.guest_side import GuestSide, Served
from quiesce.service.service import Service
from quiesce.service.settings import Settings
from quiesce.service.views import PolicyView, VmChange


def test_the_job_and_its_point_say_that_the_guest_asked_for_it(
    polled: Service, machine: PaperMachine
) -> None:
    job = ended(polled, polled.jobs.start_backup("web"))

    assert job.status is JobStatus.COMPLETED, job
    assert (job.route, job.setbacks) == ("guest", ())
    assert polled.points.get(job.point_id).route == "guest"
    assert machine.clean


def test_a_guest_route_that_fails_is_got_round_and_kept_as_a_setback(
    polled: Service, machine: PaperMachine
) -> None:
    machine.fail("guest-route", "network.blocked")

    job = ended(polled, polled.jobs.start_backup("web"))

    assert job.status is JobStatus.COMPLETED_WITH_WARNING
    assert job.route == "host"
    assert [setback.code for setback in job.setbacks] == ["network.blocked"]
    assert any("network.blocked" in warning for warning in job.warnings)
    assert polled.points.get(job.point_id).route == "host"
    assert machine.clean


def test_a_vm_without_the_qemu_guest_agent_is_not_asked_through_it(
    polled: Service, machine: PaperMachine
) -> None:
    polled.vms.change("web", VmChange(agent=AgentKind.WAAGENT))
    machine.fail("guest-route", "agent.silent")

    job = ended(polled, polled.jobs.start_backup("web"))

    assert job.consistency is not None
    assert job.consistency.level == "crash"
    assert "agent.silent" in job.consistency.reason


def test_cancel_while_the_agent_is_waited_for_ends_the_job(
    polled: Service, machine: PaperMachine
) -> None:
    machine.hold("guest-route")
    job = polled.jobs.start_backup("web")
    machine.reached("guest-route")

    polled.jobs.cancel(job.id)
    found = ended(polled, job)

    assert found.status is JobStatus.CANCELLED
    assert (machine.folder / "withdrawn").read_text().split() == [job.id]
    assert machine.clean
    assert not any("has not come yet" in line.text for line in found.log), "debug is not kept"


def test_a_snapshot_step_called_again_still_knows_the_route(
    polled: Service, machine: PaperMachine
) -> None:
    machine.hold("read")
    machine.fail("guest-route", "agent.silent")
    first = polled.jobs.start_backup("web")
    machine.reached("read")
    job = polled.jobs.get(first.id)
    again = from_json(backup.Snapshot, backup._taken(polled._parts, job))
    machine.let_go("read")
    ended(polled, first)

    assert again.session.route == "host"
    assert [setback.code for setback in again.setbacks] == ["agent.silent"]
    (machine.folder / "fail-guest-route").unlink()
    machine.hold("read")
    second = polled.jobs.start_backup("web")
    machine.reached("read")
    again = from_json(backup.Snapshot, backup._taken(polled._parts, polled.jobs.get(second.id)))
    machine.let_go("read")
    assert ended(polled, second).point_id
    assert again.session.route == "guest"


def test_a_policy_that_demands_the_guest_route_fails_where_there_is_none(
    open_service: Service, machine: PaperMachine
) -> None:
    view = open_service.policies.show("daily")
    rules = {
        field: getattr(view, field)
        for field in ("at", "zone", "keep_last", "keep_daily", "compression_level")
    }
    open_service.policies.add(
        PolicyView(name="guest", snapshot=SnapshotOptions(route=RoutePreference.GUEST), **rules)
    )
    open_service.vms.protect("web", "guest")

    job = ended(open_service, open_service.jobs.start_backup("web"))

    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert job.failure.code == "policy.route-impossible"
    assert machine.clean


class StuckComposition(PaperComposition):
    def guest_side(self, book, polled, proxy_of):  # type: ignore[no-untyped-def]
        self.storage = StuckStorage()
        folders = lambda vm: {a.name: a.qmp_socket for a in polled()}[vm]  # noqa: E731
        return GuestSide(Served(self.storage, PaperAgents(folders)))


def test_a_server_that_cannot_bind_its_address_starts_backs_up_and_mends_itself(
    tmp_path: Path, machine: PaperMachine
) -> None:
    settings = Settings(data_folder=tmp_path / "data", port=0, agent_address="192.0.2.1")
    composition = StuckComposition(settings)
    service = Service(settings, composition=composition)
    try:
        service.vms.add(VmAddress("web", machine.folder, agent=AgentKind.BOTH))
        problem = service.vms.show("web").agent_problem
        assert problem is not None
        assert problem.code == "storage.endpoint-bind-failed"
        job = ended(service, service.jobs.start_backup("web"))
        assert job.route == "host"
        assert [setback.code for setback in job.setbacks] == ["storage.endpoint-bind-failed"]
        with pytest.raises(AgentFailure):
            service.network.test("web", "waagent")

        composition.storage.free = True
        for chore in service.ticker._chores:
            chore()

        assert service.vms.show("web").agent_problem is None
        assert ended(service, service.jobs.start_backup("web")).route == "guest"
    finally:
        service.close()
    assert composition.storage.closed


def test_keys_that_cannot_be_used_cost_the_guest_route_only() -> None:
    side = GuestSide(None, StorageFailure("storage.endpoint-keys-unusable", "Not readable."))
    side.start()
    side.mend()

    assert side.wanted
    with pytest.raises(AgentFailure) as refused:
        side.route("web").snapshot("t", (), None, take=None, log=None)  # type: ignore[arg-type]
    assert refused.value.code == "storage.endpoint-keys-unusable"
    side.route("web").recover("t")
    side.close()


def test_a_task_is_withdrawn_while_the_server_cannot_be_reached(machine: PaperMachine) -> None:
    """Its agent would find it when the bridge is up again, and freeze the guest for no job."""
    side = GuestSide(Served(StuckStorage(), PaperAgents(lambda vm: machine.folder)))
    side.start()

    side.route("web").recover("old-job")

    assert (machine.folder / "withdrawn").read_text().split() == ["old-job"]


def test_a_killed_servers_task_is_withdrawn_before_it_is_taken_anew(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, machine: PaperMachine
) -> None:
    monkeypatch.setenv("QUIESCE_AGENT_ADDRESS", "192.0.2.1")
    server = request.getfixturevalue("server")
    assert server.api.patch("/vms/web", json={"agent": "both"}).status_code == 200
    machine.hold("guest-route")
    job_id = server.api.post("/vms/web/backup").json()["id"]
    machine.reached("guest-route")

    server.kill()
    machine.let_go("guest-route")
    server.start()

    job = server.ended(job_id)
    assert job["status"] == "Completed", job
    assert job["route"] == "guest"
    assert (machine.folder / "withdrawn").read_text().split() == [job_id]
    eventually(lambda: machine.clean, "the release")
    assert TaskName.TRANSFER in {task["name"] for task in job["tasks"]}
