"""What deep_fuzz.py feeds: each target takes one input and raises when the server would do what it
must not.

HTTP inputs are requests as they go over the wire, several with a line of `====` between them. Their
framing is mended before the application sees them, since broken framing ends in the HTTP servers,
which the tests beside this file attack. `{CONTAINER}`, `{INCARNATION}`, `{TOKEN}` and `{SIG}` stand
for what is different in every run.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote
from xml.etree import ElementTree

import h11
import httptools

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "agent"))

from paper_inputs import bundle_seeds, look_through, papers_from, papers_seeds, read_through
from storage_site import PaperDisk, Takes
from waagent_recorded import recorded
from waagent_scene import Scene, handler_status
from waagent_scene import status as agents_status

from quiesce.agent.session_state import json_object, mount_plan, session_state
from quiesce.agent.waagent.certificates import transport_certificate
from quiesce.agent.waagent.deadlines import Deadlines
from quiesce.agent.waagent.evidence import evidence_of, handler_failure, settings_failure
from quiesce.agent.waagent.health import read_health
from quiesce.agent.waagent.report import read_hops, read_report
from quiesce.agent.waagent.settings import Command, Settings
from quiesce.agent.waagent.vm_agent import VmAgent
from quiesce.model.extent import ExtentKind
from quiesce.model.failure import Evidence, Failure
from quiesce.storage.blob import Blob
from quiesce.storage.blob_service import BlobService
from quiesce.storage.containers import Containers
from quiesce.storage.naming import STATUS_BLOB, container_of, disk_blob, log_blob, report_blob
from quiesce.storage.sas import signature

Target = Callable[[bytes], None]

BETWEEN = b"\n====\n"
_REQUESTS_PER_INPUT = 4
_VM, _PEER, _ATTEMPT = "web", "127.0.0.11", "attempt"
_HEADER_NAME = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(rb"[\x21-\xff](?:[\x21-\xff \t]*[\x21-\xff])?|")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_METHOD = re.compile(rb"[A-Z]{1,20}")
_FRAMING = (b"content-length", b"transfer-encoding", b"connection", b"expect")


# ---------------------------------------------------------------- HTTP


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
        "client": (_PEER, 40000),
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


# ---------------------------------------------------------------- the storage endpoint


class _Visit:
    def let_in(self) -> None:
        pass


def storage() -> Target:
    """Every signed operation; `sig={SIG}` is a good signature of whatever the rest of the query
    says by then. Each input begins with the same blobs."""
    containers = Containers(Path("build/fuzz/storage/blobs"))  # libFuzzer's exit cleans nothing up
    attempt = containers.open(
        _VM, _ATTEMPT, ["vda", "vdb"], take=Takes(), reported=lambda content: None
    )
    taken_at = attempt.point().result(5)
    kinds = [ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.CLEAN, ExtentKind.DATA]
    attempt.publish({"vda": PaperDisk(kinds)}, previous=taken_at)
    status = containers.status(_VM)
    key, here = bytes(32), HereAndNow(1)
    service = BlobService(containers, key, writers=here, readers=here)
    loop = event_loop()

    def target(data: bytes) -> None:
        attempt.report._blob = attempt.log._blob = Blob()
        status.remove()
        for raw in requests_of(data):
            request = scope_of(raw, "https")
            if request is None:
                continue
            scope, body = request
            scope["query_string"] = _signed(scope["raw_path"], scope["query_string"], key)
            scope["state"] = {"visit": _Visit()}
            answer = loop.run_until_complete(answered(service, scope, body))
            assert_fair(answer)
            if answer.status >= 400:
                assert answer.headers["x-ms-error-code"], answer
                said = ElementTree.fromstring(answer.body).findtext("Code")
                assert said == answer.headers["x-ms-error-code"], answer

    return target


def _signed(raw_path: bytes, query: bytes, key: bytes) -> bytes:
    if b"{SIG}" not in query:
        return query
    try:
        fields = dict(parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict"))
        container, blob = unquote(raw_path.decode("ascii"), errors="strict").split("/", 3)[2:]
        fields.setdefault("sv", "")
        fields.setdefault("sr", "")
        good = signature(key, fields, container, blob)
    except ValueError:
        return query
    return query.replace(b"{SIG}", quote(good, safe="").encode())


def storage_seeds() -> list[bytes]:
    folder = f"/quiesce/{container_of(_VM)}/"
    disk, report = folder + disk_blob(_ATTEMPT, "vda"), folder + report_blob(_ATTEMPT)
    log, status = folder + log_blob(_ATTEMPT), folder + STATUS_BLOB
    snapshot = "&snapshot=2026-11-22T23:01:02.1234560Z"

    def ask(
        line: str, extra: str = "", headers: Sequence[str] = (), body: bytes = b"", sr: str = "b"
    ) -> bytes:
        method, _, path = line.partition(" ")
        query = f"sv=2020-12-06&spr=https&se=2099-01-01T00%3A00%3A00Z&sr={sr}&sp=racwd{extra}"
        head = [f"{method} {path}?{query}&sig={{SIG}} HTTP/1.1", "Host: h", *headers, "", ""]
        return "\r\n".join(head).encode() + body

    block, page = "x-ms-blob-type: BlockBlob", "x-ms-blob-type: PageBlob"
    made = ask(f"PUT {status}", headers=[page, "x-ms-blob-content-length: 2048"])
    update = ["x-ms-page-write: update", "x-ms-range: bytes=0-511"]
    clear = ["x-ms-page-write: clear", "x-ms-range: bytes=512-1023"]
    single = [
        ask(f"PUT {disk}", "&comp=snapshot", ["x-ms-meta-task: 1", "x-ms-version: 2020-12-06"]),
        ask(f"GET {disk}", snapshot, ["x-ms-range: bytes=512-1023"], sr="bs"),
        ask(f"HEAD {disk}", snapshot, sr="bs"),
        ask(f"GET {disk}", f"{snapshot}&comp=pagelist&maxresults=1&marker=512", sr="bs"),
        ask(f"GET {disk}", f"{snapshot}&comp=pagelist&prevsnapshot=2026-11-22T23:01:02.1234560Z"),
        ask(f"PUT {log}", "&comp=metadata", ["x-ms-meta-a: b", "If-Match: *"]),
        ask(f"GET {report}", "&st=2020-01-01&sip=127.0.0.1-127.0.0.255", sr="c"),
    ]
    whole = [block, "Content-MD5: XUFAKrxLKna5cZ2REBfFkg==", "x-ms-client-request-id: 1"]
    since = "If-Modified-Since: Sun, 22 Nov 2026 23:01:02 GMT"
    courses = [
        [ask(f"PUT {report}", "", whole, b"hello"), ask(f"GET {report}", "", [since])],
        [ask(f"PUT {log}", "", [block, "If-None-Match: *"], b"x"), ask(f"HEAD {log}")],
        [
            made,
            ask(f"PUT {status}", "&comp=page", update, bytes(511) + b"x"),
            ask(f"PUT {status}", "&comp=page", clear),
            ask(f"GET {status}", "&comp=pagelist", ["Range: bytes=0-1023"]),
        ],
        [
            made,
            ask(f"PUT {status}", "&comp=properties", ["x-ms-blob-content-length: 512"]),
            ask(f"GET {status}", "&comp=metadata"),
        ],
    ]
    return [*single, *(BETWEEN.join(course) for course in courses)]


# ---------------------------------------------------------------- wire server and host plugin


def _server(number: int) -> Target:
    host = Scene().host()
    agent = host._agent(_VM)
    agent.ask(host.offered_version, Settings(Command.IDLE))
    agent.begin(_ATTEMPT)
    app = host._listener._apps[number][1]
    loop = event_loop()
    dossier = agent.dossier
    places = {
        b"{CONTAINER}": dossier.container_id.encode(),
        b"{INCARNATION}": str(dossier.goal.incarnation).encode(),
        b"{TOKEN}": dossier.token.encode(),
    }

    def target(data: bytes) -> None:
        for raw in requests_of(data):
            for place, value in places.items():
                raw = raw.replace(place, value)
            request = scope_of(raw, "http")
            if request is None:
                continue
            answer = loop.run_until_complete(answered(app, *request))
            assert_fair(answer)
            if answer.body and answer.headers.get("content-type", "").startswith("text/xml"):
                ElementTree.fromstring(answer.body)
        _look(agent)

    return target


def wire() -> Target:
    return _server(0)


def plugin() -> Target:
    return _server(1)


def _recordings(port: int) -> list[bytes]:
    return [each.template for each in recorded().values() if each.port == port]


def wire_seeds() -> list[bytes]:
    return _recordings(80)


def plugin_seeds() -> list[bytes]:
    artifact = b"GET /extensionArtifact HTTP/1.1\r\nHost: h\r\nx-ms-artifact-location: http://"
    where = [b"h/packages/{TOKEN}/manifest.xml", b"h/packages/{TOKEN}/1.2.3.1.zip"]
    return [*_recordings(32526), *(artifact + place + b"\r\n\r\n" for place in where)]


# ---------------------------------------------------------------- documents


def _agent() -> VmAgent:
    host = Scene().host()
    agent = host._agent(_VM)
    agent.ask(host.offered_version, Settings(Command.IDLE))
    agent.begin(_ATTEMPT)
    return agent


def _look(agent: VmAgent) -> None:
    """What the server's other threads do with what has been reported."""
    agent.state()
    sight = agent.sight()
    evidence_of(sight)
    if sight.status is not None and sight.status.ours is not None:
        handler_failure(sight.status.ours, sight)
        settings_failure(sight.status.ours, sight)
    if sight.report is not None:
        Deadlines().of_stage(sight.report, 10, sight.period_seconds)


