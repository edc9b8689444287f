"""From a name to a connection on which a request can be sent, one step after the other.

Every step has a deadline (`until`, monotonic seconds) and says with a code of its own what stood
in the way; the probe makes the same steps one by one.
"""

import errno
import http.client
import io
import socket
import ssl
import subprocess
import threading
import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from . import addresses
from .failure import Fact, Failure
from .mounts import printable
from .proxy import Origin, ProxyServer
from .version import VERSION

_MOST_ADDRESSES = 6
_NOT_YET_VALID, _EXPIRED = 9, 10
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""
_WRONG_NAME = (62, 63, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH, EMAIL_MISMATCH, IP_ADDRESS_MISMATCH."""
USER_AGENT = "Quiesce.VmBackup/" + VERSION


class Address(NamedTuple):
    """One answer of the resolver."""

    family: int
    target: Tuple[Any, ...]

    def __str__(self) -> str:
        host = str(self.target[0])
        return "{}:{}".format("[{}]".format(host) if ":" in host else host, self.target[1])


class Way(NamedTuple):
    """How an origin is reached. `ca_pem` is trusted for it, and for nothing else; empty is for
    plain http."""

    origin: Origin
    ca_pem: str = ""
    proxy: Optional[ProxyServer] = None

    @property
    def first_stop(self) -> Tuple[str, int]:
        stop = self.proxy or self.origin
        return stop.host, stop.port

    def __str__(self) -> str:
        return "{}{}".format(self.origin, " by way of {}".format(self.proxy) if self.proxy else "")


def resolve(host: str, port: int, until: float) -> List[Address]:
    """:raise Failure: network.dns-failed"""
    found: List[Any] = []
    errors: List[Exception] = []

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            errors.append(error)

    # The resolver takes no deadline, so it gets a thread that nobody has to wait for.
    looking = threading.Thread(target=look_up, daemon=True)
    looking.start()
    looking.join(max(0.0, until - time.monotonic()))
    if found:
        return [Address(one[0], one[4]) for one in found[:_MOST_ADDRESSES]]
    why = str(errors[0]) if errors else "the resolver did not answer in time"
    raise Failure(
        "network.dns-failed",
        "The name {} does not resolve in the guest.".format(printable(host)),
        [Fact(why, "resolver", why), Fact("resolvers: " + resolvers(), "/etc/resolv.conf")],
        "In the guest: `getent hosts {}` and `cat /etc/resolv.conf`.".format(printable(host)),
        retryable=True,
    )


def resolvers() -> str:
    """The name servers that the guest is set to, as text."""
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as file:
            lines = file.read(65536).splitlines()
    except OSError as error:
        return "cannot be read: {}".format(error)
    fields = [line.split() for line in lines]
    names = [one[1] for one in fields if len(one) > 1 and one[0] == "nameserver"]
    return ", ".join(printable(name[:64]) for name in names[:8]) or "none"


def connect(addresses: List[Address], until: float, proxy: Optional[ProxyServer]) -> socket.socket:
    """TCP to the first address that answers; each gets an equal share of the time left.

    :raise Failure: network.connect-timeout, .connect-refused, .rejected, .no-route; with a proxy
        network.proxy-unreachable
    """
    failed: Optional[Failure] = None
    for index, address in enumerate(addresses):
        share = (until - time.monotonic()) / (len(addresses) - index)
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(0.001, share))
            sock.connect(address.target)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failed = _no_connection(address, error, proxy)
            failed.__cause__ = error
        else:
            return sock
    assert failed is not None, "a resolver that answers gives at least one address"
    raise failed


def _has_route(address: Address) -> bool:
    """A firewall far away answers with the same error as an `unreachable` route of this guest;
    only the latter keeps a datagram from being sent, too."""
    try:
        addresses.source_for(str(address.target[0]))
    except Failure:
        return False
    return True


def _no_connection(address: Address, error: OSError, proxy: Optional[ProxyServer]) -> Failure:
    timed_out = isinstance(error, socket.timeout) or error.errno == errno.ETIMEDOUT
    raw = "no answer" if timed_out else str(error)
    if proxy is not None:
        return Failure(
            "network.proxy-unreachable",
            "The proxy {} cannot be reached from the guest.".format(proxy),
            [Fact("connecting to {}: {}".format(address, raw), "guest", raw)],
            "See that the proxy runs, or correct the setting.",
            retryable=True,
        )
    facts = [Fact("connecting to {}: {}".format(address, raw), "guest", raw)]
    if error.errno == errno.ENETUNREACH or (
        error.errno == errno.EHOSTUNREACH and not _has_route(address)
    ):
        return Failure(
            "network.no-route",
            "The guest has no route to {}.".format(address.target[0]),
            facts,
            "See the way it would take: `ip route get {}`.".format(address.target[0]),
        )
    if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
        message = "Connections from the guest to {} are refused.".format(address)
        return Failure("network.connect-refused", message, facts, retryable=True)
    if timed_out:
        message = "Connections from the guest to {} are dropped on the way.".format(address)
        return Failure("network.connect-timeout", message, facts, retryable=True)
    message = "Connections from the guest to {} are rejected on the way.".format(address)
    if error.errno in (errno.EPERM, errno.EACCES):
        message = "The guest's own firewall forbids connections to {}.".format(address)
    return Failure("network.rejected", message, facts, retryable=True)


class Bounded:
    """What `http.client.HTTPResponse` reads from: a socket whose reads all end by `until`, however
    slowly the other side drips."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._raw = _BoundedRaw(sock, until)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._raw)


class _BoundedRaw(io.RawIOBase):
    def __init__(self, sock: socket.socket, until: float) -> None:
        self._sock = sock
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._until - time.monotonic()
        if left <= 0:
            raise socket.timeout("timed out")
        self._sock.settimeout(left)
        return self._sock.recv_into(buffer)


def send(sock: socket.socket, data: bytes, until: float) -> None:
    """All of `data` by `until`. :raise OSError:"""
    view = memoryview(data)
    while view:
        left = until - time.monotonic()
        if left <= 0:
            raise socket.timeout("timed out")
        sock.settimeout(left)
        view = view[sock.send(view) :]


def tunnel(sock: socket.socket, origin: Origin, proxy: ProxyServer, until: float) -> None:
    """CONNECT through an HTTP proxy (RFC 9110, 9.3.6).

    :raise Failure: network.proxy-auth-required, .proxy-denied, .proxy-failed, .proxy-unreachable
    """
    lines = ["CONNECT {0} HTTP/1.1".format(origin.authority), "Host: " + origin.authority]
    lines += ["User-Agent: " + USER_AGENT]
    lines += ["Proxy-Authorization: " + proxy.authorization] * bool(proxy.authorization)
    answer = http.client.HTTPResponse(Bounded(sock, until), method="CONNECT")  # type: ignore[arg-type]
    try:
        send(sock, "\r\n".join(lines + ["", ""]).encode("ascii"), until)
        answer.begin()
    except (OSError, http.client.HTTPException) as error:
        raise Failure(
            "network.proxy-unreachable",
            "The proxy {} takes connections and does not answer as an HTTP proxy.".format(proxy),
            [Fact("CONNECT {}".format(origin.authority), "guest", str(error) or repr(error))],
            "See that the proxy setting names an HTTP proxy and the right port.",
            retryable=True,
        ) from error
    if 200 <= answer.status < 300:
        return
    raise proxy_refusal(proxy, origin, answer.status, answer.reason)


def proxy_refusal(proxy: ProxyServer, origin: Origin, status: int, reason: str) -> Failure:
    """What a proxy's own error status means."""
    said = "{} {}".format(status, printable(reason[:200]))
    facts = [Fact("the proxy {} answered {}".format(proxy, said), "guest", said)]
    if status == 407:
        message = "The proxy {} wants a user name and password.".format(proxy)
        if proxy.authorization:
            message = "The proxy {} does not accept the user name and password.".format(proxy)
        return Failure("network.proxy-auth-required", message, facts)
    if status in (500, 502, 503, 504):
        message = "The proxy {} cannot reach {} itself.".format(proxy, origin.authority)
        return Failure("network.proxy-failed", message, facts, retryable=True)
    message = "The proxy {} does not allow {}.".format(proxy, origin.authority)
    return Failure("network.proxy-denied", message, facts)


def tls_context(ca_pem: str) -> ssl.SSLContext:
    """Trusts `ca_pem` alone, and checks the host's name.

    :raise Failure: extension.settings-invalid
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError) as error:
        raise Failure(
            "extension.settings-invalid",
            "The certificate that the server sent for its storage endpoint cannot be read.",
            [Fact("endpoint.ca_pem", "the extension's settings")],
        ) from error
    return context


def secure(
    sock: socket.socket, origin: Origin, context: ssl.SSLContext, until: float
) -> ssl.SSLSocket:
    """TLS on a connection that stands; closes it when it fails.

    :raise Failure: network.tls-untrusted, .clock-skew, .tls-failed
    """
    try:
        sock.settimeout(max(0.001, until - time.monotonic()))
        return context.wrap_socket(sock, server_hostname=origin.host)
    except (OSError, ValueError) as error:  # ValueError: a wrong name, on Python 3.6
        sock.close()
        raise _no_tls(origin, error) from error


def _no_tls(origin: Origin, error: Exception) -> Failure:
    raw = str(error)
    facts = [Fact("TLS with {}: {}".format(origin.authority, raw), "guest", raw)]
    verdict = getattr(error, "verify_code", None)
    if verdict in (_NOT_YET_VALID, _EXPIRED):
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return Failure(
            "network.clock-skew",
            "By the guest's clock ({}) the certificate of {} is {}.".format(
                now, origin.authority, "expired" if verdict == _EXPIRED else "not valid yet"
            ),
            facts,
            "Set the guest's clock: `timedatectl set-ntp true`.",
        )
    wrong_name = verdict in _WRONG_NAME or "match" in raw
    if not wrong_name and (verdict is not None or "CERTIFICATE_VERIFY_FAILED" in raw):
        return Failure(
            "network.tls-untrusted",
            "The certificate that the guest gets from {} is not the storage endpoint's: something "
            "on the way answers in its place.".format(origin.authority),
            facts,
        )
    if isinstance(error, socket.timeout):
        why = "does not answer the greeting"
    elif wrong_name:
        why = "shows a certificate for another name"
    else:
        why = "broke the connection, or what answers is not TLS"
    message = "TLS with {} cannot be spoken: it {}.".format(origin.authority, why)
    return Failure("network.tls-failed", message, facts, retryable=not wrong_name)


def shown_certificate(sock: socket.socket, origin: Origin, until: float) -> str:
    """Issuer, subject and dates of whatever certificate is shown, as text; trusts nothing. For
    the evidence only: "" when it cannot be had."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        sock.settimeout(max(0.001, until - time.monotonic()))
        with context.wrap_socket(sock, server_hostname=origin.host) as shown:
            der = shown.getpeercert(binary_form=True)
        ran = subprocess.run(
            ["openssl", "x509", "-inform", "DER", "-noout", "-issuer", "-subject", "-dates"],
            input=der,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=max(0.1, until - time.monotonic()),
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    lines = ran.stdout.decode("utf-8", "replace").splitlines()
    return printable("; ".join(lines)[:1000])


def headers_of(answer: http.client.HTTPResponse) -> Dict[str, str]:
    """Names in lower case."""
    return {name.lower(): value for name, value in answer.getheaders()}
