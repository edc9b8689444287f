"""Object stores on loopback, as real as this machine can have them, and a way to them that can be
made bad.

    moto     speaks S3 (a Python package); heeds conditions, but looks and writes in two steps, so
             that its way lets one put through at a time; checks no signatures
    Azurite  Microsoft's own emulator of Azure Blob Storage (an npm package); checks signatures
    Google   moto again, behind a way that says the one condition in S3's words: Google's XML API is
             S3's but for that, and no emulator of it can be had from the registries
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from missing import missing
from ports import free_port

AZURITE = Path(sys.prefix) / "azurite/node_modules/.bin/azurite-blob"
_AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = (  # the emulator's own, published by Microsoft
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_START_SECONDS = 240
OWNER = (
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
)
"""Whoever has an access key is the owner to moto, which checks no signature."""

Asked = tuple[str, dict[str, str]]


@dataclass
class Reply:
    """An answer without asking the server."""

    status: int
    body: str = ""


class Lost:
    """The server gets the request and answers; the answer never arrives."""


class Cut:
    """Half of the answer's body arrives."""


@dataclass
class Rule:
    """What happens to the next `times` requests of this method whose path holds `part`."""

    method: str
    part: str
    deed: Reply | Lost | Cut
    times: int = 1


@dataclass
class Seen:
    method: str
    path: str
    status: int


