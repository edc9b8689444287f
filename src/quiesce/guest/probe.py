"""The guest's way to the host and to the storage endpoint, hop by hop, each by itself.

A hop is `{name, ok, detail, milliseconds, code, raw}` (docs/explanation/guest-route.md). `ok` null
is a hop that was not tried, or a note. Each hop has a deadline of its own; all of them together end
within 25 s, since a hop is not tried after the one that it needs has failed.
"""

import calendar
import email.utils
import http.client
import json
import socket
import sys
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from . import addresses, hosts
from .dial import (
    Address,
    Bounded,
    Way,
    connect,
    resolve,
    secure,
    send,
    shown_certificate,
    tls_context,
    tunnel,
)
from .endpoint import Answer, Connection, prepare
from .failure import Fact, Failure, defect
from .mounts import printable
from .proxy import Origin, origin_of, proxy_for, proxy_settings

WIRE_PORT, PLUGIN_PORT = 80, 32526
SHOWN = ("address", "dhcp-245", "route", "wire-server", "host-plugin") + (
    ("dns", "proxy", "tcp", "tls", "http", "clock")
)
SECONDS = {
    "host": 3.0,
    "dns": 4.0,
    "proxy": 5.0,
    "tcp": 5.0,
    "tls": 4.0,
    "certificate": 2.0,  # to look at whatever is shown in place of the right one
    "http": 4.0,
}
_CLOCK_TOLERANCE_SECONDS = 60.0
_LARGEST_BYTES = 1 << 20


class Question(NamedTuple):
    """What to probe. `way` None leaves the storage endpoint out; `host` "" the host's address."""

    way: Optional[Way]
    host: str
    wire_port: int = WIRE_PORT
    plugin_port: int = PLUGIN_PORT


class Seen(NamedTuple):
    """What one hop found. `ok` None is a note."""

    ok: Optional[bool]
    detail: str
    code: str = ""
    raw: str = ""


def read_question(path: str) -> Question:
    """From JSON in a file or, with "-", on standard input: `endpoint` and `proxy` as in the
    handler's settings, and `host_address`, each of which may be missing.

    :raise Failure: extension.settings-invalid
    """
    try:
        if path == "-":
            text = sys.stdin.read(_LARGEST_BYTES)
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read(_LARGEST_BYTES)
        found = json.loads(text)
        endpoint = found.get("endpoint") or {}
        url, ca_pem = endpoint.get("url") or "", endpoint.get("ca_pem") or ""
        host = found.get("host_address") or ""
    except (OSError, ValueError, AttributeError) as error:
        raise Failure(
            "extension.settings-invalid",
            "The probe's settings cannot be read.",
            [Fact("they are no JSON object", path)],
        ) from error
    if not host and (hosts.agent_is_here() or any(one.host for one in hosts.leases())):
        host = hosts.host_address()
    if not url:
        return Question(None, str(host))
    origin = origin_of(str(url))
    proxy = proxy_for(origin, proxy_settings(found.get("proxy")), (host,) if host else ())
    return Question(Way(origin, str(ca_pem), proxy), str(host))


def run(asked: Question) -> List[Dict[str, Any]]:
    """All hops in the order of `SHOWN`. Never raises: what stands in the way is the answer."""
    probe = _Probe(asked)
    hops = []
    for name, look in probe.steps():
        began = time.monotonic()
        try:
            seen = look()
        except Failure as failure:
            raw = "; ".join(fact.raw or fact.fact for fact in failure.evidence)
            seen = Seen(False, failure.message, failure.code, raw)
        except Exception as error:  # noqa: BLE001 - one hop's defect must not hide the others
            seen = Seen(False, defect(error).message, "extension.defect", repr(error))
        took = 0.0 if seen.ok is None else (time.monotonic() - began) * 1000
        hops.append(
            {
                "name": name,
                "ok": seen.ok,
                "detail": printable(seen.detail[:1000]),
                "milliseconds": round(took, 3),
                "code": seen.code,
                "raw": printable(seen.raw[:1000]),
            }
        )
    probe.close()
    return sorted(hops, key=lambda hop: SHOWN.index(hop["name"]))


