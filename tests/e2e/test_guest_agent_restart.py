"""A restart of the VM's agent while the guest is frozen: systemd kills the agent's whole control
group, and neither session nor watchdog may be in it."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from quiesce.agent.extension import QgaGuest
from quiesce.lab.guest import LabGuest
from quiesce.lab.state import Layout, ready_guest
from quiesce.model.failure import Failure

pytestmark = [pytest.mark.guest, pytest.mark.long]

HOLD_SECONDS = 8.0
FOLDER = "/run/quiesce/restart"
MOUNTS = ("/", "/mnt/xfs", "/mnt/btrfs")


def test_a_restart_of_the_agent_during_the_freeze_neither_thaws_nor_strands_the_guest() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="qr-") as folder,
        ready_guest(Path(folder), Layout.THREE_DISKS) as vm,
    ):
        QgaGuest(vm.qga_socket).install()
        agent_before = _agent_pid(vm)
        vm.run(
            "python3 /var/lib/quiesce/quiesce-extension-*.zip session --task restart "
            f"--hold {HOLD_SECONDS}"
        )
        _await(vm, "ready")
        for process in ("session", "watchdog"):
            group = vm.run(f"cat /proc/$(cat {FOLDER}/{process})/cgroup")
            assert "qemu-guest-agent" not in group, group
        vm.run(
            "systemd-run --on-active=2 --timer-property=AccuracySec=100ms "
            "systemctl restart qemu-guest-agent 2>&1"
        )
        vm.run(f"echo freeze > {FOLDER}/control")

        state = _await(vm, "thawed")
        assert state["failure"] is None
        assert state["freeze"]["thawed_by"] == "watchdog"
        times = {m["mount"]: (m["freeze_ms"], m["frozen_ms"]) for m in state["freeze"]["mounts"]}
        print("freeze ms, frozen ms:", times)
        assert set(times) == set(MOUNTS)
        for _, frozen_ms in times.values():
            assert HOLD_SECONDS * 1000 - 2000 < frozen_ms < HOLD_SECONDS * 1000 + 2000
        _until(lambda: _agent_pid(vm) != agent_before, "the agent was not restarted")
        assert _restarted_at(vm) < _deadline(vm), "the restart did not fall into the freeze"
        for mount in MOUNTS:
            vm.run(f"timeout 5 touch {mount}/.probe")
        vm.run(f"echo finish > {FOLDER}/control")
        _await(vm, "done")


def _agent_pid(vm: LabGuest) -> str:
    return vm.run("systemctl show -p MainPID --value qemu-guest-agent").strip()


def _restarted_at(vm: LabGuest) -> float:
    """When the agent's new process was up, in seconds of the guest's CLOCK_MONOTONIC."""
    shown = vm.run("systemctl show -p ExecMainStartTimestampMonotonic --value qemu-guest-agent")
    return int(shown) / 1e6


def _deadline(vm: LabGuest) -> float:
    """When the watchdog thawed, on the same clock: the ledger's header holds it at byte 8."""
    code = (
        f"import struct; print(struct.unpack('=d', open('{FOLDER}/ledger','rb').read()[8:16])[0])"
    )
    return float(vm.run(["python3", "-c", code]))


def _await(vm: LabGuest, name: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def there() -> bool:
        seen.update(json.loads(vm.run(f"cat {FOLDER}/state.json", seconds=5)))
        return bool(seen["state"] == name)

    _until(there, f"the session did not come to {name}")
    return seen


def _until(condition: Any, otherwise: str) -> None:
    """The agent may be away for a while: that is what is tried here."""
    until = time.monotonic() + 60
    while True:
        try:
            if condition():
                return
        except Failure:
            pass
        assert time.monotonic() < until, otherwise
        time.sleep(0.2)
