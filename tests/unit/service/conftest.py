from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from paper_healing import BOTH, CarryOut, planned
from paper_machine import FakeClock, PaperMachine, RunningServer, eventually
from paper_vm import PaperComposition, PaperHypervisor

from quiesce.model.diagnosis import Mend, MendAction
from quiesce.model.snapshot import Route
from quiesce.model.vm import AgentKind, VmAddress
from quiesce.service.mending import Mending
from quiesce.service.patience import Patience
from quiesce.service.service import Service
from quiesce.service.settings import Settings
from quiesce.service.views import VmChange

HASTE = Patience(sleep=lambda seconds: None)
"""Waits are shown and not waited."""


@pytest.fixture
def machine(tmp_path: Path) -> PaperMachine:
    return PaperMachine(tmp_path / "vm")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def service(tmp_path: Path, machine: PaperMachine, clock: FakeClock) -> Iterator[Service]:
    """A real service in this process, with one VM, `web`; nothing runs by itself."""
    settings = Settings(data_folder=tmp_path / "data", port=0)
    service = Service(settings, composition=PaperComposition(settings), clock=clock, patience=HASTE)
    service.vms.add(VmAddress("web", machine.folder))
    yield service
    for stage in machine.folder.glob("hold-*"):
        stage.unlink()
    eventually(lambda: not any(job.status == "In progress" for job in service.jobs.newest()), "end")
    service.close()


@pytest.fixture
def open_service(tmp_path: Path, machine: PaperMachine, clock: FakeClock) -> Iterator[Service]:
    """As `service`, at an address where guests find it."""
    settings = Settings(data_folder=tmp_path / "data", port=0, agent_address="192.0.2.1")
    service = Service(settings, composition=PaperComposition(settings), clock=clock, patience=HASTE)
    service.vms.add(VmAddress("web", machine.folder))
    yield service
    for stage in machine.folder.glob("hold-*"):
        stage.unlink()
    eventually(lambda: not any(job.status == "In progress" for job in service.jobs.newest()), "end")
    service.close()


@pytest.fixture
def polled(open_service: Service) -> Service:
    """A service whose VM `web` has both agents."""
    open_service.vms.change("web", VmChange(agent=AgentKind.BOTH))
    return open_service


@pytest.fixture
def silent(polled: Service, machine: PaperMachine) -> Service:
    """Of both agents of `web`, the polling one has been heard of, and is silent in a backup."""
    (machine.folder / "agent-condition").write_text("ready")
    machine.fail("guest-route", "agent.silent")
    return polled


@pytest.fixture
def server(tmp_path: Path, machine: PaperMachine) -> Iterator[RunningServer]:
    server = RunningServer(tmp_path / "data")
    body = {"name": "web", "qmp_socket": str(machine.folder)}
    assert server.api.post("/vms", json=body).status_code == 201
    yield server
    for stage in machine.folder.glob("hold-*"):
        stage.unlink()
    if server.process.poll() is None:
        server.kill()
    for task in PaperHypervisor(machine.folder).leftovers():
        PaperHypervisor(machine.folder).release(task, committed=False)


@pytest.fixture
def mend(open_service: Service, machine: PaperMachine) -> CarryOut:
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