def _coded(work: Callable[[], object]) -> None:
    evidence: Sequence[Evidence] = ()
    try:
        work()
    except Failure as refused:
        evidence = refused.evidence
    assert all(printed(each.raw) and printed(each.fact) for each in evidence), evidence


def printed(text: str) -> bool:
    """What a terminal and a log may be given."""
    return len(text) < 8192 and all(c.isprintable() or c in "\n\t" for c in text)


def status() -> Target:
    agent = _agent()

    def target(data: bytes) -> None:
        agent.begin(_ATTEMPT)
        _coded(lambda: agent.take_status(data))
        _look(agent)
        state = agent.state()
        assert printed(state.message), state
        assert printed(state.operating_system), state

    return target


def status_seeds() -> list[bytes]:
    body = recorded()["status"].template.partition(b"\r\n\r\n")[2]
    handlers = [
        handler_status(sequence=3, report=json.loads(report_seeds()[0])),
        handler_status(handler="NotReady", code=1009, message="[extension.install-failed] no"),
    ]
    made = [
        json.dumps(agents_status(acknowledged=3, handler=handler)).encode() for handler in handlers
    ]
    return [base64.b64decode(json.loads(body)["content"]), *made]


def health() -> Target:
    agent = _agent()

    def target(data: bytes) -> None:
        def taken() -> None:
            said = read_health(data)
            agent.take_health(said.ready, said.words)
            assert printed(said.words), said

        _coded(taken)
        _look(agent)

    return target


