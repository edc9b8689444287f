"""Frames of the QEMU guest agent's protocol: one JSON object per line, either way.

After `guest-sync-delimited` the agent puts the byte 0xFF in front of its answer. 0xFF occurs in
no UTF-8 text, so everything before it is rubbish of earlier calls and can be dropped unread; the
same byte in front of a request makes the agent's own parser forget what it had half read.
Source: QEMU docs/interop/qemu-ga-ref, "guest-sync-delimited".

The guest is not trusted: a frame is bounded in size and nesting before anything looks at it.
"""

from __future__ import annotations

import json

from quiesce.model.failure import AgentFailure, Evidence

SENTINEL = b"\xff"
MAX_FRAME_BYTES = 24 << 20
"""The agent hands over at most 16 MiB of a program's output (qga/commands.c), in base64 a third
more, and 2 MiB are left for the rest; no honest answer is longer."""
_QUOTED_BYTES = 400


class Frames:
    """Cuts a byte stream into frames. `feed` what arrived, take frames until None.

    Not thread-safe. Holds at most `max_frame_bytes` plus one feed.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max = max_frame_bytes
        self._buffer = bytearray()
        self._scanned = 0
        self._awaits_sentinel = False

    def forget(self) -> None:
        """Drop everything up to the next sentinel, arrived or still to come."""
        self._buffer.clear()
        self._scanned = 0
        self._awaits_sentinel = True

    def feed(self, data: bytes) -> None:
        self._buffer += data

    @property
    def pending(self) -> bool:
        """Whether anything arrived that was not taken as a frame."""
        return bool(self._buffer)

    def next(self) -> bytes | None:
        """The next whole frame without its line end, or None until more has arrived.

        :raise AgentFailure: agent.answer-too-long
        """
        # A sentinel inside what looks like a frame means that the part before it never ended.
        last = self._buffer.find(SENTINEL, self._scanned)
        end = self._buffer.find(b"\n", self._scanned)
        while last >= 0 and (self._awaits_sentinel or end < 0 or last < end):
            del self._buffer[: last + 1]
            self._awaits_sentinel = False
            self._scanned = 0
            last = self._buffer.find(SENTINEL)
            end = self._buffer.find(b"\n")
        if self._awaits_sentinel:
            self._buffer.clear()
            self._scanned = 0
            return None
        if max(end, len(self._buffer) if end < 0 else 0) > self._max:
            raise AgentFailure(
                "agent.answer-too-long",
                f"The guest agent sent more than {self._max} bytes as one answer.",
                evidence=[
                    Evidence(
                        fact="answer without an end",
                        source="guest agent channel",
                        raw=quoted(bytes(self._buffer[:_QUOTED_BYTES])),
                    )
                ],
            )
        if end < 0:
            self._scanned = len(self._buffer)
            return None
        frame = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._scanned = 0
        return frame


def request(command: str, arguments: dict[str, object] | None) -> bytes:
    """One request as it goes over the wire."""
    message: dict[str, object] = {"execute": command}
    if arguments is not None:
        message["arguments"] = arguments
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def answer(frame: bytes) -> dict[str, object]:
    """The JSON object in a frame: exactly one that has `return` or `error`.

    :raise AgentFailure: agent.answer-invalid
    """
    try:
        value: object = json.loads(frame)
    except (ValueError, RecursionError) as inner:
        raise invalid("is not JSON", frame) from inner
    if not isinstance(value, dict) or ("return" in value) == ("error" in value):
        raise invalid("is neither a return nor an error", frame)
    return value


def invalid(what: str, frame: bytes) -> AgentFailure:
    return AgentFailure(
        "agent.answer-invalid",
        f"An answer of the guest agent {what}.",
        evidence=[
            Evidence(
                fact=f"an answer of {len(frame)} bytes {what}",
                source="guest agent channel",
                raw=quoted(frame),
            )
        ],
    )


def quoted(raw: bytes) -> str:
    """The first bytes of something unexpected, safe to print on a terminal."""
    return printable(raw[:_QUOTED_BYTES].decode("utf-8", "backslashreplace"))


def printable(text: str, limit: int = 4000) -> str:
    """Words from the guest, made safe to print and to store: no terminal escapes, bounded."""
    kept = text if len(text) <= limit else text[:limit] + "…"
    return "".join(
        char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in kept
    )
