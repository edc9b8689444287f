"""Real servers on loopback for the guest's network code: a certificate authority, a storage
endpoint over TLS, an HTTP proxy. Each runs in threads of the test."""

from __future__ import annotations

import base64
import datetime
import http.server
import ipaddress
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """A certificate authority whose files lie in `folder`."""

    def __init__(self, folder: Path, name: str = "Quiesce test CA") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        self._certificate = (
            self._builder(self._name, now - 1000 * DAY, now + 1000 * DAY)
            .public_key(self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        self._made = 0

    def _builder(
        self, subject: x509.Name, begins: datetime.datetime, ends: datetime.datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
        )

    @property
    def pem(self) -> str:
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def context_for(self, host: str, *, begins_in_days: int = -1, days: int = 30) -> ssl.SSLContext:
        """A server's side, with a certificate for `host` (a name or an address)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        begins = datetime.datetime.now(datetime.UTC) + begins_in_days * DAY
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        certificate = (
            self._builder(subject, begins, begins + days * DAY)
            .public_key(key.public_key())
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self._made += 1
        path = self._folder / f"server-{self._made}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Reply:
    status: int = 201
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    hang_up: bool = False
    """Close the connection instead of answering."""


Answering = Callable[[Request], Reply]


def snapshot_taken(request: Request) -> Reply:
    """What a storage endpoint answers when all is well."""
    if "comp=snapshot" in request.target:
        return Reply(headers={"x-ms-snapshot": "2026-01-31T12:00:00.0000000Z"})
    if request.method == "GET":
        return refusal(400, "InvalidQueryParameterValue", "Not without a key.")
    return Reply()


def refusal(status: int, code: str, message: str) -> Reply:
    text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Reply(status, {"x-ms-request-id": "1"}, text.encode())


class _Threads(socketserver.ThreadingMixIn):
    """A thread for each connection, waited for at the end: one that lives on would share the
    process's mount namespace and keep a test from leaving it."""

    daemon_threads = True
    block_on_close = False

    def begin(self) -> None:
        self._working: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self.serve_forever, daemon=True)  # type: ignore[attr-defined]
        self._accepting.start()

    def process_request(self, request: object, client_address: object) -> None:
        work = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            daemon=True,
        )
        self._working.append(work)
        work.start()

    def end(self) -> None:
        self.shutdown()  # type: ignore[attr-defined]
        self.server_close()
        for thread in (self._accepting, *self._working):
            thread.join(10)


class Server:
    """An HTTP server that remembers what it was asked. `context` makes it HTTPS."""

    def __init__(
        self, answer: Answering, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Request(self.command, self.path, headers, self.rfile.read(length))
                outer.requests.append(asked)
                reply = answer(asked)
                if reply.hang_up:
                    self.close_connection = True
                    return
                self.send_response_only(reply.status)
                self.send_header("Date", reply.headers.pop("Date", self.date_time_string()))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            do_GET = do_PUT = _serve  # noqa: N815 - the library's names

            def log_message(self, *words: object) -> None:
                """A test's output is not a log."""

        class Listener(_Threads, http.server.HTTPServer):
            def finish_request(self, request: socket.socket, address: object) -> None:
                try:
                    if context is not None:
                        request = context.wrap_socket(request, server_side=True)
                    Handler(request, address, self)
                except OSError:
                    return  # the client did not like the certificate, or has gone

        self._listener = Listener((host, 0), Handler)
        self.port = int(self._listener.server_address[1])
        self._listener.begin()

    @property
    def snapshots(self) -> list[Request]:
        return [one for one in self.requests if "comp=snapshot" in one.target]

    def close(self) -> None:
        self._listener.end()


class Proxy:
    """An HTTP proxy: CONNECT, and absolute URIs. `names` says where names lead to, since nothing
    resolves here."""

    def __init__(
        self, *, account: str = "", status: int = 200, names: dict[str, str] | None = None
    ) -> None:
        self.asked: list[str] = []
        outer = self
        wanted = "Basic " + base64.b64encode(account.encode()).decode() if account else ""

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                line = self.rfile.readline().decode().strip()
                headers: dict[str, str] = {}
                while (text := self.rfile.readline().decode().strip()) != "":
                    name, _, value = text.partition(":")
                    headers[name.lower()] = value.strip()
                outer.asked.append(line)
                refused = status if status != 200 else 0
                if wanted and headers.get("proxy-authorization") != wanted:
                    refused = 407
                if refused:
                    self.wfile.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % refused)
                    return
                method, target, _ = line.split(" ")
                if method == "CONNECT":
                    host, _, port = target.rpartition(":")
                    with self._reach(host, int(port)) as behind:
                        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                        _pass_on(self.connection, behind)
                else:
                    parts = urlsplit(target)
                    assert parts.hostname is not None
                    with self._reach(parts.hostname, parts.port or 80) as behind:
                        path = parts.path + ("?" + parts.query if parts.query else "")
                        length = headers.get("content-length", "0")
                        head = f"{method} {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
                        head += f"Content-Length: {length}\r\nConnection: close\r\n\r\n"
                        behind.sendall(head.encode() + self.rfile.read(int(length)))
                        _pass_on(self.connection, behind)

            def _reach(self, host: str, port: int) -> socket.socket:
                return socket.create_connection(((names or {}).get(host, host), port), 5)

        class Listener(_Threads, socketserver.TCPServer):
            allow_reuse_address = True

        self._listener = Listener(("127.0.0.1", 0), Handler)
        self.port = int(self._listener.server_address[1])
        self._listener.begin()

    def close(self) -> None:
        self._listener.end()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    pairs = {one: other, other: one}
    while True:
        for ready in select.select(list(pairs), [], [], 30)[0]:
            try:
                data = ready.recv(65536)
                pairs[ready].sendall(data)
            except ConnectionError:
                return
            if not data:
                return


@contextmanager
def silent_listener() -> Iterator[int]:
    """The port of a listener that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])
