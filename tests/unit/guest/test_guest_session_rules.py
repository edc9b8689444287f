"""Moves of a session, its folder, its settings, its place among the control groups."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from quiesce.guest import folder
from quiesce.guest.detach import trees_to_leave
from quiesce.guest.failure import Failure
from quiesce.guest.folder import Folder, Lock, make_run_folder, require_task
from quiesce.guest.ledger import By, Ledger, Thaw
from quiesce.guest.mounts import parse_mountinfo
from quiesce.guest.settings import read_settings
from quiesce.guest.state import LEGAL, State, require_legal


def test_every_end_is_reached_through_finishing_where_the_post_script_runs() -> None:
    for old, new in itertools.product(State, State):
        if new in (State.DONE, State.FAILED):
            assert (new in LEGAL[old]) == (old is State.FINISHING)
        if old not in (State.FINISHING, State.DONE, State.FAILED):
            assert State.FINISHING in LEGAL[old]


def test_a_session_cannot_be_frozen_before_it_is_ready() -> None:
    with pytest.raises(ValueError, match="from preparing to frozen"):
        require_legal(State.PREPARING, State.FROZEN)


@pytest.mark.parametrize("task", ["", "../x", "a/b", "a b", "a\n", "ü", "x" * 65, ".", "a.b"])
def test_a_task_id_that_could_leave_the_folder_is_refused(task: str) -> None:
    with pytest.raises(Failure) as caught:
        require_task(task)
    assert caught.value.code == "session.task-invalid"


def test_a_run_folder_that_is_a_link_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(folder, "RUN_FOLDER", str(tmp_path / "run"))
    with pytest.raises(Failure) as caught:
        make_run_folder()
    assert caught.value.code == "session.folder-unsafe"


def test_a_run_folder_that_others_may_enter_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o755)
    monkeypatch.setattr(folder, "RUN_FOLDER", str(tmp_path / "run"))
    with pytest.raises(Failure) as caught:
        make_run_folder()
    assert caught.value.code == "session.folder-unsafe"


@pytest.fixture
def session_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(folder, "RUN_FOLDER", str(tmp_path))
    made = Folder("task-1")
    made.make()
    return made


def test_the_post_script_is_claimed_by_one_alone(session_folder: Folder) -> None:
    assert [session_folder.claim_post_script() for _ in range(3)] == [True, False, False]


def test_a_task_that_has_a_folder_is_active(session_folder: Folder) -> None:
    with pytest.raises(Failure) as caught:
        Folder("task-1").make()
    assert caught.value.code == "session.active"


def test_a_lock_names_its_holder_until_it_is_let_go(session_folder: Folder) -> None:
    lock = Lock(session_folder.session)
    assert lock.take()
    lock.hold_for(os.getpid())
    assert session_folder.holder(session_folder.session) == os.getpid()
    lock.release()
    assert session_folder.holder(session_folder.session) == 0


def _ledger(tmp_path: Path) -> Ledger:
    made = Ledger(str(tmp_path / "ledger"), 2, create=True)
    for index in range(2):
        made.began(index, 1.0)
        made.ended(index, 1.5, 0)
    return made


def test_a_freeze_is_held_when_every_mount_was_still_frozen_at_the_request(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    ledger.close(By.REQUEST)
    assert ledger.owed() == [0, 1]
    ledger.thawed(0, 2.0, Thaw.DONE)
    assert not ledger.held()
    ledger.thawed(1, 2.0, Thaw.DONE)
    assert ledger.held()
    assert ledger.owed() == []


@pytest.mark.parametrize("by", [By.WATCHDOG, By.ABORT, By.SIGNAL])
def test_a_freeze_that_ended_otherwise_is_not_held(tmp_path: Path, by: By) -> None:
    ledger = _ledger(tmp_path)
    ledger.close(by)
    ledger.close(By.REQUEST)  # too late: the first reason stays
    for index in range(2):
        ledger.thawed(index, 2.0, Thaw.DONE)
    assert not ledger.held()


def test_a_freeze_that_somebody_else_thawed_is_not_held(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    ledger.close(By.REQUEST)
    ledger.thawed(0, 2.0, Thaw.DONE)
    ledger.thawed(1, 2.0, Thaw.WAS_NOT_FROZEN)
    assert not ledger.held()


def test_another_process_reads_what_the_ledger_says(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    ledger.arm(12.5)
    ledger.ended(1, 1.75, 16)
    path = str(tmp_path / "ledger")
    other = Ledger(path, Ledger.count_in(path))
    assert other.deadline == 12.5
    assert other.freeze_error(1) == 16
    assert other.freeze_ended(1) == 1.75
    assert other.owed() == [0]


def test_the_known_settings_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "vmbackup.conf"
    path.write_text(
        "[SnapshotThread]\nfsfreeze: True\nMountsToSkip = /mnt/resource, /mnt/b\n"
        "SafeFreezeWaitInSeconds=600\ntimeout = 5\nonlyLocalFilesystems = True\n"
    )
    settings = read_settings(str(path))
    assert settings.skip == ("/mnt/resource", "/mnt/b")
    assert (settings.freeze, settings.hold_seconds, settings.freeze_seconds) == (True, 5, 600)
    assert settings.warnings == ()


@pytest.mark.parametrize("text", ["timeout = 5", "[SnapshotThread]\ntimeout = soon", "\0[\xff"])
def test_settings_that_are_not_understood_become_a_warning(tmp_path: Path, text: str) -> None:
    path = tmp_path / "vmbackup.conf"
    path.write_text(text, encoding="latin-1")
    settings = read_settings(str(path))
    assert settings.warnings
    assert settings.freeze


_MOUNTS = parse_mountinfo(
    b"1 0 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
    b"2 0 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    b"3 0 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def test_the_session_leaves_the_trees_that_systemd_kills_by_and_no_other() -> None:
    unit = "/system.slice/qemu-guest-agent.service"
    lines = [f"4:memory:{unit}", f"1:name=systemd:{unit}", f"0::{unit}"]
    assert [tree.root_procs for tree in trees_to_leave(lines, _MOUNTS)] == [
        "/sys/fs/cgroup/systemd/cgroup.procs",
        "/sys/fs/cgroup/unified/cgroup.procs",
    ]


def test_a_session_at_the_root_of_its_trees_stays_there() -> None:
    assert trees_to_leave(["1:name=systemd:/", "0::/"], _MOUNTS) == []
