"""Guests that are slow, greedy or broken: they are cut off, and nobody else notices."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
from storage_site import MIB, Site, running

from quiesce.model.extent import ExtentKind
from quiesce.storage.connection import IDLE_SECONDS
from quiesce.storage.crowd import Crowd

CONNECTION = "quiesce.storage.connection"
LISTENER = "quiesce.storage.listener"


def plain(site: Site, source: str = "127.0.0.1") -> socket.socket:
    port = urlsplit(site.endpoint.endpoint.url).port or 0
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))


def secured(site: Site, source: str = "127.0.0.1") -> ssl.SSLSocket:
    return site.trusting().wrap_socket(plain(site, source), server_hostname="localhost")


def head_of(url: str, method: str, *lines: str) -> bytes:
    target = "/" + url.split("/", 3)[3]
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: h", *lines, "", ""]).encode()


def seconds_until_cut_off(connection: socket.socket) -> float:
    """How long the server keeps a connection on which nothing more is sent."""
    began = time.monotonic()
    with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
        while connection.recv(65536):
            pass
    return time.monotonic() - began


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An endpoint whose limits of time are tenths of a second."""
    monkeypatch.setattr(f"{CONNECTION}._HEADER_SECONDS", 0.3)
    monkeypatch.setattr(f"{CONNECTION}._LINGER_SECONDS", 0.3)
    monkeypatch.setattr(f"{CONNECTION}._STALL_SECONDS", 0.3)
    monkeypatch.setattr(f"{LISTENER}._HANDSHAKE_SECONDS", 0.3)
    monkeypatch.setattr("quiesce.storage.request._BODY_SECONDS", 0.3)
    with running(tmp_path) as site:
        yield site


def test_an_open_connection_outlasts_a_guests_preparation_and_its_freeze() -> None:
    assert IDLE_SECONDS >= 90


def test_a_connection_waits_idle_before_and_between_requests(impatient: Site) -> None:
    """Longer than any of the other limits, which are tenths of a second here."""
    url = impatient.open().report_url
    with secured(impatient) as connection:
        for _ in range(2):
            time.sleep(0.8)
            connection.sendall(head_of(url, "GET"))
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_an_idle_connection_ends_at_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{CONNECTION}.IDLE_SECONDS", 0.3)
    monkeypatch.setattr(f"{LISTENER}.IDLE_SECONDS", 0.3)
    with running(tmp_path) as site:
        with secured(site) as never_asked:
            assert 0.1 < seconds_until_cut_off(never_asked) < 20
        with secured(site) as asked:
            asked.sendall(head_of(site.open().report_url, "GET"))
            assert 0.1 < seconds_until_cut_off(asked) < 20


def seconds_until_refused(connection: socket.socket, piece: bytes) -> float:
    """How long the server goes on taking a piece every now and then, at most 60 seconds."""
    began = time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() - began < 60:
            connection.sendall(piece)
            time.sleep(0.02)
    return time.monotonic() - began


def test_a_header_that_comes_byte_by_byte_is_cut_off(impatient: Site) -> None:
    with secured(impatient) as connection:
        connection.sendall(b"GET /quiesce/a/b HTTP/1.1\r\nX: ")
        assert seconds_until_refused(connection, b"y") < 20


def test_half_a_header_is_cut_off(impatient: Site) -> None:
    with secured(impatient) as connection:
        connection.sendall(b"GET /quiesce/a/b HTTP/1.1\r\nHost:")
        assert seconds_until_cut_off(connection) < 20


def test_a_body_that_does_not_come_ends_the_request(impatient: Site) -> None:
    url = impatient.open().report_url
    with secured(impatient) as connection:
        connection.sendall(
            head_of(url, "PUT", "x-ms-blob-type: BlockBlob", "Content-Length: 100") + b"half"
        )
        answer = connection.recv(65536)
        assert b" 408 " in answer.split(b"\r\n")[0]
        assert b"x-ms-error-code: OperationTimedOut" in answer
        assert seconds_until_cut_off(connection) < 20
    assert impatient.reports == []


