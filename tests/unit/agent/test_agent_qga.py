from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
from scripted_agent import HANG_UP, Raw, RefusalError, ScriptedAgent, ScriptedGuest

from quiesce.agent import link
from quiesce.agent.link import CommandRefused
from quiesce.agent.qga import QemuGuestAgent
from quiesce.model.failure import AgentFailure, Failure, FreezeFailure


def code_of(call: object) -> str:
    assert callable(call)
    with pytest.raises(Failure) as caught:
        call()
    return caught.value.code


def test_rubbish_before_the_sentinel_is_never_taken_for_an_answer(
    peer: ScriptedAgent, agent: QemuGuestAgent
) -> None:
    peer.before_sync = b'{"return": "from long ago"}\n\x00\x80 half {"ret'
    peer.handlers["guest-fsfreeze-status"] = lambda _: "thawed"
    assert agent.freeze_status().value == "thawed"


def test_the_answer_to_an_older_sync_is_not_believed(
    peer: ScriptedAgent, agent: QemuGuestAgent
) -> None:
    peer.before_sync = b'\xff{"return": 12345}\n{"return": {}}\n'
    agent.sync()
    agent.ping()


def test_a_late_answer_is_not_taken_for_the_next_call(
    peer: ScriptedAgent, agent: QemuGuestAgent
) -> None:
    given_up = threading.Event()

    def slow(_: object) -> str:
        given_up.wait(60)
        return "the late answer"

    peer.handlers |= {"guest-slow": slow, "guest-quick": lambda _: "the right answer"}
    assert code_of(lambda: agent.call("guest-slow", seconds=1.0)) == "agent.hung"
    given_up.set()
    assert agent.call("guest-quick") == "the right answer"


def test_bytes_that_nobody_asked_for_are_dropped_before_the_next_call(
    peer: ScriptedAgent, agent: QemuGuestAgent
) -> None:
    peer.handlers |= {
        "guest-chatty": lambda _: Raw(b'{"return": 1}\n{"return": "unasked"}\n'),
        "guest-quick": lambda _: "the right answer",
    }
    assert agent.call("guest-chatty") == 1
    assert agent.call("guest-quick") == "the right answer"


def test_an_answer_in_single_bytes_is_put_together(
    peer: ScriptedAgent, agent: QemuGuestAgent
) -> None:
    peer.pieces = 1
    peer.handlers["guest-words"] = lambda _: {"text": "grüße 😀" * 20}
    assert agent.call("guest-words") == {"text": "grüße 😀" * 20}


def test_an_agent_that_dies_in_the_middle_of_an_answer_is_said_to_be_lost(
    peer: ScriptedAgent, agent: QemuGuestAgent
) -> None:
    agent.ping()
    peer.handlers["guest-die"] = lambda _: HANG_UP
    assert code_of(lambda: agent.call("guest-die")) == "agent.channel-lost"
    agent.ping()
    assert peer.connections == 2


def test_a_connection_that_broke_between_two_calls_is_made_again_unnoticed(
    peer: ScriptedAgent, agent: QemuGuestAgent
) -> None:
    peer.hangs_up_after = "guest-ping"
    for _ in range(3):
        agent.ping()
        assert peer.hung_up.acquire(timeout=10)
    assert peer.connections == 3


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (b"not json\n", "agent.answer-invalid"),
        (b'{"return": 1, "error": {}}\n', "agent.answer-invalid"),
        (b'{"error": "words"}\n', "agent.answer-invalid"),
    ],
)
def test_a_broken_answer_is_named_and_does_not_poison_the_next_call(
    peer: ScriptedAgent, agent: QemuGuestAgent, wire: bytes, code: str
) -> None:
    peer.handlers["guest-odd"] = lambda _: Raw(wire)
    assert code_of(lambda: agent.call("guest-odd")) == code
    agent.ping()


