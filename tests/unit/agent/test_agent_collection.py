"""What a guest's collector printed, taken as papers: honest, cut off, forged and senseless."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiesce.agent.collection import WINDOWS, mender, new_token, parse, script

TOKEN = "0123456789abcdef" * 2
MARK = f"#{TOKEN} ".encode()


def printed(*pieces: bytes) -> bytes:
    return b"".join(MARK + piece for piece in pieces)


def test_files_and_outputs_become_papers() -> None:
    raw = printed(
        b"command date 0\n1700000000\n\n",
        b"file 30 640 7 1700000001 /var/log/a b.log\nline\n\nlast without end\n",
        b"missing /etc/x No such file or directory\n",
        b"file 0 444 0 1700000001 /proc/loadavg\n0.1\n\n",
        b"command units 127\nsystemctl: not found\n\n",
        b"end 1700000002\n",
    )
    papers = parse(raw, TOKEN, "the guest, through qga")
    assert papers.warnings == ()
    assert papers.source == "the guest, through qga"
    assert papers.taken_at == datetime.fromtimestamp(1700000002, UTC)
    assert papers.host_clock_at is not None
    date, log, missing, load, units = papers.papers
    assert (date.path, date.text, date.status) == ("command:date", "1700000000\n", 0)
    assert (log.path, log.text) == ("/var/log/a b.log", "line\n\nlast without end")
    assert (log.size_bytes, log.mode, log.owner) == (30, 0o640, 7)
    assert log.modified_at == datetime.fromtimestamp(1700000001, UTC)
    assert not log.cut
    assert (missing.path, missing.problem, missing.text) == (
        *("/etc/x", "No such file or directory"),
        "",
    )
    assert (load.text, load.size_bytes) == ("0.1\n", 4)
    assert (units.status, units.text) == (127, "systemctl: not found\n")


def test_the_end_of_a_long_file_is_marked_as_such() -> None:
    raw = printed(b"file 5000000 644 0 1 /var/log/waagent.log\nthe end\n", b"end 2\n")
    (log,) = parse(raw, TOKEN, "x").papers
    assert log.cut
    assert log.size_bytes == 5000000


@pytest.mark.parametrize("kept", [10, 40, 60, 100])
def test_what_was_cut_off_is_kept_up_to_there_and_said_so(kept: int) -> None:
    whole = printed(b"command date 0\n1700000000\n\n", b"command uname 0\nLinux\n\n", b"end 3\n")
    papers = parse(whole[: len(whole) - kept], TOKEN, "x")
    assert "cut off" in papers.warnings[-1]
    if papers.command("date") is not None and kept < 100:
        assert papers.taken_at == datetime.fromtimestamp(1700000000, UTC)


def test_what_others_forge_is_only_text() -> None:
    forged = b"#" + b"0" * 32 + b" end 1\n x" + MARK + b"end 1\n"
    raw = printed(b"file 99 644 0 1 /var/log/x\n" + forged + b"\n", b"end 5\n")
    papers = parse(raw, TOKEN, "x")
    (log,) = papers.papers
    assert log.text.startswith("#" + "0" * 32 + " end 1\n x#" + TOKEN)
    assert papers.taken_at == datetime.fromtimestamp(5, UTC)


def test_terminal_escapes_and_wrong_encodings_are_spelt_out() -> None:
    raw = printed(b"command uname 0\n\x1b[2J\xff\x00 \xc3\xa9 \xe2\x80\xae\r\n\n", b"end 5\n")
    (uname,) = parse(raw, TOKEN, "x").papers
    assert uname.text == "\\x1b[2J\\xff\\x00 é \\x202e\n"


def test_the_first_of_two_papers_of_one_name_counts() -> None:
    raw = printed(b"command x 0\nfirst\n", b"command x 0\nsecond\n", b"end 5\n")
    (paper,) = parse(raw, TOKEN, "x").papers
    assert paper.text == "first"


@pytest.mark.parametrize(
    "header",
    [
        *(b"file", b"file x", b"command", b"command x", b"missing", b"odd 1 2", b""),
        b"command a b c",
    ],
)
def test_a_header_that_is_none_is_a_warning(header: bytes) -> None:
    papers = parse(printed(header + b"\nx\n", b"end 5\n"), TOKEN, "x")
    assert papers.papers == ()
    assert len(papers.warnings) == 1


def test_numbers_beyond_sense_are_unknown() -> None:
    huge = b"9" * 18
    raw = printed(b"file " + huge + b" 9999999 -1 " + huge + b" /x\ny\n", b"end " + huge + b"\n")
    papers = parse(raw, TOKEN, "x")
    (paper,) = papers.papers
    assert (paper.mode, paper.modified_at, papers.taken_at) == (None, None, None)


def test_too_much_is_read_to_a_bound() -> None:
    many = printed(*(f"missing /{number} gone\n".encode() for number in range(3000)))
    papers = parse(many, TOKEN, "x")
    assert len(papers.papers) == 1000
    long = printed(b"file 1 644 0 1 /x\n" + b"x" * (9 << 20))
    papers = parse(long, TOKEN, "x")
    assert len(papers.papers[0].text) < 9 << 20
    assert "Only the first" in papers.warnings[0]


@given(st.binary(max_size=400), st.lists(st.binary(max_size=80), max_size=6))
def test_nothing_that_a_guest_prints_is_an_error(before: bytes, pieces: list[bytes]) -> None:
    papers = parse(before + b"\n" + printed(*(piece + b"\n" for piece in pieces)), TOKEN, "x")
    for paper in papers.papers:
        assert all(char.isprintable() or char in "\n\t" for char in paper.text)
        assert paper.path.isprintable()


@given(st.binary(max_size=3000))
def test_a_files_text_comes_back(content: bytes) -> None:
    text = content.decode("latin-1").encode("ascii", "ignore").replace(b"\r", b"")
    raw = printed(b"file 1 644 0 1 /x\n" + text + b"\n", b"end 5\n")
    (paper,) = parse(raw, TOKEN, "x").papers
    plain = "".join(
        c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text.decode()
    )
    assert paper.text == plain


def test_each_system_has_its_scripts() -> None:
    assert script().startswith(b"#!/bin/sh\n")
    assert mender("debian").endswith(b"\nexit\n")
    assert b"param(" in script(WINDOWS)
    assert b"param(" in mender(WINDOWS)


def test_a_token_is_never_the_same() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) == 32 for token in tokens)
