"""A VM of a real QEMU whose guest does not answer: what is seen from outside names the cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bare_qemu import BareQemu

from quiesce.diagnosis.engine import diagnose
from quiesce.model.diagnosis import Verdict
from quiesce.model.failure import FailureReport
from quiesce.model.snapshot import Route
from quiesce.service.looks import Seen
from quiesce.service.service import Service
from quiesce.service.settings import Settings

Bare = Callable[..., BareQemu]
FAILURE = FailureReport("agent.not-running", "The guest agent does not answer.")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(Settings(data_folder=tmp_path / "data", port=0))
    yield service
    service.close()


def port(socket: Path) -> tuple[str, ...]:
    return (
        "-device", "virtio-serial",
        "-chardev", f"socket,id=qga0,path={socket},server=on,wait=off",
        "-device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0",
    )  # fmt: skip


def looked(service: Service, qemu: BareQemu) -> Seen:
    address = replace(qemu.address, qga_socket=qemu.folder / "qga.sock")
    service.vms.add(address)
    return service.looks.facts("bare", failure=FAILURE, route=Route.HOST)


def values(seen: Seen) -> dict[str, object]:
    return {fact.name: fact.value for fact in seen.facts}


def test_a_guest_that_has_not_opened_the_port_runs_no_agent(bare: Bare, service: Service) -> None:
    qemu = bare()
    qemu.extra = port(qemu.folder / "qga.sock")
    seen = looked(service, qemu.start())
    facts = values(seen)
    assert (facts["vm.power"], facts["qga.port"], facts["vm.device"]) == (
        "running",
        "closed",
        "present",
    )
    assert (facts["qga.answers"], facts["qga.problem"]) == (False, "agent.not-running")
    assert facts["guest.examined"] is False
    diagnosis = diagnose(FAILURE, seen.facts)
    assert (diagnosis.verdict, diagnosis.code) == (Verdict.PROVEN, "agent.not-running")


def test_a_vm_without_the_port_has_no_channel(bare: Bare, service: Service) -> None:
    seen = looked(service, bare().start())
    assert values(seen)["qga.port"] == "missing"
    assert values(seen)["vm.device"] == "missing"
    diagnosis = diagnose(FAILURE, seen.facts)
    assert (diagnosis.verdict, diagnosis.code) == (Verdict.PROVEN, "agent.channel-missing")


def test_a_vm_whose_process_has_ended_is_off(bare: Bare, service: Service) -> None:
    qemu = bare().start()
    qemu.kill()
    seen = looked(service, qemu)
    assert values(seen)["vm.power"] == "off"
    assert "vm.cpu-percent" not in values(seen)
    assert "internal.defect" not in [problem.code for problem in seen.problems]
