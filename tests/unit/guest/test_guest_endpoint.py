"""The extension's way to the storage endpoint, over real TLS and through a real proxy."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Authority, Proxy, Reply, Request, Server, refusal, silent_listener
from ports import free_port

from quiesce.guest.dial import Way, resolvers
from quiesce.guest.endpoint import Answer, Connection, prepare, require_success
from quiesce.guest.failure import Failure
from quiesce.guest.proxy import ProxyServer, ProxySettings, origin_of, proxy_for


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def storage(authority: Authority) -> Iterator[Server]:
    server = Server(lambda request: Reply(), authority.context_for("127.0.0.1"))
    yield server
    server.close()


def way_to(server: Server, ca_pem: str, proxy: ProxyServer | None = None) -> Way:
    return Way(origin_of(f"https://127.0.0.1:{server.port}"), ca_pem, proxy)


def put(way: Way, seconds: float = 5.0) -> Answer:
    connection = Connection(way)
    until = time.monotonic() + seconds
    connection.open(until)
    try:
        return connection.exchange(prepare(way, "PUT", f"{way.origin}/d?comp=snapshot"), until)
    finally:
        connection.close()


def failure_of(way: Way, seconds: float = 5.0) -> Failure:
    with pytest.raises(Failure) as caught:
        put(way, seconds)
    return caught.value


def test_the_given_authority_is_trusted_and_no_other(
    storage: Server, authority: Authority, tmp_path: Path
) -> None:
    assert put(way_to(storage, authority.pem)).status == 201
    assert storage.requests[0].target == "/d?comp=snapshot"
    stranger = Authority(tmp_path, "another CA")
    assert failure_of(way_to(storage, stranger.pem)).code == "network.tls-untrusted"
    assert len(storage.requests) == 1


def test_a_certificate_for_another_host_is_refused(authority: Authority) -> None:
    server = Server(lambda request: Reply(), authority.context_for("other.example"))
    failure = failure_of(way_to(server, authority.pem))
    assert failure.code == "network.tls-failed"
    assert "another name" in failure.message
    assert server.requests == []
    server.close()


@pytest.mark.parametrize(("begins", "word"), [(-60, "expired"), (10, "not valid yet")])
def test_a_wrong_clock_is_named(authority: Authority, begins: int, word: str) -> None:
    context = authority.context_for("127.0.0.1", begins_in_days=begins)
    server = Server(lambda request: Reply(), context)
    failure = failure_of(way_to(server, authority.pem))
    assert failure.code == "network.clock-skew"
    assert word in failure.message
    server.close()


def test_a_port_where_nobody_listens_refuses(authority: Authority) -> None:
    failure = failure_of(Way(origin_of(f"https://127.0.0.1:{free_port()}"), authority.pem))
    assert failure.code == "network.connect-refused"


def test_a_name_that_does_not_resolve_is_said_with_its_resolvers(authority: Authority) -> None:
    failure = failure_of(Way(origin_of("https://no-such-host.invalid"), authority.pem))
    assert failure.code == "network.dns-failed"
    assert "resolvers" in failure.evidence[1].fact


def test_a_server_that_never_greets_does_not_hold_anybody_up(authority: Authority) -> None:
    with silent_listener() as port:
        began = time.monotonic()
        failure = failure_of(Way(origin_of(f"https://127.0.0.1:{port}"), authority.pem), 0.5)
    assert failure.code == "network.tls-failed"
    assert time.monotonic() - began < 20


def test_an_answer_that_drips_ends_at_the_deadline(authority: Authority) -> None:
    given_up = threading.Event()

    def drip(request: Request) -> Reply:
        given_up.wait(60)
        return Reply()

    server = Server(drip, authority.context_for("127.0.0.1"))
    began = time.monotonic()
    failure = failure_of(way_to(server, authority.pem), 0.6)
    given_up.set()
    assert failure.code == "storage.no-answer"
    assert time.monotonic() - began < 20
    server.close()


def test_a_connection_that_the_other_side_closed_is_noticed_without_asking(
    authority: Authority,
) -> None:
    server = Server(
        lambda request: Reply(headers={"Connection": "close"}), authority.context_for("127.0.0.1")
    )
    way = way_to(server, authority.pem)
    connection = Connection(way)
    connection.open(time.monotonic() + 5)
    assert connection.stands()
    connection.exchange(prepare(way, "PUT", f"{way.origin}/d"), time.monotonic() + 5)
    assert not connection.stands()
    server.close()


def test_a_connection_serves_many_requests(storage: Server, authority: Authority) -> None:
    way = way_to(storage, authority.pem)
    connection = Connection(way)
    connection.open(time.monotonic() + 5)
    for _ in range(3):
        connection.exchange(prepare(way, "PUT", f"{way.origin}/d"), time.monotonic() + 5)
        assert connection.stands()
    assert storage.connections == 1
    connection.close()


def test_a_url_of_another_host_is_never_followed(storage: Server, authority: Authority) -> None:
    way = way_to(storage, authority.pem)
    with pytest.raises(Failure) as caught:
        prepare(way, "PUT", "https://elsewhere.example/d?sig=SECRET")
    assert caught.value.code == "extension.settings-invalid"
    assert "SECRET" not in json.dumps(caught.value.as_json())


# -- through a proxy


def proxied(storage: Server, authority: Authority, url: str) -> Way:
    origin = origin_of(f"https://127.0.0.1:{storage.port}")
    return Way(origin, authority.pem, proxy_for(origin, ProxySettings(https=url)))


def test_https_goes_through_a_tunnel(storage: Server, authority: Authority) -> None:
    proxy = Proxy()
    assert put(proxied(storage, authority, f"http://127.0.0.1:{proxy.port}")).status == 201
    assert proxy.asked == [f"CONNECT 127.0.0.1:{storage.port} HTTP/1.1"]
    proxy.close()


def test_the_proxy_resolves_the_name_so_that_the_guest_need_not(authority: Authority) -> None:
    server = Server(lambda request: Reply(), authority.context_for("storage.lan"))
    proxy = Proxy(names={"storage.lan": "127.0.0.1"})
    through = ProxyServer("127.0.0.1", proxy.port)
    way = Way(origin_of(f"https://storage.lan:{server.port}"), authority.pem, through)
    assert put(way).status == 201
    for one in (proxy, server):
        one.close()


def test_a_proxy_with_accounts_lets_the_right_one_through(
    storage: Server, authority: Authority
) -> None:
    proxy = Proxy(account="backup:secret")
    address = f"127.0.0.1:{proxy.port}"
    assert put(proxied(storage, authority, f"http://backup:secret@{address}")).status == 201
    for wrong in (f"http://backup:guess@{address}", f"http://{address}"):
        failure = failure_of(proxied(storage, authority, wrong))
        assert failure.code == "network.proxy-auth-required"
        assert "guess" not in json.dumps(failure.as_json())
    proxy.close()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "network.proxy-denied"),
        (405, "network.proxy-denied"),
        (407, "network.proxy-auth-required"),
        (502, "network.proxy-failed"),
        (503, "network.proxy-failed"),
        (504, "network.proxy-failed"),
    ],
)
def test_what_a_proxy_answers_is_told_apart(
    storage: Server, authority: Authority, status: int, code: str
) -> None:
    proxy = Proxy(status=status)
    failure = failure_of(proxied(storage, authority, f"http://127.0.0.1:{proxy.port}"))
    assert failure.code == code
    assert str(status) in failure.evidence[0].raw
    proxy.close()


def test_a_proxy_that_is_not_there_or_says_nothing_is_unreachable(
    storage: Server, authority: Authority
) -> None:
    with silent_listener() as port:
        mute = failure_of(proxied(storage, authority, f"http://127.0.0.1:{port}"), 0.5)
    gone = failure_of(proxied(storage, authority, f"http://127.0.0.1:{free_port()}"))
    assert (mute.code, gone.code) == ("network.proxy-unreachable",) * 2


def test_plain_http_is_handed_to_the_proxy_whole() -> None:
    server = Server(lambda request: Reply())
    proxy = Proxy(account="backup:secret")
    origin = origin_of(f"http://127.0.0.1:{server.port}")
    settings = ProxySettings(http=f"http://backup:secret@127.0.0.1:{proxy.port}")
    assert put(Way(origin, "", proxy_for(origin, settings))).status == 201
    assert proxy.asked == [f"PUT http://127.0.0.1:{server.port}/d?comp=snapshot HTTP/1.1"]
    for one in (proxy, server):
        one.close()


# -- what the storage endpoint says


@pytest.mark.parametrize(
    ("status", "xml_code", "message", "code", "retryable"),
    [
        (403, "AuthenticationFailed", "Signature did not match.", "storage.auth-failed", True),
        (409, "SnapshotCountExceeded", "Too many.", "storage.snapshot-limit", False),
        (
            *(400, "X", "The snapshot count against this blob has been exceeded."),
            *("storage.snapshot-limit", False),
        ),
        (409, "SnaphotOperationRateExceeded", "Slower.", "storage.rate-limit", True),
        (429, "X", "The rate of snapshot blob calls is exceeded.", "storage.rate-limit", True),
        (404, "BlobNotFound", "No such blob.", "storage.endpoint-refused", False),
        (503, "ServerBusy", "Busy.", "storage.endpoint-refused", True),
    ],
)
def test_the_storage_endpoints_own_words_decide_and_are_kept(
    status: int, xml_code: str, message: str, code: str, retryable: bool
) -> None:
    reply = refusal(status, xml_code, message)
    answer = Answer(reply.status, "Reason", reply.headers, reply.body)
    with pytest.raises(Failure) as caught:
        require_success(answer, Way(origin_of("https://storage.example")))
    assert (caught.value.code, caught.value.retryable) == (code, retryable)
    kept = caught.value.evidence[0]
    assert f"{status}" in kept.fact
    assert xml_code in kept.fact
    assert message in kept.raw


def test_an_answer_that_is_no_xml_is_kept_too() -> None:
    answer = Answer(500, "Oh\x1b[31m", {}, b"\xff\x00<Error><Code>" + b"x" * 100_000)
    with pytest.raises(Failure) as caught:
        require_success(answer, Way(origin_of("https://storage.example")))
    text = json.dumps(caught.value.as_json())
    assert caught.value.code == "storage.endpoint-refused"
    assert len(text) < 10_000
    assert "\\u001b" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nameserver \nsearch x\n", "none"),
        ("nameserver\t10.0.0.1\n", "10.0.0.1"),
        ("# nameserver 10.0.0.9\n nameserver  10.0.0.1 # ours\nnameserver ::1\n", "10.0.0.1, ::1"),
    ],
)
def test_the_resolvers_are_told_however_the_file_is_written(
    monkeypatch: pytest.MonkeyPatch, text: str, shown: str
) -> None:
    def fake(*_: Any, **__: Any) -> io.StringIO:
        return io.StringIO(text)

    monkeypatch.setattr("quiesce.guest.dial.open", fake, raising=False)
    assert resolvers() == shown


def test_an_answer_that_is_no_http_cannot_write_to_a_terminal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"\x1b[31mEVIL\r\r" * 4000 + b"\n")

        threading.Thread(target=answer, daemon=True).start()
        failure = failure_of(Way(origin_of(f"http://127.0.0.1:{listener.getsockname()[1]}")))
    assert failure.code == "network.connection-lost"
    said = json.dumps(failure.as_json(), ensure_ascii=False)
    assert "EVIL" in said
    assert "\\u001b" not in said
    assert len(said) < 8000
