"""What commands say of themselves, and of a command line that they do not understand."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from quiesce.cli.main import run


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """On both outputs, its lines joined."""
    assert run(words) == code
    told = capsys.readouterr()
    return " ".join((told.out + told.err).split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("vault", "gc", "--help"), "deleted by a collection a day later at the earliest."),
        (("vault", "copy", "-h"), "a point that is deleted here later stays there."),
        (("vault", "key", "remove", "--help"), "It still opens copies of the vault"),
        (("doctor", "--help"), "Nothing is changed without --fix."),
        (("vault", "restore", "--help"), "Its id, as `vault points` lists it"),
    ],
)
def test_help_says_all_that_is_to_be_said_of_a_command(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in said(capsys, *words)


def test_lists_of_commands_say_one_line_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    listed = said(capsys, "vault", "--help")
    assert "Free the space of what no point needs" in listed
    assert "a collection a day later" not in listed
    assert "Back a VM up now. │" in said(capsys, "--help")


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("vault", "verify", "--nonsense"), "vault verify "),
        (("vault", "key", "add"), "vault key add "),
        (("vault", "lock", "--at", "somewhere", "--lower"), "vault lock "),
        (("vault", "verfy"), "vault "),
        (("nonsense",), ""),
    ],
)
def test_a_command_line_that_is_not_understood_leads_to_the_help_of_its_command(
    words: tuple[str, ...], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"See `quiesce {command}--help`." in said(capsys, *words, code=2)


def test_times_of_a_failure_are_written_as_the_api_writes_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["vault", "points", "--at", "/nowhere/at/all", "--json"]) != 0
    evidence = json.loads(capsys.readouterr().out)["evidence"][0]
    assert evidence["observed_at"].endswith("Z")
    assert "T" in evidence["observed_at"]
    assert datetime.fromisoformat(evidence["observed_at"]).tzinfo is not None
