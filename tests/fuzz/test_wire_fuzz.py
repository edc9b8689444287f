"""Whatever a guest sends, wire server and host plugin refuse it or take it: no 5xx, no hang.

    QUIESCE_FUZZ_SECONDS=600 QUIESCE_FUZZ_SEED=7 pytest -s tests/fuzz

Each test runs for that long (10 s), batch by batch; the seed of each batch can be given again.
"""

from __future__ import annotations

import base64
import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "agent"))

from waagent_recorded import recorded
from waagent_scene import Caller, Scene, handler_status, status

from quiesce.agent.waagent.host import AgentHost
from quiesce.agent.waagent.settings import Command, Settings

SECONDS = float(os.environ.get("QUIESCE_FUZZ_SECONDS", "5"))
FIRST_SEED = int(os.environ.get("QUIESCE_FUZZ_SEED", random.SystemRandom().randrange(10**9)))
SLOWEST_ANSWER_SECONDS = 5
_IS_THAT_ALL_SECONDS = 0.5
VM = "127.0.0.11"

METHODS = ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "brew"]
HEADERS = [
    *("x-ms-containerid", "x-ms-version", "x-ms-guest-agent-public-x509-cert", "Host"),
    *("x-ms-artifact-location", "Content-Type", "Content-Length", "Transfer-Encoding", "Expect"),
    *("Connection", "Upgrade", "Cookie", "Range", "x-ms-host-config-name", "Accept-Encoding"),
]
VALUES = ["", "0", "-1", "1", "99999999999999999999", "chunked", "close", "keep-alive", "*", "h:0"]
VALUES += ["100-continue", "websocket", "h2c", "[::1]:80", "http://[", "file:///etc/passwd", "é"]

fuzzing = settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),
)


@pytest.fixture(scope="module")
def host() -> Iterator[AgentHost]:
    with Scene().running() as running:
        running._agent("web").ask(running.offered_version, Settings(Command.IDLE))
        running._agent("web").begin("attempt")
        yield running
        assert Caller(running, VM).get("/?comp=versions").status_code == 200, "it still serves"


def batches(check: Callable[[], None]) -> None:
    """Run `check`, a hypothesis test, with one seed after the other until the time is up."""
    end, number = time.monotonic() + SECONDS, FIRST_SEED
    while time.monotonic() < end:
        print(f"fuzzing the wire server, QUIESCE_FUZZ_SEED={number}")
        seed(number)(check)()
        number += 1


def answered(port: int, raw: bytes) -> int:
    """The status of the answer; 0 when the connection was closed without one. A request that has
    no end is waited for, like a slow one, until its sender says that nothing more comes."""
    with socket.create_connection(
        ("127.0.0.1", port), timeout=_IS_THAT_ALL_SECONDS, source_address=(VM, 0)
    ) as connection:
        answer = b""
        try:
            connection.sendall(raw)
            answer = connection.recv(65536)
        except ConnectionError:
            return 0
        except TimeoutError:
            connection.settimeout(SLOWEST_ANSWER_SECONDS)
            try:
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(65536)
            except ConnectionError:
                return 0
            except TimeoutError:
                pytest.fail(f"a hang after {raw[:300]!r}")
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def paths(host: AgentHost) -> list[str]:
    dossier = host._agent("web").dossier
    folder = f"/machine/{dossier.container_id}/{dossier.goal.incarnation}"
    return [
        *("/", "/?comp=versions", "/machine", "/machine/?comp=goalstate", "/machine?comp=health"),
        *("/machine?comp=roleProperties", "/machine?comp=telemetrydata", "/HealthService"),
        *(f"{folder}/certificates", f"{folder}/extensionsConfig", f"{folder}/x", "/versions"),
        *(f"/packages/{dossier.token}/manifest.xml", f"/packages/{dossier.token}/..", "/status"),
        *("/health", "/vmSettings", "/vmAgentLog", "/extensionArtifact", "/metadata/instance"),
        *("*", "//", "/%00", "/%ff%fe", "/../../etc/passwd", "http://h/machine/", "/" + "a" * 9000),
    ]