class Way:
    """An HTTP way to a server on loopback. `rules` make it bad; `seen` is what went by; `ahead` is
    how far the time in its answers is ahead of this machine's. `translate` may change a request's
    path and headers."""

    def __init__(
        self,
        target: str,
        translate: Callable[[str, dict[str, str]], Asked] = lambda path, headers: (path, headers),
    ) -> None:
        self.rules: list[Rule] = []
        self.seen: list[Seen] = []
        self.ahead = timedelta()
        self._target = urlsplit(target)
        self._translate = translate
        self._lock = threading.Lock()
        self._one_put = threading.Lock()
        way = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                way._pass(self)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{self._target.path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _pass(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        deed = self._deed(handler.command, handler.path)
        if isinstance(deed, Reply):
            self._answer(handler, deed.status, [], deed.body.encode())
            return
        server = http.client.HTTPConnection(self._target.netloc, timeout=60)
        with contextlib.closing(server):
            path, headers = self._translate(handler.path, dict(handler.headers.items()))
            with self._one_put if handler.command == "PUT" else contextlib.nullcontext():
                server.request(handler.command, path, body, headers)
                answer = server.getresponse()
                data = answer.read()
            if isinstance(deed, Lost):
                with self._lock:
                    self.seen.append(Seen(handler.command, handler.path, 0))
                handler.close_connection = True
                handler.connection.shutdown(socket.SHUT_RDWR)
                return
            self._answer(handler, answer.status, answer.getheaders(), data, isinstance(deed, Cut))

    def _answer(
        self,
        handler: http.server.BaseHTTPRequestHandler,
        status: int,
        headers: list[tuple[str, str]],
        data: bytes,
        cut: bool = False,
    ) -> None:
        with self._lock:
            self.seen.append(Seen(handler.command, handler.path, status))
        handler.send_response_only(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length" and handler.command == "HEAD":
                length = value
            elif name.lower() == "date":
                handler.send_header(name, format_datetime(datetime.now(UTC) + self.ahead, True))
            elif name.lower() not in ("content-length", "transfer-encoding", "connection"):
                handler.send_header(name, value)
        handler.send_header("Content-Length", length)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            handler.close_connection = True

    def _deed(self, method: str, path: str) -> Reply | Lost | Cut | None:
        with self._lock:
            for rule in self.rules:
                if rule.times and rule.method == method and rule.part in path:
                    rule.times -= 1
                    return rule.deed
        return None


@dataclass
class Cloud:
    """An object store. `environment` is what its owner would set; `scheme` begins its addresses;
    `way` leads to it."""

    scheme: str
    way: Way
    environment: dict[str, str]
    make_bucket: Callable[[str], None]
    remove_bucket: Callable[[str], None]
    _names: Iterator[int] = field(default_factory=lambda: iter(range(1, 10_000)))

    def new_bucket(self) -> str:
        """A bucket of its own; its name."""
        name = f"bucket-{next(self._names)}"
        self.make_bucket(name)
        return name


@contextlib.contextmanager
def s3_cloud(folder: Path) -> Iterator[Cloud]:
    with _moto(folder) as url:
        way = Way(url, _with_algorithm)
        environment = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_ENDPOINT_URL": way.url,
            "AWS_REGION": "us-east-1",
        }
        with contextlib.closing(way):
            yield Cloud("s3", way, environment, *_s3_buckets(url))


@contextlib.contextmanager
def google_cloud(folder: Path) -> Iterator[Cloud]:
    with _moto(folder) as url:
        way = Way(url, _said_as_s3)
        with contextlib.closing(way):
            yield Cloud("gs", way, {"STORAGE_EMULATOR_HOST": way.url}, *_s3_buckets(url))


@contextlib.contextmanager
def azure_cloud(folder: Path) -> Iterator[Cloud]:
    from azure.storage.blob import BlobServiceClient

    if not AZURITE.exists():
        missing("Azurite is not installed: make azurite")
    port = free_port()
    command = [
        shutil.which("node") or "node", str(AZURITE), "--inMemoryPersistence", "--silent",
        "--blobHost", "127.0.0.1", "--blobPort", str(port), "--skipApiVersionCheck",
        "--disableTelemetry",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}/{_AZURITE_ACCOUNT}"
    with _running(command, url, folder / "azurite.log"):
        way = Way(url)
        service = BlobServiceClient(url, credential=AZURITE_KEY)
        environment = {
            "AZURE_STORAGE_ACCOUNT": _AZURITE_ACCOUNT,
            "AZURE_STORAGE_KEY": AZURITE_KEY,
            "AZURE_STORAGE_ENDPOINT": way.url,
        }
        with contextlib.closing(way), contextlib.closing(service):
            yield Cloud(
                "az",
                way,
                environment,
                lambda name: service.create_container(name) and None,
                service.delete_container,
            )


def _with_algorithm(path: str, headers: dict[str, str]) -> Asked:
    """In a bucket with a retention lock S3 wants any `x-amz-checksum-…`, moto one header more."""
    if any(name.lower().startswith("x-amz-checksum-") for name in headers):
        headers["x-amz-sdk-checksum-algorithm"] = "SHA256"
    return path, headers


def _said_as_s3(path: str, headers: dict[str, str]) -> Asked:
    """Names as they are, since moto does not decode a bucket's; and as a user of the account that
    made the buckets."""
    kept = {
        name: value
        for name, value in headers.items()
        if not name.lower().startswith(("x-goog", "authorization"))
    }
    kept["Authorization"] = OWNER
    if any(name.lower() == "x-goog-if-generation-match" for name in headers):
        kept["If-None-Match"] = "*"
    place, mark, query = path.partition("?")
    return unquote(place) + mark + query, kept


def _s3_buckets(url: str) -> tuple[Callable[[str], None], Callable[[str], None]]:
    def ask(method: str, path: str) -> bytes:
        owner = {"Authorization": OWNER}
        request = urllib.request.Request(f"{url}/{path}", method=method, headers=owner)
        return bytes(_direct().open(request).read())

    def remove(name: str) -> None:
        listed = ask("GET", f"{name}?list-type=2").decode()
        for part in listed.split("<Key>")[1:]:
            ask("DELETE", f"{name}/{part.partition('</Key>')[0]}")
        ask("DELETE", name)

    return lambda name: ask("PUT", name) and None, remove


def _direct() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextlib.contextmanager
def _moto(folder: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    with _running(command, url, folder / "moto.log"):
        yield url


@contextlib.contextmanager
def _running(command: list[str], url: str, log: Path) -> Iterator[None]:
    # However the test run ends, its servers end with it.
    command = ["setpriv", "--pdeathsig", "KILL", *command]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[4]} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        _direct().open(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