class _Probe:
    """The steps, and what each leaves for the next."""

    def __init__(self, asked: Question) -> None:
        self._asked = asked
        self._resolved: List[Address] = []
        self._sock: Optional[socket.socket] = None
        self._answer: Optional[Answer] = None
        self._answered_at = 0.0
        self._leases = hosts.leases()
        self._host_answers = False

    def steps(self) -> List[Tuple[str, Callable[[], Seen]]]:
        return [
            ("address", self._address),
            ("route", self._route),
            ("wire-server", self._wire_server),
            ("host-plugin", self._host_plugin),
            ("dhcp-245", self._dhcp),
            ("dns", self._dns),
            ("proxy", self._proxy),
            ("tcp", self._tcp),
            ("tls", self._tls),
            ("http", self._http),
            ("clock", self._clock),
        ]

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()

    # -- this guest

    def _address(self) -> Seen:
        found = addresses.interfaces()
        shown = ", ".join("{} {}".format(one.name, one.address) for one in found)
        if not found:
            raise Failure("network.no-address", "No network interface of the guest has an address.")
        gateways = ", ".join(addresses.gateways()) or "none"
        return Seen(True, "{}; default gateway: {}".format(shown, gateways))

    def _route(self) -> Seen:
        said = []
        stop = self._asked.way.first_stop[0] if self._asked.way else ""
        for target in (self._asked.host, stop):
            if target and addresses.is_literal(target):
                said.append("{} from {}".format(target, addresses.source_for(target)))
        if not said:
            return Seen(None, "nothing to look for before a name is resolved")
        return Seen(True, "there is a way to " + ", ".join(sorted(set(said))))

    # -- the host

    def _wire_server(self) -> Seen:
        if not self._asked.host:
            return Seen(None, "no Azure Linux agent is installed here")
        answer = self._ask_host(self._asked.wire_port, "/?comp=versions")
        if answer.status == 404:
            raise Failure(
                "network.not-recognised",
                "The host answers, and does not recognise this VM by its network card.",
                [Fact("404 for the list of versions", self._asked.host)],
            )
        if answer.status != 200 or b"<Versions" not in answer.body:
            raise self._hijacked(answer)
        self._host_answers = True
        return Seen(True, "{} answers as wire server".format(self._asked.host))

    def _host_plugin(self) -> Seen:
        if not self._asked.host:
            return Seen(None, "no Azure Linux agent is installed here")
        answer = self._ask_host(self._asked.plugin_port, "/versions")
        if answer.status != 200 or b"2015-09-01" not in answer.body:
            raise self._hijacked(answer)
        return Seen(True, "{} answers as host plugin".format(self._asked.host))

    def _ask_host(self, port: int, path: str) -> Answer:
        """:raise Failure: network.host-address-unreachable"""
        origin = Origin("http", self._asked.host, port)
        way = Way(origin)
        until = time.monotonic() + SECONDS["host"]
        connection = Connection(way)
        try:
            connection.open(until)
            url = str(origin) + path
            return connection.exchange(
                prepare(way, "GET", url, {"x-ms-version": "2012-11-30"}), until
            )
        except Failure as failure:
            raise Failure(
                "network.host-address-unreachable",
                "The host's address {} does not answer on port {}.".format(origin.host, port),
                failure.evidence or [Fact(failure.message, "guest")],
                retryable=True,
            ) from failure
        finally:
            connection.close()

    def _hijacked(self, answer: Answer) -> Failure:
        said = "{} {}".format(answer.status, answer.reason)
        facts = [Fact("it answered " + said, self._asked.host, str(answer.body[:300]))]
        return Failure(
            "network.host-address-hijacked",
            "Something else answers at the host's address {}.".format(self._asked.host),
            facts,
        )

    def _dhcp(self) -> Seen:
        noted = hosts.noted_address()
        uses = "the agent uses {}".format(noted) if noted else "the agent has noted no address yet"
        told = [one for one in self._leases if one.host]
        if told:
            newest = told[-1]
            text = "option 245 says {} ({}); {}".format(newest.host, newest.path, uses)
            return Seen(True, text)
        if not self._asked.host:
            return Seen(None, "no Azure Linux agent is installed here")
        where = "{} lease files looked at".format(len(self._leases))
        if self._host_answers:
            return Seen(None, "no lease tells option 245 ({}); {}".format(where, uses))
        raise Failure(
            "network.dhcp-no-host-address",
            "No DHCP lease tells the host's address, and the known one does not answer.",
            [Fact("no option 245 in " + where, "guest"), Fact(uses, "guest")],
        )

    # -- the storage endpoint

    def _dns(self) -> Seen:
        way = self._asked.way
        if way is None:
            return _not_asked()
        host, port = way.first_stop
        self._resolved = resolve(host, port, time.monotonic() + SECONDS["dns"])
        if addresses.is_literal(host):
            return Seen(None, "{} is an address".format(host))
        shown = ", ".join(str(one.target[0]) for one in self._resolved)
        return Seen(True, "{} is {}".format(host, shown))

    def _proxy(self) -> Seen:
        way = self._asked.way
        if way is None:
            return _not_asked()
        if way.proxy is None:
            return Seen(None, "no proxy for {}".format(way.origin.authority))
        if not self._resolved:
            return _not_tried()
        until = time.monotonic() + SECONDS["proxy"]
        sock = connect(self._resolved, until, way.proxy)
        if way.origin.scheme == "https":
            try:
                tunnel(sock, way.origin, way.proxy, until)
            except Failure:
                sock.close()
                raise
        self._sock = sock
        return Seen(True, "{} lets {} through".format(way.proxy, way.origin.authority))

    def _tcp(self) -> Seen:
        way = self._asked.way
        if way is None:
            return _not_asked()
        if way.proxy is not None:
            return Seen(None, "through the proxy" if self._sock else "not tried: no way through")
        if not self._resolved:
            return _not_tried()
        self._sock = connect(self._resolved, time.monotonic() + SECONDS["tcp"], None)
        peer = self._sock.getpeername()
        return Seen(True, "connected to {}".format(Address(self._sock.family, peer)))

    def _tls(self) -> Seen:
        way = self._asked.way
        if way is None:
            return _not_asked()
        if self._sock is None:
            return _not_tried()
        if way.origin.scheme == "http":
            return Seen(None, "plain http")
        plain, self._sock = self._sock, None
        context = tls_context(way.ca_pem)
        try:
            sock = secure(plain, way.origin, context, time.monotonic() + SECONDS["tls"])
        except Failure as failure:
            shown = self._shown(way)
            if shown:
                raise Failure(
                    failure.code,
                    failure.message + " It shows: " + shown,
                    failure.evidence,
                    failure.remedy,
                ) from failure
            raise
        self._sock = sock
        return Seen(True, "{}, certificate checked for {}".format(sock.version(), way.origin.host))

    def _shown(self, way: Way) -> str:
        until = time.monotonic() + SECONDS["certificate"]
        try:
            sock = connect(self._resolved, until, way.proxy)
            if way.proxy is not None:
                tunnel(sock, way.origin, way.proxy, until)
        except Failure:
            return ""
        return shown_certificate(sock, way.origin, until)

    def _http(self) -> Seen:
        way = self._asked.way
        if way is None:
            return _not_asked()
        if self._sock is None:
            return _not_tried()
        until = time.monotonic() + SECONDS["http"]
        answer = self._ask_endpoint(self._sock, way, until)
        said = "{} {}".format(answer.status, printable(answer.reason[:100]))
        ours = "x-ms-request-id" in answer.headers or b"<Error>" in answer.body
        if not ours:
            raise Failure(
                "network.http-intercepted",
                "What answers at {} is not a storage endpoint.".format(way.origin),
                [Fact("it answered " + said, str(way), str(answer.body[:300]))],
            )
        self._answer = answer
        return Seen(True, "a storage endpoint answers ({}, as it must without a key)".format(said))

    def _ask_endpoint(self, sock: socket.socket, way: Way, until: float) -> Answer:
        request = prepare(way, "GET", "{}/?comp=list".format(way.origin))
        answer = http.client.HTTPResponse(Bounded(sock, until))  # type: ignore[arg-type]
        try:
            send(sock, request, until)
            answer.begin()
            body = answer.read(4096)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Failure(
                "network.connection-lost",
                "The storage endpoint takes the connection and does not answer.",
                [Fact("GET {}".format(way.origin), str(way), str(error) or repr(error))],
                retryable=True,
            ) from error
        self._answered_at = time.time()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, answer.reason, headers, body)

    def _clock(self) -> Seen:
        if self._asked.way is None:
            return _not_asked()
        if self._answer is None:
            return _not_tried()
        stamp = email.utils.parsedate(self._answer.headers.get("date", ""))
        if stamp is None:
            return Seen(None, "the storage endpoint does not tell its time")
        ahead = self._answered_at - calendar.timegm(stamp)
        if abs(ahead) > _CLOCK_TOLERANCE_SECONDS:
            words = "{:.0f} s {}".format(abs(ahead), "ahead of" if ahead > 0 else "behind")
            raise Failure(
                "network.clock-skew",
                "The guest's clock is {} the storage endpoint's.".format(words),
                [Fact(words, "the answer's Date header")],
            )
        return Seen(True, "the clocks differ by {:.0f} s".format(abs(ahead)))


def _not_asked() -> Seen:
    return Seen(None, "no storage endpoint was given")


def _not_tried() -> Seen:
    return Seen(None, "not tried, since an earlier hop failed")
