"""The backup process is killed before any of its commands to QEMU. Whoever comes next finds what
is left, and after `release` the VM is exactly as before and runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bare_qemu import MIB, BareQemu, read

from quiesce.hypervisor import resuming
from quiesce.hypervisor.qmp import Monitor
from quiesce.model.failure import VmFailure
from quiesce.model.policy import SnapshotOptions

TASK, BASE = "00000000000a", "00000000000b"
Bare = Callable[..., BareQemu]

# Runs the named steps; ends by SIGKILL instead of sending its command number `fatal`.
BACKUP_PROCESS = """
import os, signal, sys
from pathlib import Path
from quiesce.hypervisor.qemu import QemuVm
from quiesce.hypervisor.qmp import Monitor
from quiesce.model.policy import SnapshotOptions
from quiesce.model.vm import VmAddress

socket, scratch, task, fatal, base, *steps = sys.argv[1:]
sent, execute = 0, Monitor.execute

def counted(self, command, *rest, **named):
    global sent
    sent += 1
    if sent == int(fatal):
        print(command, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return execute(self, command, *rest, **named)

Monitor.execute = counted
vm = QemuVm(VmAddress("bare", Path(socket)), Path(scratch))
call = {
    "prepare": lambda: vm.prepare(task, bases={"vda": [base]}, options=SnapshotOptions()),
    "take": lambda: vm.take(task),
    "open": lambda: vm.open(task),
    "release": lambda: vm.release(task, committed=False),
}
for step in steps:
    call[step]()
"""


def backup(qemu: BareQemu, base: str, fatal: int, *steps: str) -> str | None:
    """The command that the process was killed before, or None when it came to its end."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", BACKUP_PROCESS, str(qemu.socket)),
            *(str(qemu.folder / "scratch"), TASK, str(fatal), base, *steps),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": "src"},
        cwd=Path(__file__).parents[2],
    )
    if done.returncode == 0:
        return None
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.strip()


def with_a_committed_point(qemu: BareQemu) -> str:
    qemu.start()
    vm = qemu.vm()
    vm.prepare(BASE, bases={}, options=SnapshotOptions())
    vm.take(BASE)
    generation = vm.open(BASE).disks[0].generation
    vm.release(BASE, committed=True)
    return generation


def test_killed_before_any_command_of_a_snapshot_nothing_is_left(bare: Bare) -> None:
    qemu = bare({"vda": "qcow2", "vdb": "raw"})
    base = with_a_committed_point(qemu)
    before = qemu.everything()
    met: list[str] = []
    while True:
        command = backup(qemu, base, len(met) + 1, "prepare", "take", "open")
        left = qemu.vm().leftovers()
        assert left in ((), (TASK,))
        assert qemu.status == "running", f"left standing by a kill before {command}"
        qemu.write("vda", 0, MIB, 0x11)
        qemu.vm().release(TASK, committed=False)
        assert qemu.vm().leftovers() == ()
        assert qemu.everything() == before, f"killed before {command}, number {len(met) + 1}"
        assert list((qemu.folder / "scratch").iterdir()) == []
        if command is None:
            break
        met.append(command)
    assert {"blockdev-add", "nbd-server-start", "stop", "transaction", "qom-set", "cont"} < set(met)
    assert met.count("qom-set") == 2
    assert met.count("block-export-add") == 2 * 3  # the view, and two maps of what is allocated


def test_killed_before_any_command_of_the_release_a_second_release_finishes_it(bare: Bare) -> None:
    qemu = bare({"vda": "qcow2", "vdb": "raw"})
    base = with_a_committed_point(qemu)
    before = qemu.everything()
    for fatal in range(1, 100):
        assert backup(qemu, base, 10_000, "prepare", "take", "open") is None
        command = backup(qemu, base, fatal, "release")
        qemu.write("vda", 0, MIB, 0x11)
        qemu.vm().release(TASK, committed=False)
        assert qemu.everything() == before, f"killed before {command}, number {fatal}"
        if command is None:
            break
    assert fatal > 15


def test_a_lost_scratch_folder_loses_no_clean_up(bare: Bare) -> None:
    qemu = bare({"vda": "qcow2", "vdb": "raw"}).start()
    before = qemu.everything()
    assert backup(qemu, "", 10_000, "prepare", "take", "open") is None
    subprocess.run(["rm", "-r", str(qemu.folder / "scratch")], check=True)
    assert qemu.vm().leftovers() == (TASK,)
    qemu.vm().release(TASK, committed=False)
    assert qemu.everything() == before


def test_a_vm_that_somebody_else_paused_is_not_resumed(bare: Bare) -> None:
    qemu = bare().start()
    assert backup(qemu, "", 10_000, "prepare", "take", "open") is None
    qemu.qmp("stop")
    qemu.vm().release(TASK, committed=False)
    assert qemu.status == "paused"


@pytest.mark.parametrize("refused", ["transaction", "qom-set"])
def test_the_guest_goes_on_when_qemu_refuses_the_instant(
    bare: Bare, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = bare({"vda": "qcow2", "vdb": "raw"}).start()
    before = qemu.everything()
    vm = qemu.vm()
    vm.prepare(TASK, bases={}, options=SnapshotOptions())
    execute = Monitor.execute

    def spoiled(
        monitor: Monitor, command: str, arguments: object = None, **named: object
    ) -> object:
        if command == refused:
            arguments = {"path": "/nowhere", "property": "drive", "value": "x", "actions": []}
        return execute(monitor, command, arguments, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "execute", spoiled)
        with pytest.raises(Exception, match=r"snapshot\.take-failed"):
            vm.take(TASK)
    assert qemu.status == "running"
    vm.release(TASK, committed=False)
    assert qemu.everything() == before


def test_a_point_can_be_read_by_a_later_process(bare: Bare) -> None:
    qemu = bare().start()
    qemu.write("vda", 0, MIB, 0x11)
    assert backup(qemu, "", 10_000, "prepare", "take") is None
    qemu.write("vda", 0, MIB, 0x22)
    session = qemu.vm().open(TASK)
    assert set(read(session.disks[0], 0, MIB)) == {0x11}


def test_a_vm_whose_qemu_was_too_busy_to_resume_it_is_resumed_later(
    bare: Bare, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = bare({"vda": "qcow2"}).start()
    refused: list[str] = []
    execute = Monitor.execute

    def busy(self: Monitor, command: str, *rest: Any, **named: Any) -> Any:
        if command == "cont" and len(refused) < 3:
            refused.append(command)
            raise VmFailure("vm.unreachable", "QEMU did not answer cont within 30 s.")
        return execute(self, command, *rest, **named)

    monkeypatch.setattr(Monitor, "execute", busy)
    monkeypatch.setattr(resuming, "RESUME_SECONDS", 0.1)
    vm = qemu.vm()
    vm.prepare(TASK, bases={}, options=SnapshotOptions())
    with pytest.raises(VmFailure):
        vm.take(TASK)
    deadline = time.monotonic() + 60
    while (status := qemu.status) != "running" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert status == "running"
    assert len(refused) == 3, "the last refusal was the background's"
    vm.release(TASK, committed=False)
    assert qemu.status == "running"
