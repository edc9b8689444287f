from __future__ import annotations

import contextlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiesce.agent import framing
from quiesce.model.failure import AgentFailure

LINES = st.lists(
    st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"").replace(b"\xff", b""))
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def taken(frames: framing.Frames, pieces: list[bytes]) -> list[bytes]:
    found = []
    for piece in pieces:
        frames.feed(piece)
        while (frame := frames.next()) is not None:
            found.append(frame)
    return found


@given(lines=LINES, places=st.lists(st.integers(min_value=0)))
def test_frames_are_the_same_however_the_stream_is_cut(
    lines: list[bytes], places: list[int]
) -> None:
    wire = b"".join(line + b"\n" for line in lines)
    assert taken(framing.Frames(), cut(wire, places)) == lines


@given(
    rubbish=st.binary(max_size=200).map(lambda raw: raw.replace(framing.SENTINEL, b"")),
    lines=LINES,
    places=st.lists(st.integers(min_value=0)),
)
def test_after_forgetting_only_what_follows_the_sentinel_is_heard(
    rubbish: bytes, lines: list[bytes], places: list[int]
) -> None:
    frames = framing.Frames()
    frames.feed(b"half an answ")
    frames.forget()
    wire = rubbish + framing.SENTINEL + b"".join(line + b"\n" for line in lines)
    assert taken(frames, cut(wire, places)) == lines


def test_a_sentinel_ends_an_answer_that_never_came_to_its_end() -> None:
    frames = framing.Frames()
    frames.feed(b'{"return": {"half\xff{"return": 7}\n')
    assert frames.next() == b'{"return": 7}'


def test_an_endless_answer_is_refused_at_the_limit() -> None:
    frames = framing.Frames(max_frame_bytes=100)
    frames.feed(b"x" * 100)
    assert frames.next() is None
    frames.feed(b"x")
    with pytest.raises(AgentFailure) as caught:
        frames.next()
    assert caught.value.code == "agent.answer-too-long"


@given(st.binary(max_size=300))
def test_no_bytes_whatever_crash_the_reader_of_answers(frame: bytes) -> None:
    with contextlib.suppress(AgentFailure):
        answer = framing.answer(frame)
        assert ("return" in answer) != ("error" in answer)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"return": 1, "error": {}}',
        b"[" * 100_000,
        b'{"return": ' + b"9" * 10_000 + b"}",
        b'{"return": "\xc3"}',
    ],
    ids=["empty", "null", "list", "neither", "both", "deep", "huge number", "broken UTF-8"],
)
def test_an_answer_that_breaks_the_protocol_is_named_so(frame: bytes) -> None:
    with pytest.raises(AgentFailure) as caught:
        framing.answer(frame)
    assert caught.value.code == "agent.answer-invalid"
    assert len(caught.value.evidence[0].raw) < 2000


@given(st.text())
def test_words_of_the_guest_cannot_steer_a_terminal(text: str) -> None:
    shown = framing.printable(text)
    assert all(char.isprintable() or char in "\n\t" for char in shown)


@given(st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.booleans()))
def test_a_request_is_one_line_that_says_the_same(
    command: str, arguments: dict[str, object]
) -> None:
    wire = framing.request(command, arguments)
    assert wire.endswith(b"\n")
    assert wire.count(b"\n") == 1
    assert framing.SENTINEL not in wire
    assert json.loads(wire) == {"execute": command, "arguments": arguments}
