"""Adding and changing VMs: which agent they have, where their agent comes from, by which proxy."""

from __future__ import annotations

from pathlib import Path

import pytest
from paper_machine import PaperMachine, ended
from paper_vm import PaperComposition

from quiesce.model.failure import Failure, InputFailure, PolicyFailure
from quiesce.model.network import Proxy
from quiesce.model.vm import AgentKind, VmAddress
from quiesce.service.service import Service
from quiesce.service.settings import Settings
from quiesce.service.views import VmChange


def test_a_vm_with_the_azure_linux_agent_shows_it(open_service: Service, tmp_path: Path) -> None:
    folder = PaperMachine(tmp_path / "mail").folder
    view = open_service.vms.add(
        VmAddress("mail", folder, agent=AgentKind.WAAGENT, guest_address="192.0.2.10")
    )

    assert (view.agent, view.guest_address) == ("waagent", "192.0.2.10")
    assert view.agent_state is not None
    assert view.agent_state.condition == "never seen"
    (folder / "agent-condition").write_text("ready")
    shown = {vm.name: vm.agent_state for vm in open_service.vms.all()}
    assert shown["web"] is None
    assert shown["mail"] is not None
    assert shown["mail"].condition == "ready"


@pytest.mark.parametrize("agent", [AgentKind.WAAGENT, AgentKind.BOTH])
def test_an_agent_that_would_have_nowhere_to_go_is_refused_with_the_setting_to_make(
    service: Service, machine: PaperMachine, agent: AgentKind
) -> None:
    refusals = []
    for attempt in (
        lambda: service.vms.add(VmAddress("new", Path("/new"), agent=agent)),
        lambda: service.vms.change("web", VmChange(agent=agent)),
    ):
        with pytest.raises(PolicyFailure) as refused:
            attempt()
        refusals.append(refused.value)

    assert [refusal.code for refusal in refusals] == ["agent.endpoint-off"] * 2
    assert 'agent_address = "168.63.129.16"' in refusals[0].remedy
    assert [(vm.name, vm.agent) for vm in service.vms.all()] == [("web", "qga")]


def test_only_what_is_named_changes(open_service: Service) -> None:
    vms = open_service.vms
    vms.change("web", VmChange(agent=AgentKind.BOTH, guest_address="192.0.2.9"))
    vms.change("web", VmChange(qga_socket=Path("/run/qga.sock")))
    vms.change("web", VmChange(proxy=Proxy(https="http://u:pass@proxy:3128")))

    view = vms.change("web", VmChange())
    assert (view.agent, view.guest_address, view.qga_socket) == (
        "both",
        "192.0.2.9",
        Path("/run/qga.sock"),
    )
    assert view.proxy == Proxy(https="http://u:***@proxy:3128")
    assert vms.address("web").proxy == Proxy(https="http://u:pass@proxy:3128")
    view = vms.change("web", VmChange(guest_address="", server_proxy=True))
    assert (view.guest_address, view.proxy, view.agent) == ("", None, "both")


def test_no_proxy_at_all_is_a_setting_of_its_own(tmp_path: Path) -> None:
    settings = Settings(data_folder=tmp_path / "data", proxy_https="http://server:1")
    service = Service(settings, composition=PaperComposition(settings))
    try:
        service.vms.add(VmAddress("web", PaperMachine(tmp_path / "vm").folder))
        proxy_of = service.vms._table.proxy_of
        assert proxy_of("web").https == "http://server:1"

        service.vms.change("web", VmChange(proxy=Proxy()))
        assert not proxy_of("web")

        service.vms.change("web", VmChange(server_proxy=True))
        assert proxy_of("web").https == "http://server:1"
    finally:
        service.close()


def test_two_vms_cannot_come_from_one_address(open_service: Service, tmp_path: Path) -> None:
    vms = open_service.vms
    vms.change("web", VmChange(guest_address="fd00::0007"))

    with pytest.raises(PolicyFailure) as refused:
        vms.add(VmAddress("new", tmp_path / "new", guest_address="fd00::7"))

    assert refused.value.code == "vm.already-known"
    assert "web" in refused.value.message
    vms.change("web", VmChange(guest_address="fd00::7"))  # its own is no other's


@pytest.mark.parametrize("address", ["300.1.1.1", "host.example", "1.2.3.4; rm", " 1.2.3.4"])
def test_what_is_no_address_is_refused(service: Service, address: str) -> None:
    with pytest.raises(InputFailure) as refused:
        service.vms.change("web", VmChange(guest_address=address))
    assert refused.value.code == "input.address-invalid"


def test_a_vm_is_not_changed_under_a_backups_feet(service: Service, machine: PaperMachine) -> None:
    machine.hold("prepare")
    job = service.jobs.start_backup("web")
    machine.reached("prepare")

    with pytest.raises(Failure) as refused:
        service.vms.change("web", VmChange(guest_address="192.0.2.9"))

    assert refused.value.code == "policy.in-progress"
    assert job.id in refused.value.remedy
    machine.let_go("prepare")
    ended(service, job)
    assert service.vms.show("web").guest_address == ""


def test_a_password_of_a_proxy_is_in_no_view_and_no_log(
    open_service: Service, capfd: pytest.CaptureFixture[str]
) -> None:
    proxy = Proxy(http="http://u:SECRET@proxy:1", https="http://u:SECRET@proxy:1")
    view = open_service.vms.change("web", VmChange(agent=AgentKind.BOTH, proxy=proxy))
    job = ended(open_service, open_service.jobs.start_backup("web"))
    report = open_service.network.test("web", "waagent")

    said = repr([view, open_service.vms.all(), open_service.jobs.get(job.id), report])
    assert "SECRET" not in said
    assert "SECRET" not in "".join(capfd.readouterr())
