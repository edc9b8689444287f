"""A Windows guest is frozen and thawed by its own shadow copies, through the QEMU guest agent."""

from __future__ import annotations

import threading

import pytest
from scripted_agent import HANG_UP, PACKAGE, ScriptedGuest, failure_from
from scripted_windows import Windows

from quiesce.agent import windows
from quiesce.agent.guest import VmGuest
from quiesce.agent.windows import UNPROVEN
from quiesce.model.failure import AgentFailure, FreezeFailure
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import Consistency
from quiesce.snapshot.consistency import proven_consistency


@pytest.fixture
def guest(inside: Windows, guest_peer: ScriptedGuest) -> VmGuest:
    return VmGuest(guest_peer.path, package=PACKAGE)


def test_windows_is_frozen_by_its_own_shadow_copies_and_says_that_this_is_unproven(
    guest: VmGuest, inside: Windows, guest_peer: ScriptedGuest
) -> None:
    readiness = guest.prepare("t1", SnapshotOptions())
    assert [mount.mount for mount in readiness.mounts] == ["C:\\", "E:\\"]
    assert readiness.warnings == (UNPROVEN,)
    guest.freeze("t1")
    assert inside.frozen
    report = guest.thaw("t1")
    assert report.held
    assert not inside.frozen
    assert [mount.file_system for mount in report.mounts] == ["NTFS", "NTFS"]
    assert guest.finish("t1").post_script is None
    assert guest_peer.ran == [], "nothing is started in it, nothing installed"
    assert guest_peer.hung_up.acquire(timeout=10), "the channel is free again"


def test_the_channel_is_kept_from_before_the_freeze_until_the_end(
    guest: VmGuest, guest_peer: ScriptedGuest
) -> None:
    guest.prepare("t1", SnapshotOptions())
    guest.freeze("t1")
    guest.thaw("t1")
    assert guest_peer.connections == 1
    assert failure_from(guest.examine).code == "agent.channel-busy"
    guest.finish("t1")


@pytest.mark.parametrize(
    ("refused", "level"),
    [
        ("", Consistency.FILE_SYSTEM),
        ("couldn't hold writes: fsfreeze is limited up to 10 seconds: ", Consistency.CRASH),
        ("failed to do snapshot set: 0x8004230f", Consistency.CRASH),
    ],
)
def test_the_label_is_what_vss_says_that_it_held(
    guest: VmGuest, inside: Windows, refused: str, level: Consistency
) -> None:
    readiness = guest.prepare("t1", SnapshotOptions())
    guest.freeze("t1")
    inside.refuses_to_thaw = refused
    thawed = guest.thaw("t1")
    assert proven_consistency(readiness, thawed, guest.finish("t1")).label.level is level


def test_a_thaw_that_came_later_than_windows_holds_is_not_held_whatever_vss_says(
    guest: VmGuest, inside: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("quiesce.agent.windows.time.monotonic", lambda: now[0])
    guest.prepare("t1", SnapshotOptions())
    guest.freeze("t1")
    now[0] += 9.5
    assert not guest.thaw("t1").held


def test_the_hold_ends_by_itself_when_nobody_thaws(guest: VmGuest, inside: Windows) -> None:
    guest.prepare("t1", SnapshotOptions(hold_seconds=0.05))
    guest.freeze("t1")
    assert inside.thawed.wait(10)
    report = guest.thaw("t1")
    assert not report.held
    assert report.hold_seconds == 0.05


def test_no_policy_can_hold_windows_longer_than_vss_does(guest: VmGuest) -> None:
    guest.prepare("t1", SnapshotOptions(hold_seconds=60.0))
    guest.freeze("t1")
    assert guest.thaw("t1").hold_seconds < windows.VSS_HOLD_SECONDS


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("failed to add C:\\ to snapshot set: 0x80042306", "vss.freeze-failed"),
        ("timeout when try to receive Frozen event from VSS provider: ", "vss.freeze-timeout"),
        ("this feature or command is not currently supported", "vss.freeze-failed"),
    ],
)
def test_vss_own_words_are_kept_when_it_cannot_freeze(
    guest: VmGuest, inside: Windows, words: str, code: str
) -> None:
    guest.prepare("t1", SnapshotOptions())
    inside.refuses_to_freeze = words
    failure = failure_from(guest.freeze, "t1")
    assert isinstance(failure, FreezeFailure)
    assert failure.code == code
    assert failure.evidence[0].raw == words
    guest.finish("t1")


def test_a_freeze_of_nothing_is_a_failure(guest: VmGuest, inside: Windows) -> None:
    inside.volumes = 0
    guest.prepare("t1", SnapshotOptions())
    assert failure_from(guest.freeze, "t1").code == "vss.freeze-failed"


def test_a_freeze_that_is_not_answered_is_undone(
    guest: VmGuest, inside: Windows, guest_peer: ScriptedGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quiesce.agent.windows._FREEZE_SECONDS", 0.1)
    late = threading.Event()

    def slow(order: object) -> int:
        late.wait(0.5)
        return inside._freeze(order)

    guest_peer.handlers["guest-fsfreeze-freeze"] = slow
    guest.prepare("t1", SnapshotOptions())
    assert failure_from(guest.freeze, "t1").code == "vss.freeze-timeout"
    assert not inside.frozen


def test_an_agent_that_is_lost_while_frozen_is_named_with_what_windows_does_then(
    guest: VmGuest, guest_peer: ScriptedGuest
) -> None:
    guest.prepare("t1", SnapshotOptions())
    guest.freeze("t1")
    guest_peer.handlers["guest-fsfreeze-thaw"] = lambda _: HANG_UP
    failure = failure_from(guest.thaw, "t1")
    assert isinstance(failure, AgentFailure)
    assert failure.code == "agent.thaw-unconfirmed"
    assert "10 s" in failure.message


def test_what_a_lost_server_left_frozen_is_thawed_by_its_successor(
    guest: VmGuest, inside: Windows, guest_peer: ScriptedGuest
) -> None:
    guest.prepare("t1", SnapshotOptions())
    guest.freeze("t1")
    guest._agent.disconnect()
    VmGuest(guest_peer.path, package=PACKAGE).recover("t1")
    assert not inside.frozen
    assert inside.thaws == 1


def test_a_freeze_that_the_agent_still_holds_is_seen_as_a_session_and_ended(
    guest: VmGuest, inside: Windows
) -> None:
    inside.frozen = True
    [session] = guest.status().sessions
    assert session.state == "frozen"
    guest.recover(session.task_id)
    assert not inside.frozen


def test_a_freeze_of_another_program_is_not_undone_by_a_backup_that_came_too_late(
    guest: VmGuest, inside: Windows
) -> None:
    inside.frozen = True
    assert failure_from(guest.prepare, "t1", SnapshotOptions()).code == "freeze.busy"
    guest.recover("t1")
    assert inside.frozen


def test_recovering_nothing_thaws_nothing(guest: VmGuest, inside: Windows) -> None:
    guest.recover("t1")
    assert inside.thaws == 0


def test_mounts_that_a_policy_skips_are_frozen_on_windows_and_this_is_said(guest: VmGuest) -> None:
    readiness = guest.prepare("t1", SnapshotOptions(skip_mounts=("E:\\",)))
    assert any("not left out: E:\\" in warning for warning in readiness.warnings)
    guest.finish("t1")
