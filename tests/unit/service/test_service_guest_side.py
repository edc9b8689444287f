"""The guest side with its real parts: what it binds, what it tells strangers, what it costs."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from paper_machine import PaperMachine
from ports import free_port

from quiesce.hypervisor.neighbours import Sighting
from quiesce.model.network import Proxy
from quiesce.model.vm import AgentKind, NetworkCard, VmAddress
from quiesce.service.agents import AgentRecords
from quiesce.service.composition import Composition, Polled
from quiesce.service.database import Database
from quiesce.service.service import Service
from quiesce.service.settings import Settings
from quiesce.service.views import VmChange


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_folder=tmp_path / "data",
        port=0,
        agent_address="127.0.0.1",
        agent_port=free_port(),
        host_plugin_port=free_port(),
        storage_port=free_port(),
    )


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    service = Service(settings)
    yield service
    service.close()


def test_strangers_learn_nothing_at_any_of_the_three_ports(
    service: Service, settings: Settings
) -> None:
    for port in (settings.agent_port, settings.host_plugin_port):
        answer = httpx.get(f"http://127.0.0.1:{port}/machine/?comp=goalstate", timeout=5)
        assert answer.status_code == 404
    authority = service.network._guest_side.storage().endpoint
    trust = ssl.create_default_context(cadata=authority.ca_pem)
    answer = httpx.get(f"{authority.url}/x/y", verify=trust, timeout=5)
    assert answer.status_code in (400, 403, 404)
    assert authority.url == f"https://127.0.0.1:{settings.storage_port}"


def test_its_keys_are_closed_to_others(service: Service, settings: Settings) -> None:
    folder = settings.storage_folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert settings.database.stat().st_mode & 0o777 == 0o600
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.*")} == {0o600}


def test_a_taken_port_does_not_keep_the_server_from_starting_and_is_taken_up_later(
    settings: Settings, tmp_path: Path
) -> None:
    with closing(socket.create_server(("127.0.0.1", settings.agent_port))):
        service = Service(settings)
        try:
            service.vms.add(
                VmAddress("web", PaperMachine(tmp_path / "vm").folder, agent=AgentKind.WAAGENT)
            )
            (view,) = service.vms.all()
            assert view.agent_problem is not None
            assert view.agent_problem.code == "agent.endpoint-bind-failed"
            assert str(settings.agent_port) in view.agent_problem.message
            service.network._guest_side.mend()
            assert service.vms.all()[0].agent_problem is not None
        except BaseException:
            service.close()
            raise
    try:
        service.network._guest_side.mend()
        assert service.vms.all()[0].agent_problem is None
        url = f"http://127.0.0.1:{settings.agent_port}/?comp=versions"
        assert httpx.get(url, timeout=5).status_code == 404
    finally:
        service.close()


def test_a_closed_service_lets_go_of_its_ports(settings: Settings) -> None:
    Service(settings).close()
    for port in (settings.agent_port, settings.host_plugin_port, settings.storage_port):
        socket.create_server(("127.0.0.1", port)).close()


def test_a_vm_that_is_reached_otherwise_is_not_taken_for_one_whose_address_it_has() -> None:
    """Nor is it served as itself."""
    listed = (
        VmAddress("web", Path("/web"), agent=AgentKind.WAAGENT, guest_address="192.0.2.5"),
        VmAddress("db", Path("/db"), guest_address="192.0.2.6"),
    )
    cards = {"web": (), "db": (NetworkCard("52:54:00:00:00:02", "lo"),)}
    seen: dict[str, Sighting] = {}
    polled = Polled(lambda: listed, lambda vm: cards[vm.name], sight=lambda at: seen.get(str(at)))
    assert polled.vm_at("192.0.2.5", 1) == "web"

    for address in ("192.0.2.5", "192.0.2.6", "192.0.2.7"):
        seen[address] = Sighting("52:54:00:00:00:02", socket.if_nametoindex("lo"))
        assert polled.vm_at(address, 1) is None


def test_the_table_is_looked_at_when_a_vm_is_added_changed_or_removed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(Polled, "look_now", lambda self: looks.append(1))
    with closing(Service(settings)) as service:
        folder = PaperMachine(tmp_path / "vm").folder
        service.vms.add(VmAddress("web", folder, agent=AgentKind.WAAGENT))
        assert len(looks) == 1
        service.vms.change("web", VmChange(guest_address="192.0.2.7"))
        assert len(looks) == 2
        service.vms.remove("web")
        assert len(looks) == 3


def test_the_agents_of_thousands_of_vms_are_shown_from_memory(
    settings: Settings, tmp_path: Path
) -> None:
    database = Database(tmp_path / "db")
    database.migrate()
    side = Composition(settings).guest_side(AgentRecords(database), tuple, lambda vm: Proxy())
    names = [f"vm{number}" for number in range(2000)]
    assert {state.condition for state in map(side.state, names) if state} == {"never seen"}
    database.close()
    (tmp_path / "db").unlink()

    assert {state.condition for state in map(side.state, names) if state} == {"never seen"}