def health_seeds() -> list[bytes]:
    bodies = [recorded()[name].template for name in ("health-ready", "health-not-ready")]
    return [body.partition(b"\r\n\r\n")[2] for body in bodies]


def report() -> Target:
    agent = _agent()

    def target(data: bytes) -> None:
        def parts() -> None:
            document = json_object(data, "probe")
            read_hops(document.get("hops"))
            try:
                mount_plan(document.get("mounts"))
            except (KeyError, TypeError):
                return  # its contract

        agent.begin(_ATTEMPT)
        for work in (lambda: read_report(data), lambda: session_state(data), parts):
            _coded(work)
        agent.take_report(_ATTEMPT, data)
        _look(agent)

    return target


_SESSION = b"""{"task": "attempt", "state": "done", "version": "1.2.3", "pid": 7, "mounts":
[{"mount": "/", "file_system": "ext4", "action": "freeze"}, {"mount": "/b", "file_system": "vfat",
"action": "skip", "reason": "r", "downgrades": true}], "scripts": {"configured": true, "pre":
{"path": "/p", "exit_code": 0, "seconds": 0.5, "stderr": ""}, "post": null}, "freeze": {"mounts":
[{"mount": "/", "file_system": "ext4", "freeze_ms": 3.5, "frozen_ms": 70, "skipped": ""}],
"held": true, "hold_seconds": 1.5, "thawed_by": "session"}, "warnings": ["w"], "failure": null}"""
_REPORT = b"""{"attempt": "attempt", "task": "t", "version": "1.2.3", "stage": "done", "taken_at":
"2026-11-22T23:01:02.1234560Z", "session": %s, "hops": [{"name": "tls", "ok": true, "detail": "d",
"milliseconds": 3.5, "code": "", "raw": ""}], "papers": {"token":
"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "data": "eJwDAAAAAAE=", "shortened": ["x"]}, "mended": "m",
"failure": %s}"""
_FAILURE = b"""{"code": "network.refused", "message": "m", "retryable": true, "remedy": "r",
"evidence": [{"fact": "f", "source": "s", "raw": "r"}]}"""


