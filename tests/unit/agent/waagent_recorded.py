"""Recorded requests of a stock agent (see waagent_requests/README.md), ready to be sent."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "waagent_requests"
_LENGTH = re.compile(rb"Content-Length: \d+", re.IGNORECASE)


@dataclass(frozen=True)
class Recorded:
    name: str
    port: int
    template: bytes

    def filled(self, container: str, incarnation: int, token: str) -> bytes:
        """The request's bytes for one VM."""
        places = {"CONTAINER": container, "INCARNATION": str(incarnation), "TOKEN": token}
        raw = self.template
        for place, value in places.items():
            raw = raw.replace(b"{" + place.encode() + b"}", value.encode())
        head, gap, body = raw.partition(b"\r\n\r\n")
        return _LENGTH.sub(b"Content-Length: %d" % len(body), head) + gap + body


def recorded() -> dict[str, Recorded]:
    found = {}
    for path in sorted(_FOLDER.glob("*.http")):
        name, port, _ = path.name.split(".")
        found[name] = Recorded(name, int(port), path.read_bytes())
    return found


def send(source: str, port: int, raw: bytes, *, seconds: float = 10) -> tuple[int, bytes]:
    """Status and body of the answer to one raw request from that loopback address; 0 when the
    connection was closed without one."""
    with socket.create_connection(
        ("127.0.0.1", port), timeout=seconds, source_address=(source, 0)
    ) as connection:
        answer = b""
        try:
            connection.sendall(raw)
            while chunk := connection.recv(65536):
                answer += chunk
        except ConnectionError:
            pass
    head, _, body = answer.partition(b"\r\n\r\n")
    return (int(head.split(b" ", 2)[1]) if head else 0), body
