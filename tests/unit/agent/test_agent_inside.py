"""A guest that is examined and mended through its QEMU guest agent alone."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_agent import PACKAGE, RefusalError, ScriptedGuest

from quiesce.agent import inside
from quiesce.agent.collection import mender, script
from quiesce.agent.extension import QgaGuest
from quiesce.agent.inside import ACTIONS, ACTIONS_ON_WINDOWS
from quiesce.diagnosis.reading.all import facts_of
from quiesce.model.failure import AgentFailure, Failure, FreezeFailure, InputFailure


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[ScriptedGuest]:
    made = ScriptedGuest(tmp_path / "qga.sock")
    made.handlers["guest-get-osinfo"] = lambda _: {"id": "debian"}
    yield made
    made.close()


@pytest.fixture
def guest(peer: ScriptedGuest) -> QgaGuest:
    return QgaGuest(peer.path, package=PACKAGE)


def collects(path: str, arguments: list[str], given: bytes) -> tuple[int, bytes, bytes]:
    token = arguments[-1].rpartition(" ")[2].strip("'")
    return 0, f"#{token} command uname 0\nLinux\n\n#{token} end 1700000000\n".encode(), b""


def windows(peer: ScriptedGuest) -> None:
    peer.handlers["guest-get-osinfo"] = lambda _: {"id": "mswindows"}


def forbids(peer: ScriptedGuest, *commands: str) -> None:
    def refuse(_: dict[str, Any]) -> object:
        raise RefusalError("The command has been disabled for this instance", "CommandNotFound")

    known = [{"name": name, "enabled": name not in commands} for name in peer.handlers]
    for name in commands:
        peer.handlers[name] = refuse
    peer.handlers["guest-info"] = lambda _: {"version": "7.2", "supported_commands": known}


def test_one_program_is_started_and_nothing_is_installed(
    guest: QgaGuest, peer: ScriptedGuest
) -> None:
    given: list[bytes] = []
    peer.run = lambda path, words, stdin: (given.append(stdin), collects(path, words, stdin))[1]
    papers = guest.examine()
    assert papers.warnings == ()
    assert papers.source == "the guest, through qga"
    uname = papers.command("uname")
    assert uname is not None
    assert uname.text == "Linux\n"
    [[program, *arguments]] = peer.ran
    assert (program, arguments[0]) == ("sh", "-s")
    assert given == [script()]
    assert "guest-file-open" not in peer.received


def test_each_examination_has_a_token_of_its_own(guest: QgaGuest, peer: ScriptedGuest) -> None:
    peer.run = collects
    guest.examine()
    guest.examine()
    assert peer.ran[0][-1] != peer.ran[1][-1]


def test_an_agent_that_is_too_old_to_name_its_system_is_taken_for_a_unix(
    guest: QgaGuest, peer: ScriptedGuest
) -> None:
    del peer.handlers["guest-get-osinfo"]
    peer.run = collects
    forbids(peer)
    assert guest.examine().command("uname") is not None


def test_where_programs_are_forbidden_single_files_are_read_and_that_is_said(
    guest: QgaGuest, peer: ScriptedGuest
) -> None:
    forbids(peer, "guest-exec")
    peer.files = {
        "/etc/waagent.conf": b"Extensions.Enabled=n\n",
        "/etc/environment": b"https_proxy=http://user:PASSWORD@proxy:3128\n",
        "/var/log/waagent.log": b"GET https://x/y?sv=1&sig=SIGNATURE%3D&se=2\n",
    }
    papers = guest.examine()
    conf = papers.get("/etc/waagent.conf")
    assert conf is not None
    assert conf.text == "Extensions.Enabled=n\n"
    texts = "".join(paper.text for paper in papers.papers)
    assert "http://user:***@proxy:3128\n" in texts
    assert "sv=1&sig=***&se=2\n" in texts
    release = papers.get("/etc/os-release")
    assert release is not None
    assert "No such file" in release.problem
    assert "no command was run" in papers.warnings[0]
    assert "forbids guest-exec" in papers.warnings[0]
    assert peer.open_handles == []


def test_where_no_program_comes_to_its_end_the_load_is_seen_all_the_same(
    guest: QgaGuest, peer: ScriptedGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside, "_EXAMINE_SECONDS", 0.05)
    peer.handlers["guest-exec-status"] = lambda _: {"exited": False}
    seconds = itertools.count(100)
    read = peer.handlers["guest-file-open"]

    def open_file(order: dict[str, Any]) -> Any:
        peer.files["/proc/stat"] = f"cpu  {next(seconds)} 0 0 7 0 0 0 0\nintr 1\n".encode()
        return read(order)

    peer.handlers["guest-file-open"] = open_file
    peer.files["/proc/meminfo"] = b"MemTotal: 1000 kB\nMemAvailable: 900 kB\n"
    papers = guest.examine()
    facts = {fact.name: fact.value for fact in facts_of(papers)}
    assert facts["guest.cpu-percent"] == 100.0
    assert facts["guest.memory-percent"] == 10.0
    assert papers.warnings[0].startswith("Only the guest's load was looked at")
    assert peer.open_handles == []


def test_a_guest_that_its_agent_has_frozen_is_left_alone(
    guest: QgaGuest, peer: ScriptedGuest
) -> None:
    forbids(peer, "guest-exec")
    peer.handlers["guest-fsfreeze-status"] = lambda _: "frozen"
    with pytest.raises(FreezeFailure) as refused:
        guest.examine()
    assert refused.value.code == "freeze.busy"


def test_windows_is_examined_by_its_own_script(guest: QgaGuest, peer: ScriptedGuest) -> None:
    windows(peer)
    given: list[bytes] = []
    peer.run = lambda path, words, stdin: (given.append(stdin), collects(path, words, stdin))[1]
    assert guest.examine().command("uname") is not None
    [[program, *arguments]] = peer.ran
    assert program == "powershell.exe"
    assert "-NonInteractive" in arguments
    assert arguments[-1].startswith("& ([ScriptBlock]::Create(")
    assert given == [script("mswindows")]


@pytest.mark.parametrize("action", ACTIONS)
def test_what_was_mended_is_the_guests_own_sentence(
    guest: QgaGuest, peer: ScriptedGuest, action: str
) -> None:
    given: list[bytes] = []
    peer.run = lambda path, words, stdin: (given.append(stdin), (0, b"It is \x1bdone.\n", b""))[1]
    assert guest.mend(action, "10.0.0.1") == "It is \\x1bdone."
    assert peer.ran == [["sh", "-s", action, "10.0.0.1"]]
    assert given == [mender()]


@pytest.mark.parametrize("action", ACTIONS_ON_WINDOWS)
def test_windows_is_mended_by_its_own_script(
    guest: QgaGuest, peer: ScriptedGuest, action: str
) -> None:
    windows(peer)
    peer.run = lambda path, words, stdin: (0, b"done: x\n", b"")
    assert guest.mend(action) == "done: x"
    assert peer.ran[0][-1].endswith(f" '{action}' ''")


@pytest.mark.parametrize(
    ("ended", "why"),
    [
        ((1, b"", b"qemu-guest-agent.service is masked.\n"), "is masked."),
        ((1, b"failed: nothing\n", b""), "failed: nothing"),
        ((0, b"", b""), "it said nothing"),
        ((137, b"", b""), "it said nothing"),
    ],
)
def test_why_nothing_was_mended_is_said(
    guest: QgaGuest, peer: ScriptedGuest, ended: tuple[int, bytes, bytes], why: str
) -> None:
    peer.run = lambda *_: ended
    with pytest.raises(AgentFailure) as failed:
        guest.mend("restart-qga")
    assert failed.value.code == "agent.mend-failed"
    assert why in failed.value.message
    assert failed.value.evidence


@pytest.mark.parametrize(
    "words", [("reboot", ""), ("", ""), ("restart-qga", "a b"), ("restart-qga", "';x"), ("-s", "")]
)
def test_nothing_but_what_is_known_to_mend_reaches_the_guest(
    guest: QgaGuest, peer: ScriptedGuest, words: tuple[str, str]
) -> None:
    with pytest.raises(InputFailure) as refused:
        guest.mend(*words)
    assert refused.value.code == "extension.usage"
    assert peer.ran == []


def test_a_guest_that_does_not_answer_is_a_failure_and_no_papers(
    guest: QgaGuest, peer: ScriptedGuest
) -> None:
    peer.handlers["guest-exec-status"] = lambda _: {"exited": True, "exitcode": 0, "out-data": "?"}
    with pytest.raises(Failure) as failed:
        guest.examine()
    assert failed.value.code == "agent.answer-invalid"


def test_the_end_of_a_long_log_is_read_where_programs_are_forbidden(
    guest: QgaGuest, peer: ScriptedGuest
) -> None:
    forbids(peer, "guest-exec")
    seeks: list[tuple[int, str]] = []
    log = b"x" * 300_000 + b"THE END"

    def seek(order: dict[str, Any]) -> dict[str, Any]:
        seeks.append((order["offset"], order["whence"]))
        return {"position": len(log), "eof": False}

    def read(order: dict[str, Any]) -> dict[str, Any]:
        content = log[seeks[-1][0] :][: order["count"]]
        return {"count": len(content), "buf-b64": base64.b64encode(content).decode(), "eof": True}

    peer.files = {"/var/log/waagent.log": log}
    peer.handlers |= {"guest-file-seek": seek, "guest-file-read": read}
    paper = guest.examine().get("/var/log/waagent.log")
    assert paper is not None
    assert paper.cut
    assert paper.text.endswith("THE END")
    assert len(paper.text) == 256 * 1024