def report_seeds() -> list[bytes]:
    failed = _REPORT.replace(b'"done"', b'"failed"') % (b"null", _FAILURE)
    ended = _SESSION.replace(b'"failure": null', b'"failure": ' + _FAILURE)
    return [_REPORT % (_SESSION, b"null"), failed, _SESSION, ended]


def certificate() -> Target:
    def target(data: bytes) -> None:
        _coded(lambda: transport_certificate(base64.b64encode(data).decode()))
        _coded(lambda: transport_certificate(data.decode("latin-1")))

    return target


def certificate_seeds() -> list[bytes]:
    head = recorded()["certificates"].template
    header = head.partition(b"public-x509-cert: ")[2].partition(b"\r\n")[0]
    return [base64.b64decode(header)]


TARGETS: Mapping[str, tuple[Callable[[], Target], Callable[[], list[bytes]]]] = {
    "storage": (storage, storage_seeds),
    "wire": (wire, wire_seeds),
    "plugin": (plugin, plugin_seeds),
    "status": (status, status_seeds),
    "health": (health, health_seeds),
    "report": (report, report_seeds),
    "certificate": (certificate, certificate_seeds),
    "bundle": (lambda: read_through, bundle_seeds),
    "papers": (lambda: lambda data: look_through(papers_from(data)), papers_seeds),
}
"""How each is made, and its first inputs."""
JSON_TARGETS = ("status", "report")
HTTP_TARGETS = ("storage", "wire", "plugin")
VALUES = [
    *("", "*", "0", "1", "-1", "511", "512", "1024", "18446744073709551616", "4194816", "PageBlob"),
    *(
        "bytes=0-511",
        "bytes=9-",
        "update",
        "clear",
        "%",
        "%00",
        "%ff",
        "\xff",
        "a=b",
        "a,b",
        "x" * 300,
    ),
    *(
        "Sun, 22 Nov 2026 23:01:02 GMT",
        "Mon, 1 Jan 0001 00:00:00 +2359",
        "31 Feb 2026",
        "2026-11-22",
    ),
    *("2026-11-22T23:01:02.1234560Z", "::1", "::ffff:127.0.0.11", "0.0.0.0-255.255.255.255", "b,c"),
]
WORDS = [
    *("comp=", "snapshot=", "pagelist", "metadata", "properties", "page", "prevsnapshot=", "sip="),
    *("marker=", "maxresults=", "timeout=", "rsct=", "st=", "se=", "sp=", "sr=bs", "sv=", "spr="),
    *("Range: bytes=", "x-ms-range: ", "x-ms-page-write: ", "x-ms-blob-content-length: "),
    *("If-Match: ", "If-None-Match: *", "If-Modified-Since: ", "If-Unmodified-Since: "),
    *("Content-MD5: ", "x-ms-meta-", "x-ms-blob-content-type: ", "x-ms-lease-id: ", "\r\n"),
    *("x-ms-version: ", "x-ms-client-request-id: ", "x-ms-containerid: ", "{CONTAINER}"),
    *("{INCARNATION}", "{TOKEN}", "{SIG}", "%2e%2e", "%00", "%ff", "/..", "\n====\n", "[::1]:80"),
    *("versionid=", "restype=", "rscc=", "ss=", "si=", "sr=", "Authorization: ", "Expect: "),
    *("x-ms-structured-body: ", "x-ms-meta-: ", "x-ms-blob-type: ", "Content-Type: "),
    *("x-ms-artifact-location: ", "Host: ", "http://[", "certificates", "extensionsConfig"),
    *("<?xml version='1.0' encoding='", "?>", "<!DOCTYPE x [", "<!ENTITY a 'b'>", "&a;", "&#0;"),
    *("<![CDATA[", "]]>", "<State>", "Ready", "utf-16", "latin-1", "utf-7", "xmlns:a='b'"),
    *("NaN", "Infinity", "-1", "1e999", "18446744073709551616", "null", "\\ud800", "\\u0000"),
]