def test_an_answer_without_end_is_cut_off(
    peer: ScriptedAgent, agent: QemuGuestAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quiesce.agent.framing.Frames.__init__.__defaults__", (10_000,))
    peer.handlers["guest-flood"] = lambda _: Raw(b"x" * 100_000)
    assert code_of(lambda: agent.call("guest-flood")) == "agent.answer-too-long"


def test_an_error_of_the_agent_is_kept_whole(peer: ScriptedAgent, agent: QemuGuestAgent) -> None:
    def refuse(_: object) -> None:
        raise RefusalError("failed to open file '/x': \x1b[31mNo such file")

    peer.handlers["guest-file-open"] = refuse
    with pytest.raises(CommandRefused) as caught:
        agent.open_file("/x")
    assert caught.value.code == "agent.command-failed"
    assert caught.value.error_class == "GenericError"
    assert caught.value.evidence[0].raw == "failed to open file '/x': \\x1b[31mNo such file"


def listing(**commands: bool) -> dict[str, object]:
    return {
        "version": "7.2.22",
        "supported_commands": [
            {"name": name.replace("_", "-"), "enabled": on, "success-response": True}
            for name, on in commands.items()
        ],
    }


def disabled(_: object) -> None:
    raise RefusalError("Command guest-exec has been disabled", "CommandNotFound")


def test_a_command_forbidden_by_configuration_is_told_from_an_unknown_one(
    peer: ScriptedAgent, agent: QemuGuestAgent
) -> None:
    peer.handlers |= {
        "guest-exec": disabled,
        "guest-fsfreeze-status": lambda _: "thawed",
        "guest-info": lambda _: listing(guest_exec=False, guest_ping=True),
    }
    assert code_of(lambda: agent.execute("true")) == "agent.extensions-disabled"
    assert code_of(lambda: agent.call("guest-made-up")) == "agent.outdated"


def test_a_guest_frozen_through_its_agent_is_called_busy(
    peer: ScriptedAgent, agent: QemuGuestAgent
) -> None:
    peer.handlers |= {"guest-exec": disabled, "guest-fsfreeze-status": lambda _: "frozen"}
    with pytest.raises(FreezeFailure) as caught:
        agent.execute("true")
    assert caught.value.code == "freeze.busy"
    assert "frozen" in caught.value.evidence[-1].fact


def test_a_missing_socket_and_a_dead_one_are_a_missing_channel(folder: Path) -> None:
    missing = QemuGuestAgent(folder / "nothing.sock")
    assert code_of(missing.ping) == "agent.channel-missing"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(folder / "dead.sock"))
    dead.close()
    assert code_of(QemuGuestAgent(folder / "dead.sock").ping) == "agent.channel-missing"


def test_a_second_client_is_told_that_the_channel_is_held(peer: ScriptedAgent) -> None:
    first, second = QemuGuestAgent(peer.path), QemuGuestAgent(peer.path)
    first.ping()
    assert code_of(lambda: second.sync(seconds=0.3)) == "agent.channel-busy"
    first.disconnect()
    second.ping()


def test_a_full_queue_of_clients_is_a_busy_channel_in_bounded_time(peer: ScriptedAgent) -> None:
    holders = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for holder in holders:
        holder.connect(str(peer.path))
    began = time.monotonic()
    late = QemuGuestAgent(peer.path)
    assert code_of(lambda: late.sync(seconds=0.3)) == "agent.channel-busy"
    assert time.monotonic() - began < 20
    for holder in holders:
        holder.close()


def test_an_agent_that_reads_and_stays_silent_is_hung(
    peer: ScriptedAgent, agent: QemuGuestAgent
) -> None:
    peer.answers_sync = False
    assert code_of(lambda: agent.sync(seconds=1.0)) == "agent.hung"
    peer.answers_sync = True
    agent.ping()


@pytest.mark.parametrize(
    ("port_open", "code"),
    [(None, "agent.not-running"), (False, "agent.not-running"), (True, "agent.hung")],
)
def test_unread_bytes_mean_that_no_agent_runs_unless_the_port_is_open(
    folder: Path, port_open: bool | None, code: str
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "port.sock"))
        listener.listen(1)
        accepted: list[socket.socket] = []
        accepting = threading.Thread(target=lambda: accepted.append(listener.accept()[0]))
        accepting.start()
        client = QemuGuestAgent(folder / "port.sock", frontend_open=lambda: port_open)
        with pytest.raises(AgentFailure) as caught:
            client.sync(seconds=0.2)
        accepting.join()
        accepted[0].close()
    assert caught.value.code == code
    assert any("unread" in fact.fact for fact in caught.value.evidence)


