"""What stands on the screen, and what a pipe gets."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from quiesce.cli import screen
from quiesce.cli.point import show_points
from quiesce.model.failure import Evidence, FailureReport

COMMAND = "quiesce vault verify --at /srv/backup/a/long/way/down --key-file /root/keys/vault.key"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Console:
    """A terminal of 60 columns."""
    console = Console(file=io.StringIO(), width=60, force_terminal=True, no_color=True)
    monkeypatch.setattr(screen, "out", console)
    return console


def written(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_pipe_gets_lines_that_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    words = "so many words that no terminal of eighty columns shows them on one line, " * 3
    screen.say(words)
    screen.table(("what", "why"), [("a", words)])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert words.strip() in lines
    assert f"a      {words.strip()}" in lines


def test_a_pipe_gets_no_blanks_at_the_ends_of_lines(capsys: pytest.CaptureFixture[str]) -> None:
    screen.table(("what", "why"), [("a", "long words"), ("b", "short")])
    screen.facts([("name", "a long value"), ("other", "short")])
    screen.show_evidence([Evidence("a long fact", "a long place"), Evidence("fact", "place")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 7
    assert [line for line in lines if line != line.rstrip()] == []


def test_a_command_that_is_longer_than_the_terminal_has_a_line_of_its_own(
    narrow: Console,
) -> None:
    screen.advise(f"To go on: `{COMMAND}` when there is time.")
    assert written(narrow) == ["To go on: ", f"`{COMMAND}` ", "when there is time."]


def test_the_time_of_a_point_stays_on_one_line(narrow: Console) -> None:
    label = {"level": "file-system", "reason": ""}
    disk = {"size_bytes": 1 << 30, "stored_bytes": 1 << 29}
    points = [
        {
            "id": "0123456789abcdef",
            "vm": "a-machine-with-a-long-name",
            "taken_at": "2026-03-01T02:30:00+00:00",
            "consistency": label,
            "disks": [disk],
        }
    ]
    show_points(points, {"points": []})
    assert any(screen.when(points[0]["taken_at"]) in line for line in written(narrow))


def test_what_an_inner_failure_repeats_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    inner = FailureReport("vault.pack-missing", "Gone.", (Evidence("missing", "packs/ab/cd"),))
    outer = FailureReport("vault.pack-missing", "The disk.", inner.evidence, cause=inner)
    screen.show_causes(outer, screen.out)
    said = capsys.readouterr().out
    assert said.count("packs/ab/cd") == 1
    assert "because: Gone." in said
