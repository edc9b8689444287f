"""A Windows guest is known, looked at and mended from inside, through the QEMU guest agent."""

from __future__ import annotations

import pytest
from scripted_agent import PACKAGE, RefusalError, ScriptedGuest, failure_from
from scripted_windows import Windows

from quiesce.agent.collection import WINDOWS, mender, script
from quiesce.agent.guest import VmGuest
from quiesce.agent.qga import AgentInfo
from quiesce.agent.windows import is_for_windows
from quiesce.model.door import Endpoint
from quiesce.model.network import Proxy


@pytest.fixture
def guest(inside: Windows, guest_peer: ScriptedGuest) -> VmGuest:
    return VmGuest(guest_peer.path, package=PACKAGE)


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
