"""A Windows guest behind the QEMU guest agent, by what such an agent answers. No real Windows: the
answers are those of qga/commands-win32.c and qga/vss-win32/requester.cpp."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from scripted_agent import HANG_UP, RefusalError, ScriptedGuest

from quiesce.agent import windows
from quiesce.agent.collection import WINDOWS, mender, script
from quiesce.agent.guest import VmGuest
from quiesce.agent.package import ExtensionPackage
from quiesce.agent.qga import AgentInfo
from quiesce.agent.windows import UNPROVEN, is_for_windows
from quiesce.model.door import Endpoint
from quiesce.model.failure import AgentFailure, Failure, FreezeFailure
from quiesce.model.network import Proxy
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import Consistency
from quiesce.snapshot.consistency import proven_consistency

PACKAGE = ExtensionPackage("1.0", "ab" * 32, b"zip bytes")
VOLUMES = [
    {"name": "\\\\?\\Volume{1}\\", "mountpoint": "C:\\", "type": "NTFS", "disk": []},
    {"name": "\\\\?\\Volume{2}\\", "mountpoint": "E:\\", "type": "NTFS", "disk": []},
    {"name": "\\\\?\\Volume{3}\\", "mountpoint": "System Reserved", "type": "NTFS", "disk": []},
]


class Windows:
    """What VSS does behind the agent. `refuses_to_freeze`, `refuses_to_thaw`: its own words."""

    def __init__(self, guest: ScriptedGuest) -> None:
        self.frozen = False
        self.thaws = 0
        self.thawed = threading.Event()
        self.refuses_to_freeze = ""
        self.refuses_to_thaw = ""
        self.volumes = 3
        guest.handlers |= {
            "guest-get-osinfo": self._spared(
                lambda _: {"id": "mswindows", "pretty-name": "Windows Server 2022 Standard"}
            ),
            "guest-info": lambda _: {
                "version": "108.0.2",
                "supported_commands": [{"name": "guest-get-devices", "enabled": False}],
            },
            "guest-get-fsinfo": self._spared(lambda _: VOLUMES),
            "guest-fsfreeze-status": lambda _: "frozen" if self.frozen else "thawed",
            "guest-fsfreeze-freeze": self._freeze,
            "guest-fsfreeze-thaw": self._thaw,
        }

    def _spared(self, handler: Any) -> Any:
        def answered(order: dict[str, Any]) -> Any:
            if self.frozen:
                raise RefusalError("the command is not allowed while frozen", "CommandNotFound")
            return handler(order)

        return answered

    def _freeze(self, _: object) -> int:
        if self.refuses_to_freeze:
            raise RefusalError(self.refuses_to_freeze)
        self.frozen = self.volumes > 0
        return self.volumes

    def _thaw(self, _: object) -> int:
        was, self.frozen = self.frozen, False
        self.thaws += 1
        self.thawed.set()
        if self.refuses_to_thaw:
            raise RefusalError(self.refuses_to_thaw)
        return self.volumes if was else 0


@pytest.fixture
def inside(guest_peer: ScriptedGuest) -> Windows:
    return Windows(guest_peer)


@pytest.fixture
def guest(inside: Windows, guest_peer: ScriptedGuest) -> VmGuest:
    return VmGuest(guest_peer.path, package=PACKAGE)


def failure_from(call: object, *arguments: object) -> Failure:
    assert callable(call)
    with pytest.raises(Failure) as caught:
        call(*arguments)
    return caught.value


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


def test_what_needs_the_extension_says_that_windows_has_none(guest: VmGuest) -> None:
    for call in (
        guest.install,
        guest.uninstall,
        lambda: guest.probe(Endpoint("https://store.example:443", ""), Proxy()),
    ):
        assert failure_from(call).code == "extension.not-for-windows"


def test_people_see_the_agent_and_the_volumes_of_a_windows_guest(guest: VmGuest) -> None:
    state = guest.status()
    assert not state.installed
    assert not state.update_pending
    assert state.operating_system == "Windows Server 2022 Standard"
    assert [mount.mount for mount in guest.preflight()] == ["C:\\", "E:\\"]


def test_windows_is_looked_at_by_powershell_that_gets_its_script_by_standard_input(
    guest: VmGuest, guest_peer: ScriptedGuest
) -> None:
    given: list[bytes] = []

    def run(path: str, arguments: list[str], stdin: bytes) -> tuple[int, bytes, bytes]:
        given.append(stdin)
        token = arguments[-1].split("'")[1]
        printed = (
            f"#{token} command services 0\n"
            '> 0 sc.exe query "QEMU-GA"\n\n'
            f"#{token} file 12 - - 1700000000 C:\\WindowsAzure\\Logs\\Wa App.log\nwords\r\n\n"
            f"#{token} end 1700000001\n"
        )
        return 0, printed.encode(), b""

    guest_peer.run = run
    papers = guest.examine()
    assert given == [script(WINDOWS)]
    assert guest_peer.ran[0][0] == "powershell.exe"
    assert guest_peer.ran[0][-2] == "-Command"
    assert '"' not in guest_peer.ran[0][-1], "nothing that the agent's quoting could change"
    services = papers.command("services")
    assert services is not None
    assert services.text.startswith('> 0 sc.exe query "QEMU-GA"')
    log = papers.get("C:\\WindowsAzure\\Logs\\Wa App.log")
    assert log is not None
    assert (log.text.strip(), log.mode, log.owner) == ("words", None, None)
    assert papers.warnings == ()


def test_a_windows_that_does_not_let_powershell_work_is_said_not_to_have_been_looked_at(
    guest: VmGuest, guest_peer: ScriptedGuest
) -> None:
    words = b"Cannot invoke method. Method invocation is supported only on core types."
    guest_peer.run = lambda *_: (1, b"", words)
    failure = failure_from(guest.examine)
    assert failure.code == "agent.examine-failed"
    assert failure.evidence[0].raw == words.decode()


def test_no_unix_file_is_looked_for_where_windows_forbids_programs(
    guest: VmGuest, guest_peer: ScriptedGuest
) -> None:
    def forbidden(_: object) -> None:
        raise RefusalError("Command guest-exec has been disabled", "CommandNotFound")

    guest_peer.handlers["guest-exec"] = forbidden
    assert failure_from(guest.examine).code in ("agent.extensions-disabled", "agent.outdated")
    assert "guest-file-open" not in guest_peer.received


def test_windows_is_mended_by_its_own_script_whose_reason_is_kept(
    guest: VmGuest, guest_peer: ScriptedGuest
) -> None:
    guest_peer.run = lambda *_: (0, b"Done: reg.exe add X\r\n", b"")
    assert guest.mend("vss-copy") == "Done: reg.exe add X"
    assert "'vss-copy'" in guest_peer.ran[0][-1]
    guest_peer.run = lambda *_: (1, b"", b"sc.exe start X ended with 1058: disabled\r\n")
    failure = failure_from(guest.mend, "start-provider")
    assert failure.code == "agent.mend-failed"
    assert "1058" in failure.message


@pytest.mark.parametrize("program", [script(WINDOWS), mender(WINDOWS)])
def test_what_is_sent_to_powershell_is_plain_ascii_without_a_byte_order_mark(
    program: bytes,
) -> None:
    program.decode("ascii")


@pytest.mark.parametrize(
    ("version", "commands", "answer"),
    [
        ("9.0.0", {"guest-get-devices"}, True),
        ("9.0.0", {"guest-get-devices", "guest-ssh-get-authorized-keys"}, False),
        ("9.1.0", {"guest-get-devices", "guest-ssh-get-authorized-keys"}, True),
        ("108.0.2", {"guest-get-devices", "guest-ssh-get-authorized-keys"}, True),
        ("9.2.0", {"guest-ssh-get-authorized-keys"}, False),
        ("2.5.0", set(), False),
        ("", {"guest-get-devices"}, True),
    ],
)
def test_an_agent_that_may_not_name_its_system_is_known_by_its_commands(
    version: str, commands: set[str], answer: bool
) -> None:
    assert is_for_windows(AgentInfo(version, frozenset(), frozenset(commands))) is answer


def test_a_linux_guest_is_none_of_this(guest_peer: ScriptedGuest) -> None:
    guest_peer.handlers["guest-get-osinfo"] = lambda _: {"id": "debian"}
    installed: list[bytes] = []

    def run(path: str, arguments: list[str], given: bytes) -> tuple[int, bytes, bytes]:
        installed.append(given)
        return 0, b"", b""

    guest_peer.run = run
    assert VmGuest(guest_peer.path, package=PACKAGE).install()
    assert installed == [PACKAGE.content]
