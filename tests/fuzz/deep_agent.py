"""Wire server, host plugin and an agent's documents, to be fuzzed: `{CONTAINER}`, `{INCARNATION}`
and `{TOKEN}` stand for what is different in every run."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

from deep_http import ATTEMPT, VM, Target, answered, assert_fair, event_loop, requests_of, scope_of
from waagent_recorded import recorded
from waagent_scene import Scene, handler_status
from waagent_scene import status as agents_status

from quiesce.agent.session_state import json_object, mount_plan, session_state
from quiesce.agent.waagent.certificates import transport_certificate
from quiesce.agent.waagent.deadlines import Deadlines
from quiesce.agent.waagent.evidence import evidence_of, handler_failure, settings_failure
from quiesce.agent.waagent.health import read_health
from quiesce.agent.waagent.host import AgentHost
from quiesce.agent.waagent.report import read_hops, read_report
from quiesce.agent.waagent.settings import Command, Settings
from quiesce.agent.waagent.vm_agent import VmAgent
from quiesce.model.failure import Evidence, Failure


def _asked() -> tuple[AgentHost, VmAgent]:
    host = Scene().host()
    agent = host._agent(VM)
    agent.ask(host.offered_version, Settings(Command.IDLE))
    agent.begin(ATTEMPT)
    return host, agent


def _server(number: int) -> Target:
    host, agent = _asked()
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
    _, agent = _asked()

    def target(data: bytes) -> None:
        agent.begin(ATTEMPT)
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
    _, agent = _asked()

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
    _, agent = _asked()

    def target(data: bytes) -> None:
        def parts() -> None:
            document = json_object(data, "probe")
            read_hops(document.get("hops"))
            try:
                mount_plan(document.get("mounts"))
            except (KeyError, TypeError):
                return  # its contract

        agent.begin(ATTEMPT)
        for work in (lambda: read_report(data), lambda: session_state(data), parts):
            _coded(work)
        agent.take_report(ATTEMPT, data)
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
