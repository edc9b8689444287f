"""Whatever a guest sends, the storage endpoint refuses it or does it: no 5xx, no hang.

    QUIESCE_FUZZ_SECONDS=600 QUIESCE_FUZZ_SEED=7 pytest -s tests/fuzz

Each test runs for that long (10 s), batch by batch; the seed of each batch can be given again.
"""

from __future__ import annotations

import base64
import contextlib
import os
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from xml.etree import ElementTree

import h11
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from storage_site import TAKEN_TEXT, PaperDisk, Site, running

from quiesce.model.extent import ExtentKind
from quiesce.storage.sas import signature

SECONDS = float(os.environ.get("QUIESCE_FUZZ_SECONDS", "5"))
FIRST_SEED = int(os.environ.get("QUIESCE_FUZZ_SEED", random.SystemRandom().randrange(10**9)))
SLOWEST_ANSWER_SECONDS = 5

TOKENS = [
    *("snapshot", "page", "pagelist", "metadata", "properties", "block", "blocklist", "lease"),
    *("GET", "HEAD", "PUT", "DELETE", "POST", "OPTIONS", "TRACE", "BREW"),
    *("BlockBlob", "PageBlob", "AppendBlob", "update", "clear", "*", "", "0", "1", "-1", "511"),
    *(
        "512",
        "1024",
        "18446744073709551616",
        "bytes=0-511",
        "bytes=512-1023",
        "bytes=9-",
        "chunked",
    ),
    *("..", "%2e%2e", "%00", "%0d%0a", "%ff", "é", "\t", TAKEN_TEXT, "true", "100-continue"),
    *("Sun, 22 Nov 2026 23:01:02 GMT", "2026-11-22", "text/xml; charset=utf-8", "gzip", "close"),
]
QUERY_NAMES = [
    *("comp", "snapshot", "prevsnapshot", "marker", "maxresults", "timeout", "versionid"),
    *("restype", "blockid", "rsct", "rscd", "sip", "spr", "st", "se", "sp", "sr", "sv", "sig", "x"),
]
HEADER_NAMES = [
    *("Range", "x-ms-range", "x-ms-blob-type", "x-ms-page-write", "x-ms-version", "x-ms-date"),
    *("x-ms-meta-a", "x-ms-meta-", "x-ms-meta-a-b", "x-ms-blob-content-length", "If-Match"),
    *("If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "Content-MD5", "Content-Type"),
    *("x-ms-blob-content-type", "x-ms-lease-id", "x-ms-client-request-id", "Authorization"),
    *("x-ms-content-crc64", "x-ms-structured-body", "Transfer-Encoding", "Expect", "Upgrade"),
    *("Connection", "Content-Length", "Accept-Encoding", "Cookie", "x-ms-if-tags"),
]

OPERATIONS: list[tuple[str, str, dict[str, str]]] = [
    ("GET", "", {}),
    ("GET", "", {"Range": "bytes=0-511"}),
    ("HEAD", "", {}),
    ("GET", "pagelist", {}),
    ("GET", "metadata", {}),
    ("PUT", "", {"x-ms-blob-type": "BlockBlob"}),
    ("PUT", "", {"x-ms-blob-type": "PageBlob", "x-ms-blob-content-length": "1024"}),
    ("PUT", "page", {"x-ms-page-write": "update", "x-ms-range": "bytes=0-511"}),
    ("PUT", "page", {"x-ms-page-write": "clear", "x-ms-range": "bytes=512-1023"}),
    ("PUT", "metadata", {"x-ms-meta-a": "1"}),
    ("PUT", "properties", {"x-ms-blob-content-length": "512"}),
    ("PUT", "snapshot", {}),
    ("DELETE", "", {}),
]

words = st.one_of(st.sampled_from(TOKENS), st.text(max_size=20), st.integers().map(str))
header_words = st.one_of(
    st.sampled_from([token for token in TOKENS if token.isascii() and token.isprintable()]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    patch = pytest.MonkeyPatch()
    for limit in ("_HEADER_SECONDS", "_LINGER_SECONDS", "_STALL_SECONDS"):
        patch.setattr(f"quiesce.storage.connection.{limit}", 1.0)
    patch.setattr("quiesce.storage.request._BODY_SECONDS", 1.0)
    folder: Path = tmp_path_factory.mktemp("storage")
    with running(folder) as site:
        yield site
    patch.undo()


@pytest.fixture(scope="module")
def targets(site: Site) -> Targets:
    return Targets(site)


class Targets:
    """The URLs of one VM with an open attempt whose snapshot is published, and its key."""

    def __init__(self, site: Site) -> None:
        door = site.open()
        assert site.take(door).status_code == 201
        disk = PaperDisk([ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.CLEAN])
        site.endpoint.publish("attempt-1", {"vda": disk})
        self.urls = [
            *(door.report_url, door.log_url, *door.snapshot_urls.values()),
            site.endpoint.status_url("web"),
            site.endpoint.read_url("attempt-1", "vda"),
        ]
        self.key = base64.b64decode((site.folder / "account.key").read_bytes())
        self.address = ("127.0.0.1", urlsplit(site.endpoint.endpoint.url).port or 0)
        self.tls = site.trusting()

    def connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection(self.address, timeout=SLOWEST_ANSWER_SECONDS)
        return self.tls.wrap_socket(plain, server_hostname="localhost")


def batches(check: Callable[[], None]) -> None:
    """Run `check`, a hypothesis test, with one seed after the other until the time is up."""
    end, number = time.monotonic() + SECONDS, FIRST_SEED
    while time.monotonic() < end:
        print(f"fuzzing the storage endpoint, QUIESCE_FUZZ_SEED={number}")
        seed(number)(check)()
        number += 1


fuzzing = settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)


def assert_fair(method: str, status: int, headers: dict[str, str], body: bytes) -> None:
    assert status < 500, (status, headers, body)
    if status >= 400:
        assert headers.get("x-ms-error-code"), (status, headers)
        if method != "HEAD":
            assert ElementTree.fromstring(body).findtext("Code") == headers["x-ms-error-code"]


def test_no_request_with_a_good_signature_gets_a_5xx_or_hangs(site: Site, targets: Targets) -> None:
    """Well-formed HTTP, signed anew after every change: what lies behind the signature."""

    @fuzzing
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        method, comp, headers = data.draw(st.sampled_from(OPERATIONS))
        url = urlsplit(data.draw(st.sampled_from(targets.urls)))
        query = dict(parse_qsl(url.query)) | {"sp": "racwd"} | ({"comp": comp} if comp else {})
        if data.draw(st.booleans()):
            query[data.draw(st.sampled_from(QUERY_NAMES))] = data.draw(words)
        container, blob = url.path.split("/", 3)[2:]
        if query.get("sv", "") and query.get("sr", ""):
            with contextlib.suppress(UnicodeEncodeError):
                query["sig"] = signature(targets.key, query, container, blob)
        for name in data.draw(st.lists(st.sampled_from(HEADER_NAMES), max_size=2, unique=True)):
            headers = headers | {name: data.draw(header_words)}
        bodies = st.sampled_from([b"", bytes(512), bytes(1024)]) | st.binary(max_size=1100)
        body = data.draw(bodies) if method == "PUT" and comp != "snapshot" else b""
        text = urlencode(query, quote_via=quote, safe="", errors="replace")
        answer = exchange(targets, method, f"{url.path}?{text}", headers, body)
        if answer is not None:
            assert_fair(method, *answer)

    batches(check)
    still_serves(site)


def exchange(
    targets: Targets, method: str, target: str, headers: dict[str, str], body: bytes
) -> tuple[int, dict[str, str], bytes] | None:
    """The final answer, by a client that speaks HTTP exactly; None when the request cannot be
    written down, or when the server said that it ends the connection."""
    client = h11.Connection(h11.CLIENT)
    fields = [("Host", "h"), ("Connection", "close"), ("Content-Length", str(len(body)))]
    own = {"content-length", "transfer-encoding", "connection"}
    fields += [(name, text) for name, text in headers.items() if name.lower() not in own]
    try:
        sent = client.send(h11.Request(method=method, target=target, headers=encoded(fields)))
        sent = (sent or b"") + (client.send(h11.Data(data=body)) or b"")
        sent += client.send(h11.EndOfMessage()) or b""
    except h11.LocalProtocolError:
        return None
    status, named, content = 0, {}, b""
    with targets.connect() as connection:
        connection.sendall(sent)
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                client.receive_data(connection.recv(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
                named = {k.decode(): v.decode("latin-1") for k, v in event.headers}
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, named, content


def encoded(fields: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), text.encode("latin-1").strip()) for name, text in fields]


def test_no_bytes_at_all_get_a_5xx_or_hang(site: Site, targets: Targets) -> None:
    """Broken HTTP: good requests with pieces cut out, doubled, flipped and swapped."""

    @fuzzing
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        request = bytearray()
        for _ in range(data.draw(st.integers(1, 2))):
            request += good_request(data, targets)
        for _ in range(data.draw(st.integers(0, 6))):
            mutate(data, request)
        ends_twice = data.draw(st.booleans())  # before the network has a say in what is drawn
        with targets.connect() as connection:
            began = time.monotonic()
            answer = b""
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                connection.sendall(request)
                connection.settimeout(SLOWEST_ANSWER_SECONDS)
                if ends_twice:
                    connection.sendall(b"\r\n\r\n")
                while piece := received(connection):
                    answer += piece
            assert time.monotonic() - began < SLOWEST_ANSWER_SECONDS + 1
        assert b"HTTP/1.1 5" not in answer, (bytes(request), answer)

    batches(check)
    still_serves(site)


def received(connection: ssl.SSLSocket) -> bytes:
    """More of the answer; nothing once a keep-alive connection has fallen silent."""
    connection.settimeout(0.1)
    try:
        return connection.recv(65536)
    except TimeoutError:
        return b""


def good_request(data: st.DataObject, targets: Targets) -> bytes:
    url = urlsplit(data.draw(st.sampled_from(targets.urls)))
    comp = data.draw(st.sampled_from(["", "&comp=snapshot", "&comp=metadata", "&comp=page"]))
    method = data.draw(st.sampled_from(["GET", "PUT", "HEAD"]))
    body = data.draw(st.sampled_from([b"", b"{}", bytes(512)])) if method == "PUT" else b""
    name, word = data.draw(st.sampled_from(HEADER_NAMES)), data.draw(header_words)
    head = (
        f"{method} {url.path}?{url.query}{comp} HTTP/1.1\r\nHost: h\r\n"
        f"x-ms-blob-type: BlockBlob\r\n{name}: {word}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1", "replace") + body


def mutate(data: st.DataObject, request: bytearray) -> None:
    at = data.draw(st.integers(0, len(request)))
    length = data.draw(st.integers(0, 30))
    what = data.draw(st.sampled_from(["cut", "double", "flip", "insert", "token", "swap"]))
    if what == "cut":
        del request[at : at + length]
    elif what == "double":
        request[at:at] = request[at : at + length]
    elif what == "flip" and at < len(request):
        request[at] ^= 1 << data.draw(st.integers(0, 7))
    elif what == "insert":
        request[at:at] = data.draw(st.binary(max_size=20))
    elif what == "token":
        request[at:at] = data.draw(st.sampled_from(TOKENS)).encode()
    elif what == "swap":
        head = request[:at]
        request[:] = request[at:] + head


def still_serves(site: Site) -> None:
    fresh = f"after-{datetime.now(UTC).timestamp()}"
    began = time.monotonic()
    assert site.take(site.open(fresh, vm="other")).headers["x-ms-snapshot"] == TAKEN_TEXT
    assert time.monotonic() - began < SLOWEST_ANSWER_SECONDS
