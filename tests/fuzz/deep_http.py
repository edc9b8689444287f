"""Requests to the server's applications, without a server between.

HTTP inputs are requests as they go over the wire, several with a line of `====` between them. Their
framing is mended before the application sees them, since broken framing ends in the HTTP servers,
which the tests beside this file attack.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import h11
import httptools

Target = Callable[[bytes], None]

BETWEEN = b"\n====\n"
_REQUESTS_PER_INPUT = 4
VM, PEER, ATTEMPT = "web", "127.0.0.11", "attempt"
_HEADER_NAME = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(rb"[\x21-\xff](?:[\x21-\xff \t]*[\x21-\xff])?|")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_METHOD = re.compile(rb"[A-Z]{1,20}")
_FRAMING = (b"content-length", b"transfer-encoding", b"connection", b"expect")


@dataclass(frozen=True)
class Answer:
    method: str
    status: int
    headers: Mapping[str, str]
    body: bytes


class HereAndNow(ThreadPoolExecutor):
    """Runs what it is given in the thread that gives it, so that an input's course is its own."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **named))
        except Exception as error:  # noqa: BLE001 - handed over
            future.set_exception(error)
        return future


def event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_default_executor(HereAndNow(1))
    return loop


def scope_of(raw: bytes, scheme: str) -> tuple[dict[str, Any], bytes] | None:
    """The request as an HTTP server hands it to an application; None when it would refuse it."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, _, rest = first.partition(b" ")
    target = rest.partition(b" ")[0]
    if not _METHOD.fullmatch(method) or not _TARGET.fullmatch(target):
        return None
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        return None
    if url.path is None:
        return None
    headers = []
    for line in lines[:100]:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        known = _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)
        if known and name not in _FRAMING:
            headers.append((name, value))
    headers.append((b"content-length", str(len(body)).encode()))
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": method.decode(),
        "scheme": scheme,
        "path": unquote(url.path.decode("ascii")),
        "raw_path": url.path,
        "query_string": url.query or b"",
        "root_path": "",
        "headers": headers,
        "client": (PEER, 40000),
        "server": ("127.0.0.1", 80),
    }
    return scope, body


async def answered(app: Any, scope: dict[str, Any], body: bytes) -> Answer:
    half = len(body) // 2
    pieces = [
        {"type": "http.request", "body": body[:half], "more_body": True},
        {"type": "http.request", "body": body[half:], "more_body": False},
    ]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if not pieces:
            await asyncio.Event().wait()  # the peer waits for its answer
        return pieces.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert sent, "no answer at all"
    begin, *rest = sent
    assert not rest[-1].get("more_body"), "an answer without an end"
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in begin["headers"]}
    # h11 refuses what would break out of a header, as the server does: a 500 for the peer.
    h11.Response(status_code=begin["status"], headers=begin["headers"])
    content = b"".join(message.get("body", b"") for message in rest)
    return Answer(scope["method"], begin["status"], headers, content)


def assert_fair(answer: Answer) -> None:
    assert answer.status < 500 or answer.status == 503, answer
    length = answer.headers.get("content-length")
    if length is not None and answer.method != "HEAD":
        assert int(length) == len(answer.body), answer


def requests_of(data: bytes) -> list[bytes]:
    return data.split(BETWEEN)[:_REQUESTS_PER_INPUT]
