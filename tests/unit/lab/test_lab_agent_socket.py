"""Programs that the lab runs in a guest, through the socket of one of its agents."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_agent import ScriptedGuest, failure_from

from quiesce.lab.agent_socket import agent_at, output_of


@pytest.fixture
def peer() -> Iterator[ScriptedGuest]:
    with tempfile.TemporaryDirectory(prefix="qa-") as folder:
        guest = ScriptedGuest(Path(folder) / "qga.sock")
        yield guest
        guest.close()


def test_a_string_is_run_by_sh_and_a_list_as_it_is(peer: ScriptedGuest) -> None:
    peer.run = lambda *_: (0, b"caf\xc3\xa9 \xff", b"")
    assert output_of(peer.path, "echo $X", seconds=9) == "café �"
    output_of(peer.path, ["ls", "a b"], seconds=9)
    assert peer.ran == [["/bin/sh", "-c", "echo $X"], ["ls", "a b"]]


def test_a_program_that_fails_is_shown_with_its_words_and_its_line_is_cut(
    peer: ScriptedGuest,
) -> None:
    peer.run = lambda *_: (3, b"", b"no such thing")
    failure = failure_from(lambda: output_of(peer.path, ["ls", "x" * 9000], seconds=9))
    assert failure.code == "lab.command-failed"
    assert "ls xxx" in failure.message
    assert len(failure.message) < 500
    assert failure.evidence[0].raw == "no such thing"


def test_the_channel_is_free_afterwards_also_after_a_refusal(peer: ScriptedGuest) -> None:
    with agent_at(peer.path) as agent:
        agent.sync()
        assert failure_from(agent.call, "guest-nothing").code
    assert peer.hung_up.acquire(timeout=10)
    assert output_of(peer.path, "true", seconds=9) == "{}"
