"""The papers of this very machine."""

from __future__ import annotations

import os

import pytest

from quiesce.diagnosis import here
from quiesce.diagnosis.here import papers_here
from quiesce.model.failure import AgentFailure

EMPTY_BUT_FOR_THE_SYSTEM = b"""
printf '#%s command uname 0\\nLinux x\\n' "$1"
for name in journal extension quiesce certificate freezers; do
    printf '#%s command %s 1\\n\\n' "$1" "$name"
done
printf '#%s command space 1\\n\\n#%s end 1795400000\\n' "$1" "$1"
"""


def put(monkeypatch: pytest.MonkeyPatch, script: bytes, *, uid: int = 0) -> None:
    monkeypatch.setattr(here, "script", lambda: script)
    monkeypatch.setattr(os, "geteuid", lambda: uid)


def test_the_collector_runs_on_this_machine() -> None:
    papers = papers_here()
    assert papers.source.endswith("(this machine)")
    uname = papers.command("uname")
    assert uname is not None
    assert os.uname().release in uname.text
    assert papers.taken_at is not None
    assert papers.host_clock_at is not None


def test_what_a_mere_user_cannot_see_is_not_said_to_be_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(monkeypatch, EMPTY_BUT_FOR_THE_SYSTEM, uid=1000)
    papers = papers_here()
    assert [paper.path for paper in papers.papers] == ["command:uname", "command:space"]
    assert "run it with sudo" in papers.warnings[-1]
    put(monkeypatch, EMPTY_BUT_FOR_THE_SYSTEM)
    assert len(papers_here().papers) == 7
    assert papers_here().warnings == ()


def test_a_collection_that_prints_nothing_is_a_failure_with_its_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(monkeypatch, b"echo no such thing >&2; exit 3")
    with pytest.raises(AgentFailure) as caught:
        papers_here()
    assert caught.value.code == "agent.command-failed"
    assert caught.value.evidence[0].fact == "exit status 3"
    assert "no such thing" in caught.value.evidence[0].raw


def test_a_collection_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, b"exec sleep 60")
    monkeypatch.setattr(here, "_SECONDS", 0.1)
    with pytest.raises(AgentFailure) as caught:
        papers_here()
    assert caught.value.code == "agent.exec-timeout"
