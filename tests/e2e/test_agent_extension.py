"""The backup extension on a real guest, through its real agent."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from guest_scripts import forget_scripts, put_scripts

from quiesce.agent.extension import QgaGuest
from quiesce.agent.package import ExtensionPackage, extension_package
from quiesce.agent.qga import QemuGuestAgent
from quiesce.lab.guest import LabGuest
from quiesce.lab.state import Layout, ready_guest
from quiesce.model.failure import AgentFailure, FreezeFailure, ScriptFailure
from quiesce.model.policy import SnapshotOptions

pytestmark = pytest.mark.guest

ALL_MOUNTS = {"/", "/mnt/xfs", "/mnt/btrfs"}


@pytest.fixture(scope="module")
def shared_vm() -> Iterator[LabGuest]:
    """One guest with ext4, XFS and btrfs for all tests that leave it as it was."""
    with (
        tempfile.TemporaryDirectory(prefix="qe-") as folder,
        ready_guest(Path(folder), Layout.THREE_DISKS) as vm,
    ):
        yield vm


@pytest.fixture
def vm(shared_vm: LabGuest) -> LabGuest:
    return shared_vm


@pytest.fixture
def extension(vm: LabGuest) -> QgaGuest:
    return QgaGuest(vm.qga_socket)


@pytest.fixture
def task() -> str:
    return str(uuid.uuid4())


def older_package() -> ExtensionPackage:
    """The same program under the name of an older build."""
    current = extension_package()
    return replace(current, version="0.0.1")


def files_of_ours(vm: LabGuest) -> str:
    folders = "/var/lib/quiesce /run/quiesce /var/log/quiesce"
    return vm.run(f"find {folders} -mindepth 1 2>/dev/null | sort; true")


def is_writable(vm: LabGuest, mount: str) -> bool:
    return vm.run(f"timeout 5 touch {mount}/.probe && echo yes; true").strip() == "yes"


@pytest.fixture
def scripts(vm: LabGuest) -> Iterator[None]:
    yield
    forget_scripts(vm)
    vm.run("rm -f /run/order")


def test_the_agent_tells_what_it_is(vm: LabGuest) -> None:
    agent = QemuGuestAgent(vm.qga_socket)
    assert agent.info().version.startswith("7.2")
    assert "guest-exec" in agent.info().commands
    assert agent.operating_system().id == "debian"
    assert {system.mount for system in agent.file_systems()} >= ALL_MOUNTS
    agent.disconnect()


def test_a_file_of_several_chunks_arrives_unchanged(vm: LabGuest) -> None:
    agent = QemuGuestAgent(vm.qga_socket)
    content = bytes(range(256)) * 10_000
    agent.write_file("/tmp/chunks", content)
    assert agent.file_size("/tmp/chunks") == len(content)
    assert agent.read_file("/tmp/chunks") == content
    agent.disconnect()
    vm.run("rm /tmp/chunks")


def test_the_extension_is_installed_when_missing_and_answers(
    vm: LabGuest, extension: QgaGuest
) -> None:
    extension.uninstall()
    assert not extension.status().installed
    assert extension.install()
    state = extension.status()
    assert state.installed
    assert not state.update_pending
    assert state.python.startswith("3.")
    assert "Debian" in state.operating_system
    assert vm.run("stat -c '%a %U' /var/lib/quiesce").strip() == "700 root"
    assert not extension.install()


def test_an_older_version_is_replaced_and_removed(vm: LabGuest, extension: QgaGuest) -> None:
    old = QgaGuest(vm.qga_socket, package=older_package())
    old.install()
    assert extension.status().update_pending
    assert extension.install()
    packages = vm.run("ls -A /var/lib/quiesce").split()
    assert packages == [extension_package().file_name]


def test_a_file_that_was_cut_off_is_written_anew(vm: LabGuest, extension: QgaGuest) -> None:
    extension.install()
    path = f"/var/lib/quiesce/{extension_package().file_name}"
    vm.run(f"truncate -s 100 '{path}'")
    assert extension.install()
    assert extension.status().installed


def test_a_file_of_the_right_size_that_is_damaged_is_written_anew(
    vm: LabGuest, extension: QgaGuest
) -> None:
    extension.install()
    path = f"/var/lib/quiesce/{extension_package().file_name}"
    size = len(extension_package().content)
    vm.run(f"head -c {size} /dev/zero > '{path}'")
    assert {mount.mount for mount in extension.preflight()} >= ALL_MOUNTS


def test_every_file_system_is_frozen_and_thawed_with_its_milliseconds(
    vm: LabGuest, extension: QgaGuest, task: str
) -> None:
    readiness = extension.prepare(task, SnapshotOptions())
    assert {mount.mount for mount in readiness.mounts if not mount.skipped} == ALL_MOUNTS
    assert is_writable_through(extension, "/mnt/xfs")
    extension.freeze(task)
    try:
        assert not is_writable_through(extension, "/mnt/xfs")
    finally:
        report = extension.thaw(task)
    finish = extension.finish(task)
    assert report.held
    frozen = {mount.mount: mount for mount in report.mounts if not mount.skipped}
    assert set(frozen) == ALL_MOUNTS
    assert all(mount.freeze_ms > 0 for mount in frozen.values())
    assert all(mount.frozen_ms >= mount.freeze_ms for mount in frozen.values())
    assert finish.post_script is None
    assert all(is_writable(vm, mount) for mount in ALL_MOUNTS)
    assert task not in files_of_ours(vm)


def is_writable_through(extension: QgaGuest, mount: str) -> bool:
    """Whether a write comes through, asked over the channel that the session holds.

    A write to a frozen file system cannot be killed: it is left to end with the thaw.
    """
    write = f"dd if=/dev/zero of={mount}/.probe bs=4k count=1 conv=fsync && touch /run/written"
    probe = f"rm -f /run/written; ({write}) >/dev/null 2>&1 & sleep 0.7; test -e /run/written"
    return extension._agent.execute("sh", ["-c", probe], seconds=10).succeeded


def test_a_skipped_mount_stays_writable(extension: QgaGuest, task: str) -> None:
    extension.prepare(task, SnapshotOptions(skip_mounts=("/mnt/xfs",)))
    extension.freeze(task)
    try:
        assert is_writable_through(extension, "/mnt/xfs")
    finally:
        report = extension.thaw(task)
    extension.finish(task)
    skipped = [mount for mount in report.mounts if mount.skipped]
    assert [mount.mount for mount in skipped] == ["/mnt/xfs"]
    assert skipped[0].downgrades


def test_the_guest_thaws_itself_at_the_end_of_the_hold_when_nobody_says_thaw(
    vm: LabGuest, extension: QgaGuest, task: str
) -> None:
    extension.prepare(task, SnapshotOptions(hold_seconds=2.0))
    extension.freeze(task)
    extension._agent.disconnect()  # the host is gone
    time.sleep(4)
    assert all(is_writable(vm, mount) for mount in ALL_MOUNTS)
    report = extension.thaw(task)
    extension.finish(task)
    assert not report.held
    assert max(mount.frozen_ms for mount in report.mounts) <= 4000


def test_another_process_recovers_a_frozen_guest(
    vm: LabGuest, extension: QgaGuest, task: str
) -> None:
    extension.prepare(task, SnapshotOptions(hold_seconds=30.0))
    extension.freeze(task)
    extension._agent.disconnect()
    began = time.monotonic()
    QgaGuest(vm.qga_socket).recover(task)
    assert time.monotonic() - began < 10
    assert all(is_writable(vm, mount) for mount in ALL_MOUNTS)
    assert task not in files_of_ours(vm)
    QgaGuest(vm.qga_socket).recover(task)


def test_the_scripts_run_around_the_freeze(
    vm: LabGuest, extension: QgaGuest, task: str, scripts: None
) -> None:
    put_scripts(vm, pre="echo pre >> /run/order", post="echo post >> /run/order; echo oh >&2")
    readiness = extension.prepare(task, SnapshotOptions())
    assert readiness.scripts_configured
    assert readiness.pre_script is not None
    assert readiness.pre_script.exit_code == 0
    extension.freeze(task)
    extension.thaw(task)
    finish = extension.finish(task)
    assert finish.post_script is not None
    assert (finish.post_script.exit_code, finish.post_script.stderr.strip()) == (0, "oh")
    assert vm.run("cat /run/order").split() == ["pre", "post"]


def test_a_pre_script_that_fails_stops_the_backup_and_the_post_script_still_runs(
    vm: LabGuest, extension: QgaGuest, task: str, scripts: None
) -> None:
    put_scripts(vm, pre="echo no database >&2; exit 3", post="echo post >> /run/order")
    with pytest.raises(ScriptFailure) as caught:
        extension.prepare(task, SnapshotOptions())
    assert caught.value.code == "script.pre-failed"
    assert "no database" in str([fact.raw for fact in caught.value.evidence])
    extension.recover(task)
    assert vm.run("cat /run/order").split() == ["post"]
    assert task not in files_of_ours(vm)


def test_a_guest_frozen_by_another_program_through_the_agent_is_busy(
    vm: LabGuest, extension: QgaGuest, task: str
) -> None:
    extension.install()
    agent = QemuGuestAgent(vm.qga_socket)
    agent.call("guest-fsfreeze-freeze", seconds=30)
    agent.disconnect()
    try:
        with pytest.raises(FreezeFailure) as caught:
            extension.prepare(task, SnapshotOptions())
    finally:
        agent.thaw()
        agent.disconnect()
    assert caught.value.code == "freeze.busy"


def test_an_examination_tells_of_the_session(extension: QgaGuest, task: str) -> None:
    extension.prepare(task, SnapshotOptions())
    extension.recover(task)
    papers = extension.examine()
    assert papers.warnings == ()
    texts = {paper.path: paper.text for paper in papers.papers}
    assert task in texts["/var/log/quiesce/extension.log"]
    assert "qemu-ga" in texts["command:processes"]


def test_uninstalling_leaves_nothing(vm: LabGuest, extension: QgaGuest, task: str) -> None:
    extension.prepare(task, SnapshotOptions())
    extension.freeze(task)
    with pytest.raises(AgentFailure) as caught:
        extension.uninstall()
    assert caught.value.code == "agent.channel-busy", "not under a backup's feet"
    extension.recover(task)
    extension.uninstall()
    assert files_of_ours(vm) == ""
    assert vm.run("pgrep -fc '[q]uiesce-extension'; true").strip() == "0"
    assert all(is_writable(vm, mount) for mount in ALL_MOUNTS)
    assert not extension.status().installed
