"""What a hostile guest sends costs the others nothing; how both servers begin and end."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
import time

import httpx
import pytest
from waagent_guest import until
from waagent_recorded import send
from waagent_scene import MAIL, WEB, Caller, Later, Scene, status

from quiesce.agent.waagent.host import AgentHost
from quiesce.agent.waagent.status import AgentStatus, agent_status
from quiesce.model.failure import AgentFailure


def test_oversized_bodies_are_refused_without_being_read(host: AgentHost) -> None:
    wire, plugin = host.ports
    for port, line in (
        (wire, "POST /machine?comp=health"),
        (wire, "POST /machine?comp=telemetrydata"),
        (wire, "POST /HealthService"),
        (plugin, "PUT /status"),
        (plugin, "PUT /vmAgentLog"),
    ):
        head = f"{line} HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999\r\n\r\n".encode()
        assert send(WEB, port, head + b"x" * 1000)[0] == 413, line


def test_a_body_that_grows_without_end_is_refused(host: AgentHost) -> None:
    head = b"PUT /status HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", host.ports[1]), 10, (WEB, 0)) as connection:
        connection.sendall(head)
        connection.settimeout(10)
        answer = b""
        try:
            for _ in range(1000):
                connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        except OSError:
            pass
        with contextlib.suppress(OSError):
            answer = connection.recv(4096)
    assert answer in (b"",) or b" 413 " in answer
    assert Caller(host, WEB).get("/?comp=versions").status_code == 200


def test_endless_headers_end_the_connection(host: AgentHost) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 2_000_000
    assert send(WEB, host.ports[0], raw)[0] in (0, 400)


def test_one_vm_cannot_take_all_connections(host: AgentHost) -> None:
    held = [socket.create_connection(("127.0.0.1", host.ports[0]), 5, (WEB, 0)) for _ in range(200)]
    try:
        assert Caller(host, MAIL).get("/?comp=versions").status_code == 200
        open_still = 0
        for connection in held:
            connection.setblocking(False)
            try:
                open_still += connection.recv(1) != b""
            except BlockingIOError:
                open_still += 1
            except ConnectionError:
                pass
        assert open_still <= 40
    finally:
        for connection in held:
            connection.close()


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side ends the connection."""
    heard = b""
    connection.settimeout(20)
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            heard += piece
    return heard


def test_requests_that_do_not_wait_for_their_answers_end_the_connection(host: AgentHost) -> None:
    with socket.create_connection(("127.0.0.1", host.ports[0]), 5, (WEB, 0)) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /?comp=versions HTTP/1.1\r\nHost: h\r\n\r\n" * 5000)
        assert everything(connection).count(b"HTTP/1.1 200") <= 1
    kept = http.client.HTTPConnection("127.0.0.1", host.ports[0], source_address=(WEB, 0))
    for _ in range(3):
        kept.request("GET", "/?comp=versions")
        answer = kept.getresponse()
        assert answer.read().startswith(b"<?xml"), "one after the other they are answered"
    kept.close()


def test_a_header_that_does_not_come_to_its_end_ends_the_connection(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quiesce.agent.waagent.listener._HEADER_SECONDS", 0.3)
    with scene.running() as host:
        for said in (b"", b"GET / HTTP/1.1\r\nX: "):
            begun = time.monotonic()
            with socket.create_connection(("127.0.0.1", host.ports[0]), 5, (WEB, 0)) as connection:
                connection.sendall(said)
                assert everything(connection) == b""
            assert time.monotonic() - begun < 20


def test_many_addresses_together_cannot_take_all_connections(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quiesce.agent.waagent.listener._CONNECTIONS", 60)
    opened = lambda: len(os.listdir("/proc/self/fd"))  # noqa: E731 - asked thrice
    with scene.running() as host, contextlib.ExitStack() as held:
        before = opened()
        for number in range(20, 40):
            for _ in range(10):
                source = (f"127.0.0.{number}", 0)
                held.enter_context(
                    socket.create_connection(("127.0.0.1", host.ports[0]), 5, source)
                )
        assert Caller(host, MAIL).get("/?comp=versions").status_code == 200
        until(lambda: opened() - before < 200 + 70)


def test_an_address_of_nobody_is_said_with_its_code(scene: Scene) -> None:
    scene.address = "203.0.113.7"
    with pytest.raises(AgentFailure) as refused:
        scene.host().start()
    assert refused.value.code == "agent.endpoint-bind-failed"
    assert "interface" in refused.value.remedy


def test_a_taken_port_is_said_with_its_code_and_leaves_the_other_one_free(scene: Scene) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        scene.plugin_port = taken.getsockname()[1]
        host = scene.host()
        with pytest.raises(AgentFailure) as refused:
            host.start()
    assert refused.value.code == "agent.endpoint-bind-failed"
    host.close()


def test_closing_ends_both_servers(scene: Scene) -> None:
    with scene.running() as host:
        ports = host.ports
    for port in ports:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/")


def test_reading_one_vms_status_keeps_no_other_vm_waiting(
    host: AgentHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, at_once, release = threading.Semaphore(0), [], threading.Event()

    def slow(raw: bytes) -> AgentStatus:
        at_once.append(raw)
        running.release()
        release.wait(60)
        return agent_status(raw)

    monkeypatch.setattr("quiesce.agent.waagent.vm_agent.agent_status", slow)
    sent = [Later(lambda: Caller(host, WEB).put_status(status())) for _ in range(5)]
    assert running.acquire(timeout=60)
    begun = time.monotonic()
    assert Caller(host, MAIL).goal_state()
    assert time.monotonic() - begun < 30
    assert len(at_once) == 1, "one of a VM at a time"
    release.set()
    assert [each.result().status_code for each in sent] == [200] * 5


def test_a_status_that_no_agent_sends_is_too_large(host: AgentHost) -> None:
    answer = Caller(host, WEB).put_status(status(message="x" * 300_000))
    assert answer.status_code == 413