def test_any_request_is_answered_below_500(host: AgentHost) -> None:
    known = paths(host)
    target = st.one_of(
        st.sampled_from(known), st.text(st.characters(min_codepoint=33, max_codepoint=255))
    )
    value = st.one_of(
        st.sampled_from(VALUES),
        st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60),
        st.binary(max_size=90).map(lambda raw: base64.b64encode(raw).decode()),
    )
    headers = st.lists(st.tuples(st.sampled_from(HEADERS), value), max_size=5)

    @fuzzing
    @given(st.sampled_from(host.ports), st.sampled_from(METHODS), target, headers, st.binary())
    def check(port: int, method: str, path: str, named: list[tuple[str, str]], body: bytes) -> None:
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {words}" for name, words in named)]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        assert answered(port, head + body) < 500

    batches(check)


def test_a_bent_recording_of_the_stock_agent_is_answered_below_500(host: AgentHost) -> None:
    dossier = host._agent("web").dossier
    requests = [
        (each.port, each.filled(dossier.container_id, dossier.goal.incarnation, dossier.token))
        for each in recorded().values()
    ]
    cuts = st.integers(0, 3000)

    @fuzzing
    @given(st.sampled_from(requests), cuts, cuts, st.binary(max_size=40))
    def check(request: tuple[int, bytes], at: int, length: int, put: bytes) -> None:
        wire, plugin = host.ports
        asked, raw = request
        bent = raw[:at] + put + raw[at + length % 20 :]
        assert answered(wire if asked == 80 else plugin, bent) < 500

    batches(check)


def with_body(line: str, body: bytes) -> bytes:
    return f"{line} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=12), inner, max_size=5)
    ),
    max_leaves=12,
)
STATUS_KEYS = ["aggregateStatus", "guestAgentStatus", "formattedMessage", "handlerAggregateStatus"]
STATUS_KEYS += ["runtimeSettingsStatus", "settingsStatus", "status", "substatus", "sequenceNumber"]
STATUS_KEYS += ["handlerName", "code", "inSvdSeqNo", "goalStateAggregateStatus", "guestOSInfo"]
REPORT_KEYS = ["attempt", "stage", "session", "hops", "failure", "papers", "version", "task"]
REPORT_KEYS += ["token", "data", "shortened", "mended"]


def bent(document: object, key: str, value: object) -> object:
    """The same document with every field of that name replaced."""
    if isinstance(document, dict):
        return {
            name: value if name == key else bent(inner, key, value)
            for name, inner in document.items()
        }
    if isinstance(document, list):
        return [bent(inner, key, value) for inner in document]
    return document


def test_any_status_and_report_is_taken_or_refused(host: AgentHost) -> None:
    report = {"attempt": "attempt", "stage": "preparing", "hops": [{}], "mended": "m"}
    report |= {"papers": {"token": "a" * 32, "data": "eJwDAAAAAAE=", "shortened": ["x"]}}

    @fuzzing
    @given(st.sampled_from(STATUS_KEYS), st.sampled_from(REPORT_KEYS), json_values)
    def check(status_key: str, report_key: str, value: object) -> None:
        for said in (bent(report, report_key, value), report):
            handler = handler_status(sequence=3, report=said)
            whole = status(acknowledged=3, handler=handler)
            document = whole if said is not report else bent(whole, status_key, value)
            content = base64.b64encode(json.dumps(document).encode()).decode()
            body = json.dumps({"content": content}).encode()
            assert answered(host.ports[1], with_body("PUT /status", body)) in (200, 400)
            host.state("web")
            host._agent("web").sight()

    batches(check)


def test_any_health_report_is_taken_or_refused(host: AgentHost) -> None:
    pieces = ["<Health>", "</Health>", "<State>", "</State>", "Ready", "<!DOCTYPE x [", "]>", "&a;"]
    pieces += ["<!ENTITY a 'b'>", "<![CDATA[", "]]>", "<?x?>", "&#0;", "&#x10FFFF;", "<a b='", "'>"]

    @fuzzing
    @given(st.lists(st.one_of(st.sampled_from(pieces), st.text(max_size=8)), max_size=12))
    def check(parts: list[str]) -> None:
        body = "".join(parts).encode("utf-8", "surrogatepass")
        assert answered(host.ports[0], with_body("POST /machine?comp=health", body)) in (200, 400)
        host.state("web")

    batches(check)
