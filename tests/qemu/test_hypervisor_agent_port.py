"""A port that nobody in the guest has opened is told at once, by a QEMU without a guest."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from bare_qemu import BareQemu

from quiesce.agent import link
from quiesce.agent.qga import QemuGuestAgent
from quiesce.hypervisor.qemu import QemuVm
from quiesce.hypervisor.qmp import Monitor
from quiesce.model.failure import AgentFailure

PORT = ("-device", "virtio-serial", "-device", "virtserialport,chardev=qga0,name=org.qemu.agent")
SERIAL = ("-device", "isa-serial,chardev=qga0")


def vm_of(qemu: BareQemu, socket: Path | None) -> QemuVm:
    return QemuVm(replace(qemu.address, qga_socket=socket), qemu.folder / "scratch")


def chardev(path: str) -> tuple[str, str]:
    return ("-chardev", f"socket,id=qga0,path={path.replace(',', ',,')},server=on,wait=off")


@pytest.mark.parametrize("name", ["qga.sock", "a, b.sock"])
@pytest.mark.parametrize("relative", [False, True])
def test_a_port_that_nobody_has_opened_is_closed(
    bare: Callable[..., BareQemu], tmp_path: Path, name: str, relative: bool
) -> None:
    path = name if relative else str(tmp_path / name)
    qemu = bare(extra=(*chardev(path), *PORT)).start()
    assert vm_of(qemu, tmp_path / name).agent_port_open() is False


def test_a_port_that_the_device_itself_opens_is_open(
    bare: Callable[..., BareQemu], tmp_path: Path
) -> None:
    qemu = bare(extra=(*chardev(str(tmp_path / "qga.sock")), *SERIAL)).start()
    assert vm_of(qemu, tmp_path / "qga.sock").agent_port_open() is True


def test_nothing_is_known_of_a_socket_that_is_not_qemus(
    bare: Callable[..., BareQemu], tmp_path: Path
) -> None:
    qemu = bare(extra=(*chardev(str(tmp_path / "qga.sock")), *PORT)).start()
    assert vm_of(qemu, tmp_path / "other.sock").agent_port_open() is None
    assert vm_of(qemu, None).agent_port_open() is None


def test_nothing_is_known_while_another_program_holds_the_monitor(
    bare: Callable[..., BareQemu], tmp_path: Path
) -> None:
    qemu = bare(extra=(*chardev(str(tmp_path / "qga.sock")), *PORT)).start()
    began = time.monotonic()
    with Monitor(qemu.socket):
        assert vm_of(qemu, tmp_path / "qga.sock").agent_port_open() is None
    assert time.monotonic() - began < 15


def test_nothing_is_known_of_a_vm_that_is_off(
    bare: Callable[..., BareQemu], tmp_path: Path
) -> None:
    assert vm_of(bare(), tmp_path / "qga.sock").agent_port_open() is None


def test_an_agent_that_does_not_run_is_told_before_its_time_is_up(
    bare: Callable[..., BareQemu], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "SYNC_SECONDS", 60.0)
    qemu = bare(extra=(*chardev(str(tmp_path / "qga.sock")), *PORT)).start()
    vm = vm_of(qemu, tmp_path / "qga.sock")
    agent = QemuGuestAgent(tmp_path / "qga.sock", frontend_open=vm.agent_port_open)
    began = time.monotonic()
    with pytest.raises(AgentFailure) as caught:
        agent.sync(seconds=60)
    seconds = time.monotonic() - began
    agent.disconnect()
    assert caught.value.code == "agent.not-running"
    assert "the guest has not opened the port" in [fact.fact for fact in caught.value.evidence]
    assert seconds < 30
