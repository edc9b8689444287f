"""The storage endpoint as a client sees it: one connection, requests prepared beforehand.

Blob REST with SAS URLs, which are secrets: no message and no log here shows more of a URL than its
origin. Source of the error bodies: "Status and error codes", Azure Blob service REST API.
"""

import http.client
import re
import socket
import ssl
import time
from typing import Dict, List, NamedTuple, Optional
from urllib.parse import urlsplit

from .dial import (
    USER_AGENT,
    Address,
    Bounded,
    Way,
    connect,
    headers_of,
    proxy_refusal,
    resolve,
    secure,
    send,
    tls_context,
    tunnel,
)
from .failure import Fact, Failure
from .mounts import printable
from .proxy import origin_of

_LARGEST_ANSWER_BYTES = 64 * 1024
_XML = {name: re.compile("<{0}>([^<]*)</{0}>".format(name)) for name in ("Code", "Message")}
_COUNT_WORDS = "snapshot count against this blob has been exceeded"
_RATE_WORDS = "rate of snapshot blob calls is exceeded"


class Answer(NamedTuple):
    """Names of headers in lower case; at most 64 KiB of the body."""

    status: int
    reason: str
    headers: Dict[str, str]
    body: bytes


class Connection:
    """One connection to the storage endpoint. Not thread-safe."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._tls = tls_context(way.ca_pem) if way.origin.scheme == "https" else None
        self._addresses: List[Address] = []
        self._sock: Optional[socket.socket] = None

    def open(self, until: float) -> None:
        """Resolve, connect, and speak TLS; the next time without resolving again.

        :raise Failure: network.*
        """
        self.close()
        if not self._addresses:
            self._addresses = resolve(*self._way.first_stop, until=until)
        sock = connect(self._addresses, until, self._way.proxy)
        if self._tls is not None:
            if self._way.proxy is not None:
                try:
                    tunnel(sock, self._way.origin, self._way.proxy, until)
                except Failure:
                    sock.close()
                    raise
            sock = secure(sock, self._way.origin, self._tls, until)
        self._sock = sock

    def stands(self) -> bool:
        """Whether the other side has not closed it, as far as can be seen without asking."""
        if self._sock is None:
            return False
        self._sock.settimeout(0)
        try:
            self._sock.recv(1)  # end of file, or bytes that nobody asked for
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def exchange(self, request: bytes, until: float) -> Answer:
        """Send what `prepare` made and read the answer, all by `until`.

        :raise Failure: storage.no-answer at the deadline, network.connection-lost
        """
        sock = self._sock
        if sock is None:
            raise _lost(self._way, "the connection is closed")
        answer = http.client.HTTPResponse(
            Bounded(sock, until),  # type: ignore[arg-type]
            method=request.partition(b" ")[0].decode("ascii"),
        )
        began = time.monotonic()
        try:
            send(sock, request, until)
            answer.begin()
            body = answer.read(_LARGEST_ANSWER_BYTES)
        except socket.timeout as error:
            self.close()
            raise Failure(
                "storage.no-answer",
                "The storage endpoint took the request and did not answer within {:.1f} s.".format(
                    time.monotonic() - began
                ),
                [Fact("no answer from {}".format(self._way), "guest")],
                retryable=True,
            ) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.close()
            raise _lost(self._way, printable((str(error) or repr(error))[:1000])) from error
        if answer.will_close or not answer.isclosed():
            self.close()
        return Answer(answer.status, answer.reason, headers_of(answer), body)


def prepare(
    way: Way, method: str, url: str, headers: Optional[Dict[str, str]] = None, body: bytes = b""
) -> bytes:
    """A whole request for `url`, which must lie at the way's origin: it is a secret of that host,
    and the way's certificate is trusted for no other.

    :raise Failure: extension.settings-invalid
    """
    if origin_of(url) != way.origin:
        raise Failure(
            "extension.settings-invalid",
            "A URL that the server sent does not belong to its storage endpoint.",
            [Fact("it leads to {}, not to {}".format(origin_of(url), way.origin), "settings")],
        )
    parts = urlsplit(url)
    target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
    lines = ["Host: " + way.origin.authority, "User-Agent: " + USER_AGENT]
    if way.proxy is not None and way.origin.scheme == "http":
        target = "http://" + way.origin.authority + target
        lines += ["Proxy-Authorization: " + way.proxy.authorization] * bool(way.proxy.authorization)
    lines += ["{}: {}".format(name, value) for name, value in (headers or {}).items()]
    lines += ["Content-Length: {}".format(len(body))] * (method != "GET")
    head = ["{} {} HTTP/1.1".format(method, target)] + lines + ["", ""]
    return "\r\n".join(head).encode("ascii") + body


def require_success(answer: Answer, way: Way) -> None:
    """:raise Failure: storage.* by the endpoint's own words, or network.proxy-* when a proxy of
    plain http answered in its place"""
    if 200 <= answer.status < 300:
        return
    text = answer.body.decode("utf-8", "replace")
    code = _element("Code", text) or printable(answer.headers.get("x-ms-error-code", "")[:200])
    if not code and way.proxy is not None and way.origin.scheme == "http":
        raise proxy_refusal(way.proxy, way.origin, answer.status, answer.reason)
    said = "{} {} {}".format(answer.status, printable(answer.reason[:200]), code).rstrip()
    facts = [
        Fact("{} answered {}".format(way.origin, said), "storage endpoint", printable(text[:4000]))
    ]
    message = _element("Message", text)
    sentence = "The storage endpoint refused the request: {}.".format(said)
    if code == "SnapshotCountExceeded" or _COUNT_WORDS in text:
        raise Failure("storage.snapshot-limit", message or sentence, facts)
    if "OperationRateExceeded" in code or _RATE_WORDS in text or answer.status == 429:
        raise Failure("storage.rate-limit", message or sentence, facts, retryable=True)
    if answer.status in (401, 403):
        sentence = "The storage endpoint does not accept the guest's permission: {}.".format(said)
        raise Failure("storage.auth-failed", sentence, facts, retryable=True)
    raise Failure("storage.endpoint-refused", sentence, facts, retryable=answer.status >= 500)


def _element(name: str, text: str) -> str:
    """Looked up as text: a parser would be one more thing that an answer could fool."""
    found = _XML[name].search(text)
    return printable(found.group(1).strip()[:2000]) if found else ""


def _lost(way: Way, raw: str) -> Failure:
    return Failure(
        "network.connection-lost",
        "The connection to the storage endpoint broke before it had answered.",
        [Fact("connection to {}: {}".format(way, raw), "guest", raw)],
        retryable=True,
    )