def test_a_refused_body_that_never_ends_is_cut_off(impatient: Site) -> None:
    url = impatient.open().report_url
    with secured(impatient) as connection:
        connection.sendall(
            head_of(url, "PUT", "x-ms-blob-type: BlockBlob", f"Content-Length: {10**12}")
        )
        assert b" 413 " in connection.recv(65536).split(b"\r\n")[0]
        assert seconds_until_refused(connection, bytes(1000)) < 20


def test_an_answer_that_is_not_read_is_given_up(impatient: Site) -> None:
    disk, url = impatient.published([ExtentKind.DATA] * 512)
    assert len(disk.content) == 32 * MIB
    with secured(impatient) as connection:
        connection.sendall(head_of(url, "GET"))
        time.sleep(1.5)
        received = 0
        with contextlib.suppress(ConnectionResetError, ssl.SSLError):
            while piece := connection.recv(MIB):
                received += len(piece)
    assert received < len(disk.content)


def test_a_peer_that_never_speaks_tls_is_cut_off(impatient: Site) -> None:
    with plain(impatient) as silent:
        assert seconds_until_cut_off(silent) < 20
    with plain(impatient) as wrong:
        wrong.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert seconds_until_cut_off(wrong) < 20
    assert impatient.take(impatient.open()).status_code == 201


def test_connections_of_one_peer_are_bounded_and_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{LISTENER}._CONNECTIONS_OF_ONE_PEER", 3)
    with running(tmp_path) as site:
        url = site.open().report_url
        with contextlib.ExitStack() as guest:
            for _ in range(3):
                guest.enter_context(secured(site))
            with pytest.raises((ssl.SSLError, ConnectionError)):
                secured(site)
        deadline = time.monotonic() + 60
        while True:  # the server sees the hang-ups in its own time
            with contextlib.suppress(OSError), secured(site) as connection:
                connection.sendall(head_of(url, "GET"))
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")
                break
            assert time.monotonic() < deadline, "the connections were not given back"


def test_handshakes_that_break_off_are_given_back_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{LISTENER}._CONNECTIONS_OF_ONE_PEER", 5)
    with running(tmp_path) as site:
        for _ in range(20):
            with plain(site) as rude:
                rude.sendall(b"\x16\x03\x01")
            time.sleep(0.02)
        assert site.take(site.open()).status_code == 201


def test_a_header_beyond_all_measure_is_refused(site: Site) -> None:
    with secured(site) as connection:
        connection.sendall(b"GET /quiesce/a/b HTTP/1.1\r\nHost: h\r\n")
        with contextlib.suppress(OSError):
            for _ in range(100):
                connection.sendall(b"X-Header: " + b"y" * 1000 + b"\r\n")
        with contextlib.suppress(OSError):
            assert b" 400 " in connection.recv(65536).split(b"\r\n")[0]
    assert site.take(site.open()).status_code == 201


def test_requests_sent_in_one_go_are_answered_in_order(site: Site) -> None:
    door = site.open()
    upload = head_of(door.report_url, "PUT", "x-ms-blob-type: BlockBlob", "Content-Length: 3")
    with secured(site) as connection:
        connection.sendall(upload + b"one" + head_of(door.report_url, "GET", "Connection: close"))
        answers = b"".join(iter(lambda: connection.recv(65536), b""))
    first, second = answers.split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"201")
    assert second.startswith(b"200")
    assert second.endswith(b"one")


def test_uploads_of_one_guest_wait_for_each_other_and_for_nobody_else(site: Site) -> None:
    """Four begun uploads of one guest hold its two places; another guest's goes through."""
    one, other = site.endpoint.status_url("one"), site.endpoint.status_url("other")
    with contextlib.ExitStack() as guest:
        for _ in range(4):
            connection = guest.enter_context(secured(site))
            connection.sendall(
                head_of(one, "PUT", "x-ms-blob-type: BlockBlob", f"Content-Length: {MIB}")
            )
        began = time.monotonic()
        assert site.upload(other, b"fine").status_code == 201
        assert time.monotonic() - began < 20


def gets_answered(site: Site, vm: str) -> dict[int, int]:
    return Counter(seen.status for seen in site.endpoint.recent(vm) if seen.method == "GET")


