"""A VM is recognised by where it is, and sees what is its own and nothing else."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from waagent_guest import until
from waagent_recorded import send
from waagent_scene import Caller, Later, Neighbours, PaperBook, Scene, element, status

from quiesce.agent.waagent.certificates import VmIdentity
from quiesce.agent.waagent.goal import Dossier
from quiesce.agent.waagent.host import AgentHost
from quiesce.agent.waagent.ports import AgentRecord
from quiesce.agent.waagent.settings import Command, Settings
from quiesce.agent.waagent.status import AgentStatus, agent_status
from quiesce.model.agent import AgentCondition
from quiesce.model.failure import AgentFailure

WEB, MAIL, STRANGER = "127.0.0.11", "127.0.0.12", "127.0.0.66"


@pytest.fixture
def scene() -> Scene:
    return Scene(neighbours=Neighbours(web=WEB, mail=MAIL))


@pytest.fixture
def host(scene: Scene) -> Iterator[AgentHost]:
    with scene.running() as running:
        for vm in ("web", "mail"):
            settings = Settings(
                Command.PROBE, attempt=f"{vm}-attempt", door=door(scene, vm), task="t"
            )
            running._agent(vm).ask(running.offered_version, settings)
        yield running


def door(scene: Scene, vm: str):  # type: ignore[no-untyped-def]
    return scene.doors.open(vm, f"{vm}-attempt", [], take=None, reported=None)  # type: ignore[arg-type]


def test_a_stranger_gets_404_for_everything_and_is_remembered(host: AgentHost) -> None:
    stranger = Caller(host, STRANGER)
    dossier = host._agent("web").dossier
    paths = [
        "/?comp=versions",
        "/machine/?comp=goalstate",
        f"/machine/{dossier.container_id}/{dossier.goal.incarnation}/extensionsConfig",
        f"/packages/{dossier.token}/1.2.3.1.zip",
    ]
    begun = time.monotonic()
    assert [stranger.get(path).status_code for path in paths] == [404] * 4
    assert stranger.put_status(status(acknowledged=1)).status_code == 404
    assert time.monotonic() - begun < 2
    (seen,) = host.strangers
    assert (seen.address, seen.requests) == (STRANGER, 5)
    assert host.state("web").condition is AgentCondition.NEVER_SEEN


def test_only_the_last_few_strangers_are_remembered(host: AgentHost) -> None:
    for number in range(100, 130):
        send(
            f"127.0.0.{number}",
            host.ports[0],
            b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        )
    assert len(host.strangers) == 16
    assert host.strangers[0].address == "127.0.0.129"


def test_a_vm_cannot_read_another_vms_documents_keys_or_packages(host: AgentHost) -> None:
    web, mail = Caller(host, WEB), host._agent("mail").dossier
    folder = f"/machine/{mail.container_id}/{mail.goal.incarnation}"
    for name in ("hostingEnvironmentConfig", "sharedConfig", "extensionsConfig", "certificates"):
        assert web.get(f"{folder}/{name}").status_code == 404
    assert web.get(f"/packages/{mail.token}/manifest.xml").status_code == 404
    assert web.get(f"/packages/{mail.token}/1.2.3.1.zip").status_code == 404
    artifact = {"x-ms-artifact-location": f"http://h/packages/{mail.token}/1.2.3.1.zip"}
    assert web.http.get(web.plugin + "/extensionArtifact", headers=artifact).status_code == 404


def test_goal_states_of_two_vms_hold_nothing_of_each_other(host: AgentHost) -> None:
    texts = {}
    for vm, address in (("web", WEB), ("mail", MAIL)):
        caller = Caller(host, address)
        goal = caller.goal_state()
        texts[vm] = goal + caller.get(element(goal, "ExtensionsConfig")).text
    assert "web-attempt" in texts["web"]
    assert "mail" not in texts["web"]
    assert "web" not in texts["mail"]


def test_another_vms_container_id_is_answered_with_410_and_changes_nothing(
    host: AgentHost,
) -> None:
    mail = host._agent("mail").dossier
    web = Caller(host, WEB)
    headers = {"x-ms-containerid": mail.container_id}
    assert web.get("/machine/?comp=goalstate", **headers).status_code == 410
    answer = web.http.put(web.plugin + "/status", headers=headers, content=b"{}")
    assert answer.status_code == 410
    assert host.state("mail").condition is AgentCondition.NEVER_SEEN


def test_a_status_is_believed_of_its_sender_only(host: AgentHost) -> None:
    Caller(host, WEB).put_status(status(acknowledged=7))
    assert host.state("web").condition is AgentCondition.READY
    assert host.state("mail").condition is AgentCondition.NEVER_SEEN


def test_an_old_incarnation_is_gone(host: AgentHost) -> None:
    web = Caller(host, WEB)
    url = element(web.goal_state(), "ExtensionsConfig")
    host._agent("web").withdraw("web-attempt")
    assert web.get(url).status_code == 410
    assert "idle" in web.get(element(web.goal_state(), "ExtensionsConfig")).text


def test_documents_are_addressed_as_the_vm_addresses_the_host(host: AgentHost) -> None:
    web = Caller(host, WEB)
    goal = web.get("/machine/?comp=goalstate", Host="168.63.129.16").text
    assert element(goal, "ExtensionsConfig").startswith("http://168.63.129.16/machine/")
    assert host.state("web").endpoint == "168.63.129.16"
    hostile = web.get("/machine/?comp=goalstate", Host='h"><x>').text
    assert "<x>" not in hostile
    assert element(hostile, "ExtensionsConfig").startswith("http://127.0.0.1:")


def test_the_host_plugin_hands_over_our_package_and_fetches_nothing_else(host: AgentHost) -> None:
    web = Caller(host, WEB)
    token = host._agent("web").dossier.token
    package = {"x-ms-artifact-location": f"http://168.63.129.16/packages/{token}/1.2.3.1.zip"}
    assert web.http.get(web.plugin + "/extensionArtifact", headers=package).content == (
        b"the package"
    )
    for url in ("http://127.0.0.1:1/x", "file:///etc/passwd", "http://[::1", "", "//"):
        answer = web.http.get(
            web.plugin + "/extensionArtifact", headers={"x-ms-artifact-location": url}
        )
        assert answer.status_code == 404


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
            assert time.monotonic() - begun < 5


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


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<",
        b"\xff\xfe\x00",
        b"<!DOCTYPE x [<!ENTITY a 'aaaa'>]><Health><State>&a;</State></Health>",
        b"<a>" * 10_000,
        b"<Health>" + b"<x/>" * 1000,
    ],
)
def test_a_health_report_that_is_none_is_a_400(host: AgentHost, body: bytes) -> None:
    web = Caller(host, WEB)
    assert web.http.post(web.wire + "/machine?comp=health", content=body).status_code == 400


@pytest.mark.parametrize("encoding", ["utf-4", "rot13", "zlib", "utf-16", "undefined", "utf-7"])
def test_a_health_report_is_read_as_utf_8_whatever_encoding_it_claims(
    host: AgentHost, encoding: str
) -> None:
    web = Caller(host, WEB)
    web.put_status(status(acknowledged=1))
    body = (
        f"<?xml version='1.0' encoding='{encoding}'?>"
        "<Health><State>NotReady</State><Description>fährt hoch</Description></Health>"
    )
    answer = web.http.post(web.wire + "/machine?comp=health", content=body.encode())
    assert answer.status_code == 200
    assert host.state("web").message == "NotReady: fährt hoch"


def test_an_agent_that_says_it_is_not_ready_is_not(host: AgentHost) -> None:
    web = Caller(host, WEB)
    web.put_status(status(acknowledged=1))
    body = (
        "<Health><Role><Health><State>NotReady</State><Details><SubStatus>Provisioning</SubStatus>"
        "<Description>Starting\x1b[31m</Description></Details></Health></Role></Health>"
    ).replace("\x1b", "&#10;")
    assert web.http.post(web.wire + "/machine?comp=health", content=body).status_code == 200
    state = host.state("web")
    assert state.condition is AgentCondition.NOT_READY
    assert state.message.startswith("NotReady: Provisioning: Starting")


def test_polling_touches_no_database_and_changes_no_incarnation(
    host: AgentHost, scene: Scene
) -> None:
    web = Caller(host, WEB)
    first, saves = web.goal_state(), scene.book.saves
    for _ in range(50):
        assert web.goal_state() == first
        web.put_status(status(acknowledged=1))
    assert scene.book.saves == saves


def test_a_server_that_starts_again_goes_on_with_the_same_goal_state(scene: Scene) -> None:
    with scene.running() as host:
        host._agent("web").ask(host.offered_version, Settings(Command.IDLE))
        before = Caller(host, WEB).goal_state()
        seen = host.state("web").last_seen
    with scene.running() as host:
        assert host.state("web").last_seen == seen
        after = Caller(host, WEB).goal_state()
    for name in ("Incarnation", "ContainerId"):
        assert element(after, name) == element(before, name)
    assert scene.book.records["web"].body.count("PRIVATE KEY") == 2, "the same key goes on"


def test_numbers_go_on_although_the_database_was_restored_or_lost(scene: Scene) -> None:
    old = PaperBook()
    host = scene.host()
    host._agent("web").ask(host.offered_version, Settings(Command.IDLE))
    old.records = dict(scene.book.records)
    known = 0
    for _ in range(5):
        known = host._agent("web").ask(host.offered_version, Settings(Command.IDLE)).incarnation
    scene.now = scene.clock() + timedelta(minutes=1)
    scene.book = old
    restored = scene.host()._agent("web").ask("1.2.3.1", Settings(Command.IDLE))
    assert restored.incarnation > known
    scene.book = PaperBook()
    assert scene.host()._agent("web").dossier.goal.incarnation > known


@pytest.mark.parametrize("body", ["", "{}", "[]", "null", '{"format": 1}', '{"format": 2}'])
def test_a_record_that_cannot_be_read_is_begun_anew(scene: Scene, body: str) -> None:
    from quiesce.agent.waagent.ports import AgentRecord

    scene.book.save(AgentRecord("web", body))
    assert scene.host()._agent("web").dossier.goal.incarnation > 0


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


def test_a_forgotten_vm_begins_anew(scene: Scene) -> None:
    host = scene.host()
    before = host._agent("web").dossier.container_id
    host._agent("web").ask(host.offered_version, Settings(Command.IDLE))
    host.forget("web")
    assert "web" not in scene.book.records
    assert host._agent("web").dossier.container_id != before


def test_an_agent_that_falls_silent_is_stale_after_a_minute(host: AgentHost, scene: Scene) -> None:
    web = Caller(host, WEB)
    web.goal_state()
    web.put_status(status(acknowledged=1))
    assert host.state("web").condition is AgentCondition.READY
    scene.now = scene.clock() + timedelta(seconds=59)
    assert host.state("web").condition is AgentCondition.READY
    scene.now += timedelta(seconds=2)
    assert host.state("web").condition is AgentCondition.STALE


def test_an_agent_that_polls_rarely_is_given_three_of_its_periods(
    host: AgentHost, scene: Scene
) -> None:
    web = Caller(host, WEB)
    scene.now = scene.clock()
    for _ in range(4):
        scene.now += timedelta(seconds=40)
        web.goal_state()
    web.put_status(status(acknowledged=1))
    scene.now += timedelta(seconds=110)
    assert host.state("web").condition is AgentCondition.READY
    scene.now += timedelta(seconds=20)
    assert host.state("web").condition is AgentCondition.STALE


def test_a_status_left_at_the_storage_endpoint_counts_too(host: AgentHost, scene: Scene) -> None:
    scene.doors.blobs["web"] = json.dumps(status(acknowledged=3)).encode()
    assert host.state("web").acknowledged_incarnation == 3
    scene.doors.blobs["web"] = json.dumps(status(acknowledged=4)).encode()
    state = host.state("web")
    assert state.acknowledged_incarnation == 4
    assert state.condition is AgentCondition.READY, "a new status is a sign of life"
    scene.doors.blobs["web"] = b"\x00 rubbish"
    assert host.state("web").acknowledged_incarnation == 4


def test_a_database_that_does_not_answer_is_no_reason_to_be_a_stranger(scene: Scene) -> None:
    from quiesce.model.failure import ServerFailure

    def broken(vm: str) -> None:
        raise ServerFailure("server.database-broken", "no")

    scene.book.load = broken  # type: ignore[method-assign]
    with scene.running() as host:
        assert Caller(host, WEB).get("/?comp=versions").status_code == 503
        assert host.strangers == ()


def test_a_status_of_long_ago_is_not_news_after_a_restart(scene: Scene) -> None:
    """It would prove that extensions are switched off, say, when the agent only has had no time
    to report."""
    written = scene.clock() - timedelta(days=3)
    scene.doors.blobs["web"] = json.dumps(status()).encode()
    scene.doors.written_at = written
    agent = scene.host()._agent("web")
    agent.look_at_blob()
    sight = agent.sight()
    assert sight.status is not None
    assert sight.status_at == sight.last_seen == written
    assert sight.condition is AgentCondition.STALE


def test_the_key_of_an_uninstalled_extension_is_dropped_and_not_published_for_ever(
    scene: Scene,
) -> None:
    scene.now = scene.clock()
    agent = scene.host()._agent("web")
    agent.ask("1.0", Settings(Command.IDLE))
    agent.ask_to_uninstall("1.0")
    scene.now += timedelta(days=680)
    agent.renew()
    renewed = agent.dossier.goal.incarnation
    assert agent.dossier.identity is None
    for _ in range(3):
        scene.now += timedelta(seconds=30)
        agent.renew()
    assert agent.dossier.goal.incarnation == renewed


def test_what_a_dead_server_asked_for_does_not_keep_the_status_url_from_being_renewed(
    scene: Scene,
) -> None:
    scene.now = scene.clock()
    scene.host()._agent("web").ask("1.0", Settings(Command.PROBE, attempt="a1"))
    agent = scene.host()._agent("web")
    scene.now += timedelta(days=1)
    agent.renew()
    assert agent.dossier.goal.command == Command.IDLE
    assert agent.dossier.goal.status_url_at == scene.now


def test_nothing_is_renewed_while_something_is_asked_for(scene: Scene) -> None:
    scene.now = scene.clock()
    agent = scene.host()._agent("web")
    before = agent.dossier
    assert agent.claim()
    scene.now += timedelta(days=1)
    agent.renew()
    assert agent.dossier is before
    agent.yield_turn()
    agent.renew()
    assert agent.dossier is not before


def test_a_record_with_a_key_that_is_none_is_begun_anew(scene: Scene) -> None:
    dossier = Dossier.new(scene.clock())
    kept = replace(
        dossier,
        identity=VmIdentity("no key", "no certificate"),
        goal=replace(dossier.goal, status_url="https://x"),
    )
    scene.book.records["web"] = AgentRecord("web", kept.to_body())
    agent = scene.host()._agent("web")
    assert agent.dossier.identity is None
    assert agent.dossier.container_id != dossier.container_id


def test_a_defect_with_one_vm_keeps_no_other_from_being_renewed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quiesce.agent.waagent.host._KEEP_SECONDS", 0.02)
    renewed: list[str] = []
    with scene.running() as host:
        host._agent("web").renew = lambda: 1 // 0  # type: ignore[method-assign, assignment]
        host._agent("mail").renew = lambda: renewed.append("mail")  # type: ignore[method-assign]
        until(lambda: len(renewed) > 2)


def test_the_guest_of_a_removed_vm_that_still_asks_leaves_nothing_behind(scene: Scene) -> None:
    with scene.running() as host:
        web = Caller(host, WEB)
        web.goal_state()
        host.forget("web")
        urls = scene.doors.urls
        assert web.get("/machine/?comp=goalstate").status_code == 404
        assert "web" not in scene.book.records
        assert scene.doors.urls == urls, "and no status file is made for it"
        host.state("web")
        assert web.goal_state(), "once it is added again it is served"


def test_reading_one_vms_status_keeps_no_other_vm_waiting(
    host: AgentHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, at_once, release = threading.Semaphore(0), [], threading.Event()

    def slow(raw: bytes) -> AgentStatus:
        at_once.append(raw)
        running.release()
        release.wait(10)
        return agent_status(raw)

    monkeypatch.setattr("quiesce.agent.waagent.vm_agent.agent_status", slow)
    sent = [Later(lambda: Caller(host, WEB).put_status(status())) for _ in range(5)]
    assert running.acquire(timeout=5)
    begun = time.monotonic()
    assert Caller(host, MAIL).goal_state()
    assert time.monotonic() - begun < 3
    assert len(at_once) == 1, "one of a VM at a time"
    release.set()
    assert [each.result().status_code for each in sent] == [200] * 5


def test_a_status_that_no_agent_sends_is_too_large(host: AgentHost) -> None:
    answer = Caller(host, WEB).put_status(status(message="x" * 300_000))
    assert answer.status_code == 413
