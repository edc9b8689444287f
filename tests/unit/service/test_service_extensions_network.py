"""Extensions and network tests, through each agent that a VM has."""

from __future__ import annotations

from pathlib import Path

import pytest
from paper_machine import PaperMachine
from paper_vm import PaperComposition, PaperGuest

from quiesce.diagnosis.allowlist import AllowlistFormat, allowlist
from quiesce.model.extension import ExtensionState
from quiesce.model.failure import AgentFailure, Failure, InputFailure
from quiesce.model.network import Hop, Proxy
from quiesce.model.vm import AgentKind, VmAddress
from quiesce.service.network import _failure
from quiesce.service.service import Service
from quiesce.service.settings import Settings
from quiesce.service.views import VmChange


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """The QEMU guest agent does not answer."""

    def silent(*_: object) -> ExtensionState:
        raise AgentFailure("agent.not-running", "No guest agent runs in the VM.")

    for call in ("status", "probe", "uninstall"):
        monkeypatch.setattr(PaperGuest, call, silent)


def test_each_agent_shows_the_extension_that_it_has_installed(
    polled: Service, machine: PaperMachine
) -> None:
    (machine.folder / "agent-condition").write_text("ready")
    qga, waagent = polled.vms.extensions("web")
    assert (qga.channel, qga.installed, qga.version) == ("qga", True, "1")
    assert (waagent.channel, waagent.installed, waagent.offered_version) == (
        "waagent",
        False,
        "1.0.7",
    )

    polled.vms.reinstall_extension("web")

    qga, waagent = polled.vms.extensions("web")
    assert (waagent.installed, waagent.version, waagent.status) == (True, "1.0.7", "Ready")
    assert not waagent.update_pending
    assert (machine.folder / "extension").exists()
    polled.vms.uninstall_extension("web", "waagent")
    assert not polled.vms.extensions("web")[1].installed
    assert (machine.folder / "extension").exists(), "the other agent's package is not touched"


@pytest.mark.usefixtures("deaf")
def test_an_agent_that_does_not_answer_is_shown_beside_the_one_that_does(
    polled: Service, machine: PaperMachine
) -> None:
    qga, waagent = polled.vms.extensions("web")
    assert qga.problem is not None
    assert (qga.problem.code, qga.installed) == ("agent.not-running", False)
    assert waagent.problem is not None
    assert waagent.problem.code == "agent.never-seen"
    for condition, code in (("stale", "agent.stale"), ("ready", None)):
        (machine.folder / "agent-condition").write_text(condition)
        waagent = polled.vms.extensions("web")[1]
        assert (waagent.problem.code if waagent.problem else None) == code


def test_a_channel_that_the_vm_does_not_have_is_refused(open_service: Service) -> None:
    for call in (
        open_service.vms.uninstall_extension,
        open_service.vms.reinstall_extension,
        open_service.network.test,
    ):
        with pytest.raises(InputFailure) as refused:
            call("web", "waagent")
        assert refused.value.code == "input.channel-invalid"


def test_the_extension_is_not_touched_during_a_backup(
    polled: Service, machine: PaperMachine
) -> None:
    machine.hold("prepare")
    job = polled.jobs.start_backup("web")
    machine.reached("prepare")
    for call in (
        polled.vms.reinstall_extension,
        polled.vms.uninstall_extension,
        polled.network.test,
    ):
        with pytest.raises(Failure) as refused:
            call("web")
        assert refused.value.code == "policy.in-progress"
        assert job.id in refused.value.remedy
    machine.let_go("prepare")


def test_the_network_is_tested_through_the_agent_that_needs_none_first(polled: Service) -> None:
    polled.vms.change("web", VmChange(proxy=Proxy(https="http://proxy:3128")))

    report = polled.network.test("web")

    assert (report.channel, report.endpoint, report.failure) == (
        "qga",
        "https://192.0.2.1:443",
        None,
    )
    assert [hop.detail for hop in report.hops] == [
        "connected to https://192.0.2.1:443 by http://proxy:3128"
    ]


@pytest.mark.usefixtures("deaf")
def test_the_other_agent_takes_over_and_the_report_says_why(polled: Service) -> None:
    report = polled.network.test("web")

    assert report.channel == "waagent"
    assert [setback.code for setback in report.setbacks] == ["agent.not-running"]
    assert report.failure is not None
    assert report.failure.code == "network.blocked"
    assert "tcp" in report.failure.message
    assert report.failure.evidence[0].raw == "ETIMEDOUT"
    with pytest.raises(AgentFailure):
        polled.network.test("web", "qga")


def test_a_code_that_only_the_guest_knows_is_not_passed_on() -> None:
    report = _failure("web", (Hop("tcp", False, "broken", code="network.made-up"),))
    assert report is not None
    assert report.code == "network.probe-failed"


def test_without_an_endpoint_the_network_test_says_what_to_set(service: Service) -> None:
    with pytest.raises(Failure) as refused:
        service.network.test("web")
    assert refused.value.code == "agent.endpoint-off"


@pytest.fixture
def elsewhere(tmp_path: Path, machine: PaperMachine) -> Service:
    settings = Settings(
        data_folder=tmp_path / "data",
        port=0,
        agent_address="168.63.129.16",
        storage_host="storage.example",
        storage_port=8443,
        proxy_https="http://u:SECRET@squid.example:3128",
        no_proxy="internal.example",
    )
    service = Service(settings, composition=PaperComposition(settings))
    service.vms.add(VmAddress("web", machine.folder, agent=AgentKind.WAAGENT))
    return service


def test_a_guest_needs_the_host_address_and_the_proxy_or_else_the_storage_endpoint(
    elsewhere: Service,
) -> None:
    def places() -> list[tuple[str, int]]:
        return [(need.address, need.port) for need in elsewhere.network.needs("web")]

    host = [("168.63.129.16", 80), ("168.63.129.16", 32526)]
    by_name = [*host, ("", 53), ("", 53)]
    try:
        assert places() == [*by_name, ("squid.example", 3128)]
        protocols = [need.protocol for need in elsewhere.network.needs("web")]
        assert protocols == ["tcp", "tcp", "udp", "tcp", "tcp"]
        text = allowlist(elsewhere.network.needs("web"), AllowlistFormat.TEXT)
        assert "squid.example:3128" in text
        assert "udp  your DNS server:53" in text
        assert "SECRET" not in text

        elsewhere.vms.change("web", VmChange(proxy=Proxy()))
        assert places() == [*by_name, ("storage.example", 8443)]

        own = Proxy(https="http://10.0.0.1:8080", no_proxy=".example")
        elsewhere.vms.change("web", VmChange(proxy=own))
        assert places() == [*by_name, ("storage.example", 8443)]

        elsewhere.vms.change("web", VmChange(proxy=Proxy(https="http://10.0.0.1:8080")))
        assert places() == [*host, ("10.0.0.1", 8080)]
    finally:
        elsewhere.close()


def test_a_vm_reached_without_a_network_needs_none(service: Service) -> None:
    assert service.network.needs("web") == ()