def test_answers_that_one_guest_does_not_read_are_bounded_and_keep_nobody_waiting(
    site: Site,
) -> None:
    """Each would hold the whole blob in memory until it is read."""
    greedy, other = site.endpoint.status_url("greedy"), site.endpoint.status_url("other")
    assert site.upload(greedy, bytes(4 * MIB)).status_code == 201
    with contextlib.ExitStack() as guest:
        for _ in range(80):
            connection = guest.enter_context(secured(site))
            connection.sendall(head_of(greedy, "GET"))
        began = time.monotonic()
        assert site.upload(other, b"fine").status_code == 201
        assert time.monotonic() - began < 20
        until = time.monotonic() + 60
        while (answered := gets_answered(site, "greedy"))[503] < 10:
            assert time.monotonic() < until, answered
            time.sleep(0.05)
        assert answered[200] <= 4  # some may fit into the kernel's buffers
    until = time.monotonic() + 60
    while site.client.get(greedy).status_code == 503 and time.monotonic() < until:
        time.sleep(0.1)  # the server learns one by one that they are gone
    assert site.client.get(greedy).content == bytes(4 * MIB)


def test_a_page_list_of_a_small_blob_is_had_in_parts_of_a_thousand(site: Site) -> None:
    url = site.endpoint.status_url("web")
    site.put(url, x_ms_blob_type="PageBlob", x_ms_blob_content_length=str(4 * MIB))
    every_other = (b"x" * 512 + bytes(512)) * 4096
    pages = {"x_ms_page_write": "update", "x_ms_range": f"bytes=0-{4 * MIB - 1}"}
    assert site.put(url, "page", content=every_other, **pages).status_code == 201
    parts, marker = [], "0"
    for _ in range(5):
        listed = ElementTree.fromstring(
            site.client.get(f"{url}&comp=pagelist&marker={marker}&maxresults=2000").content
        )
        parts.append([int(start.text or "") for start in listed.iterfind("PageRange/Start")])
        marker = listed.findtext("NextMarker") or ""
    assert [len(part) for part in parts] == [1000, 1000, 1000, 1000, 96]
    assert [start for part in parts for start in part] == list(range(0, 4 * MIB, 1024))
    assert marker == ""


def test_whoever_takes_all_places_loses_the_oldest_that_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{LISTENER}._CONNECTIONS", 13)
    monkeypatch.setattr(f"{LISTENER}._CONNECTIONS_OF_ONE_PEER", 6)
    with running(tmp_path) as site, contextlib.ExitStack() as guests:
        url = site.open().report_url
        prepared = guests.enter_context(secured(site, "127.0.0.11"))
        greedy = [
            guests.enter_context(plain(site, address))
            for address in ("127.0.0.21", "127.0.0.22")
            for _ in range(6)
        ]
        for latecomer in ("127.0.0.12", "127.0.0.13"):
            connection = guests.enter_context(secured(site, latecomer))
            connection.sendall(head_of(url, "GET"))
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        assert greedy[0].recv(1) == greedy[6].recv(1) == b""
        prepared.sendall(head_of(url, "GET"))
        assert prepared.recv(65536).startswith(b"HTTP/1.1 200")


def test_nobody_loses_a_connection_on_which_something_is_done() -> None:
    dropped: list[str] = []
    crowd = Crowd(places=2, places_of_one_peer=2)
    first, second = (crowd.enter("a", lambda name=name: dropped.append(name)) for name in "12")  # type: ignore[misc]
    assert first is not None
    assert second is not None
    first.let_in()
    second.let_in()
    assert crowd.enter("b", lambda: None) is None
    first.answered()
    assert crowd.enter("b", lambda: None) is not None
    first.answered()  # its last word, sent in vain
    first.left()
    assert dropped == ["1"]
    assert crowd.enter("b", lambda: None) is not None  # in place of the one before


def test_closing_the_endpoint_does_not_wait_for_idle_guests(tmp_path: Path) -> None:
    with contextlib.ExitStack() as guests:
        with running(tmp_path) as site:
            for _ in range(20):
                guests.enter_context(secured(site))
            began = time.monotonic()
        assert time.monotonic() - began < IDLE_SECONDS / 2