def test_a_closed_port_is_not_waited_for(
    peer: ScriptedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "SYNC_SECONDS", 60.0)
    peer.answers_sync = False
    client = QemuGuestAgent(peer.path, frontend_open=lambda: False)
    began = time.monotonic()
    assert code_of(lambda: client.ping(seconds=60)) == "agent.not-running"
    assert time.monotonic() - began < 30


def test_an_agent_whose_port_is_closed_for_a_moment_is_waited_for(peer: ScriptedAgent) -> None:
    """As while it is being restarted: it then reads what was written meanwhile."""
    peer.sync_delay_seconds = 2.0
    looks = iter([False, True])
    QemuGuestAgent(peer.path, frontend_open=lambda: next(looks)).ping(seconds=30)
    assert next(looks, None) is None


def test_the_port_is_not_looked_at_while_the_agent_answers(peer: ScriptedAgent) -> None:
    def look() -> bool:
        raise AssertionError

    QemuGuestAgent(peer.path, frontend_open=look).ping()


def test_a_program_runs_with_input_and_both_outputs(guest_peer: ScriptedGuest) -> None:
    guest_peer.run = lambda path, arguments, given: (3, given + b"!", b"warned")
    result = QemuGuestAgent(guest_peer.path).execute("cat", ["-"], input=b"bytes \xff")
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"bytes \xff!", b"warned")
    assert result.evidence("cat").fact == "cat ended with status 3"


def test_a_program_that_does_not_end_is_killed_and_named(guest_peer: ScriptedGuest) -> None:
    guest_peer.handlers["guest-exec-status"] = lambda _: {"exited": False}
    client = QemuGuestAgent(guest_peer.path)
    assert code_of(lambda: client.execute("sleep", ["9"], seconds=1.0)) == "agent.exec-timeout"
    assert guest_peer.ran[-1][:2] == ["kill", "-KILL"]


def test_a_read_that_returns_more_than_asked_for_is_refused(guest_peer: ScriptedGuest) -> None:
    guest_peer.files["/etc/hostname"] = b"lab\n"
    guest_peer.handlers["guest-file-read"] = lambda _: {
        "count": 1,
        "buf-b64": "YWJjZGVm",
        "eof": False,
    }
    client = QemuGuestAgent(guest_peer.path)
    handle = client.open_file("/etc/hostname")
    assert code_of(lambda: client.read_chunk(handle, 3)) == "agent.answer-invalid"


@pytest.mark.parametrize("answer", [{"pid": "7"}, {"pid": True}, {}, [], None])
def test_answers_of_the_wrong_kind_are_refused(guest_peer: ScriptedGuest, answer: object) -> None:
    guest_peer.handlers["guest-exec"] = lambda _: answer
    client = QemuGuestAgent(guest_peer.path)
    assert code_of(lambda: client.execute("true")) == "agent.answer-invalid"


def test_many_threads_get_each_their_own_answer(peer: ScriptedAgent, agent: QemuGuestAgent) -> None:
    peer.handlers["guest-echo"] = lambda arguments: arguments["word"]
    wrong: list[object] = []

    def ask(name: int) -> None:
        for turn in range(30):
            word = f"{name}-{turn}"
            if agent.call("guest-echo", {"word": word}) != word:
                wrong.append(word)

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert peer.connections == 1


def test_an_agent_that_was_started_anew_has_forgotten_its_program(
    guest_peer: ScriptedGuest,
) -> None:
    def forgotten(_: object) -> None:
        raise RefusalError("Invalid parameter 'pid'")

    guest_peer.handlers["guest-exec-status"] = forgotten
    client = QemuGuestAgent(guest_peer.path)
    assert code_of(lambda: client.execute("python3", ["-V"])) == "agent.restarted"
