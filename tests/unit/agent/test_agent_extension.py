"""The extension's host side against a scripted guest; the real one is in tests/e2e."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_agent import PACKAGE, RefusalError, ScriptedGuest, failure_from
from scripted_extension import FROZE, INSTALLED, STATE, Extension

from quiesce.agent import remote_session
from quiesce.agent.extension import QgaGuest
from quiesce.agent.qga import QemuGuestAgent
from quiesce.agent.remote_session import RemoteSession
from quiesce.model.failure import (
    AgentFailure,
    ExtensionFailure,
    FreezeFailure,
    InputFailure,
    ScriptFailure,
)
from quiesce.model.policy import SnapshotOptions


@pytest.fixture
def extension(guest_peer: ScriptedGuest) -> Extension:
    return Extension(guest_peer)


@pytest.fixture
def guest(guest_peer: ScriptedGuest) -> QgaGuest:
    return QgaGuest(guest_peer.path, package=PACKAGE, script_seconds=2.0)


def test_a_whole_session_starts_python_once_and_leaves_nothing_open(
    guest: QgaGuest, extension: Extension, guest_peer: ScriptedGuest
) -> None:
    readiness = guest.prepare("t1", SnapshotOptions())
    assert [mount.mount for mount in readiness.mounts] == ["/"]
    started = len(guest_peer.ran)
    guest.freeze("t1")
    report = guest.thaw("t1")
    assert len(guest_peer.ran) == started, "no process is started while the guest is frozen"
    finish = guest.finish("t1")
    assert report.held
    assert report.mounts[0].freeze_ms == 3.0
    assert finish.post_script is not None
    assert guest_peer.orders == ["freeze", "thaw", "finish"]
    assert extension.python_starts == 1
    assert guest_peer.open_handles == []
    assert STATE not in guest_peer.files


def test_an_installed_extension_is_not_installed_again(
    guest: QgaGuest, extension: Extension, guest_peer: ScriptedGuest
) -> None:
    guest_peer.files[INSTALLED] = PACKAGE.content
    assert not guest.install()
    assert guest_peer.ran == []
    guest_peer.files[INSTALLED] = b"cut off"
    assert guest.install()
    assert guest_peer.files[INSTALLED] == PACKAGE.content


@pytest.mark.parametrize(
    ("stderr", "code"),
    [
        (b"cat: write error: No space left on device", "agent.disk-full"),
        (b"mkdir: cannot create directory: Read-only file system", "extension.install-failed"),
    ],
)
def test_an_install_that_fails_says_why(
    guest: QgaGuest, guest_peer: ScriptedGuest, stderr: bytes, code: str
) -> None:
    guest_peer.run = lambda *_: (1, b"", stderr)
    failure = failure_from(guest.install)
    assert failure.code == code
    assert failure.evidence[0].raw == stderr.decode()


def test_a_pre_script_that_forbids_the_backup_is_a_script_failure(
    guest: QgaGuest, extension: Extension
) -> None:
    said = {"code": "script.pre-failed", "message": "/pre ended with 3", "evidence": []}
    extension.first = {"state": "failed", "failure": said}
    failure = failure_from(guest.prepare, "t1", SnapshotOptions())
    assert isinstance(failure, ScriptFailure)
    assert failure.code == "script.pre-failed"


def test_a_freeze_that_fails_in_the_guest_keeps_mount_and_errno(
    guest: QgaGuest, extension: Extension
) -> None:
    guest.prepare("t1", SnapshotOptions())
    said = {
        "code": "freeze.failed",
        "message": "/ cannot be frozen",
        "evidence": [{"fact": "FIFREEZE of / failed", "source": "guest", "raw": "EIO"}],
    }
    extension.after["freeze"] = {"state": "failed", "failure": said}
    failure = failure_from(guest.freeze, "t1")
    assert isinstance(failure, FreezeFailure)
    assert failure.evidence[0].raw == "EIO"


def test_a_freeze_that_takes_too_long_is_undone_within_the_hold(
    guest: QgaGuest, extension: Extension, guest_peer: ScriptedGuest
) -> None:
    guest.prepare("t1", SnapshotOptions(hold_seconds=1.0))
    extension.after["freeze"] = {"state": "freezing"}
    failure = failure_from(guest.freeze, "t1")
    assert (type(failure), failure.code) == (FreezeFailure, "freeze.timeout")
    assert guest_peer.orders == ["freeze", "thaw"]
    assert any("/" in fact.fact for fact in failure.evidence)


def test_the_watchdog_having_been_first_is_a_report_and_not_an_error(
    guest: QgaGuest, extension: Extension
) -> None:
    guest.prepare("t1", SnapshotOptions())
    guest.freeze("t1")
    extension.deaf_to = {"thaw"}
    extension.say({"state": "thawed", "freeze": FROZE | {"held": False, "thawed_by": "watchdog"}})
    assert not guest.thaw("t1").held


def test_a_guest_that_does_not_confirm_its_thaw_is_an_agent_failure(
    guest: QgaGuest, extension: Extension, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quiesce.agent.extension._THAW_SECONDS", 0.2)
    guest.prepare("t1", SnapshotOptions())
    guest.freeze("t1")
    extension.deaf_to = {"thaw"}
    failure = failure_from(guest.thaw, "t1")
    assert (type(failure), failure.code) == (AgentFailure, "agent.thaw-unconfirmed")
    assert failure.report().cause is not None


def test_a_session_that_dies_is_found_by_its_process_and_not_waited_for(
    guest: QgaGuest, extension: Extension
) -> None:
    extension.first = {"state": "preparing", "pid": 4711}
    failure = failure_from(guest.prepare, "t1", SnapshotOptions())
    assert (type(failure), failure.code) == (ExtensionFailure, "extension.session-lost")


def test_the_thaw_gets_through_although_the_agent_was_restarted_meanwhile(
    guest: QgaGuest, extension: Extension, guest_peer: ScriptedGuest
) -> None:
    guest.prepare("t1", SnapshotOptions())
    guest.freeze("t1")
    guest_peer._open.clear()
    assert guest.thaw("t1").held


def test_another_process_recovers_a_lost_session_without_starting_python(
    guest: QgaGuest, extension: Extension, guest_peer: ScriptedGuest
) -> None:
    guest.prepare("t1", SnapshotOptions())
    guest.freeze("t1")
    guest._agent.disconnect()
    QgaGuest(guest_peer.path, package=PACKAGE).recover("t1")
    assert guest_peer.orders[-1] == "abort"
    assert extension.python_starts == 1
    assert STATE not in guest_peer.files


def test_recovering_nothing_is_one_look(guest: QgaGuest, guest_peer: ScriptedGuest) -> None:
    guest.recover("t1")
    assert guest_peer.ran == []
    assert guest_peer.received.count("guest-file-open") == 1


def test_a_guest_without_python_is_told_so_with_what_was_tried(
    guest: QgaGuest, extension: Extension, guest_peer: ScriptedGuest
) -> None:
    ordinary = guest_peer.handlers["guest-exec"]

    def no_python(order: dict[str, Any]) -> object:
        if "python" in order["path"]:
            words = f"Failed to execute child process “{order['path']}” (No such file or directory)"
            raise RefusalError(words)
        return ordinary(order)

    guest_peer.handlers["guest-exec"] = no_python
    failure = failure_from(guest.prepare, "t1", SnapshotOptions())
    assert failure.code == "extension.runtime-missing"
    assert len(failure.evidence) == 3


@pytest.mark.parametrize(
    ("stderr", "code"),
    [
        (b"zipimport.ZipImportError: bad magic", "extension.package-corrupt"),
        (b"  File x, line 1\nSyntaxError: invalid syntax", "extension.runtime-missing"),
        (b"Killed", "extension.crashed"),
    ],
)
def test_an_extension_that_does_not_start_is_written_anew_once_and_then_named(
    guest: QgaGuest, extension: Extension, guest_peer: ScriptedGuest, stderr: bytes, code: str
) -> None:
    guest_peer.files[INSTALLED] = PACKAGE.content
    extension.command = lambda _: (1, b"", stderr)  # type: ignore[method-assign]
    failure = failure_from(guest.prepare, "t1", SnapshotOptions())
    assert failure.code == code
    assert [run[0] for run in guest_peer.ran] == ["python3", "sh", "python3"]


def test_the_channel_is_free_for_others_unless_a_session_is_open(
    guest: QgaGuest, extension: Extension, guest_peer: ScriptedGuest
) -> None:
    other = QgaGuest(guest_peer.path, package=PACKAGE)
    guest.install()
    other.install()
    guest.prepare("t1", SnapshotOptions())
    guest.recover("t1")
    other.install()


@pytest.mark.parametrize("task", ["", "../etc", "a b", "x" * 65, "-rf"])
def test_a_task_id_that_could_leave_its_folder_is_refused(guest: QgaGuest, task: str) -> None:
    assert isinstance(failure_from(guest.recover, task), InputFailure)


def test_nothing_is_started_for_onlookers_while_a_session_is_open(
    guest: QgaGuest, extension: Extension, guest_peer: ScriptedGuest
) -> None:
    assert guest.taking() == ""
    guest.prepare("t1", SnapshotOptions())
    guest.freeze("t1")
    assert guest.taking() == "t1", "others see that this guest may be frozen"
    started = len(guest_peer.ran)
    for call in (
        guest.status,
        guest.preflight,
        guest.examine,
        guest.install,
        guest.uninstall,
    ):
        refusal = failure_from(call)
        assert refusal.code == "agent.channel-busy"
        assert refusal.retryable
    assert len(guest_peer.ran) == started
    guest.thaw("t1")
    guest.finish("t1")
    assert guest.taking() == ""
    assert not guest.install()


def test_the_channel_is_free_again_after_a_session_that_was_lost(
    guest: QgaGuest, extension: Extension, guest_peer: ScriptedGuest
) -> None:
    guest.prepare("t1", SnapshotOptions())
    extension.vanish()
    assert failure_from(guest.finish, "t1").code == "extension.session-lost"
    assert guest_peer.open_handles == []
    QgaGuest(guest_peer.path, package=PACKAGE).install()


def test_a_state_that_arrives_in_drips_is_given_up(
    guest: QgaGuest, guest_peer: ScriptedGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_session, "_STATE_SECONDS", 0.2)
    guest_peer.files[STATE] = b"x"
    guest_peer.handlers["guest-file-read"] = lambda _: {"count": 1, "buf-b64": "ew==", "eof": False}
    failure = failure_from(RemoteSession(QemuGuestAgent(guest_peer.path), "t1").find)
    assert failure.code == "extension.stuck"
    assert failure.retryable
