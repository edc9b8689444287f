"""A guest in a lab network, and what stands in for a server there."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from quiesce.lab.guest import LabGuest
from quiesce.lab.network import LabNetwork
from quiesce.lab.state import ready_guest

WIRE_SERVER = """
import http.server, sys
class Versions(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (
            b'<?xml version="1.0"?><Versions><Preferred><Version>2012-11-30</Version></Preferred>'
            b'<Supported><Version>2012-11-30</Version></Supported></Versions>'
        )
        known = self.path == "/?comp=versions"
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(body) if known else 0))
        self.end_headers()
        self.wfile.write(body if known else b"")
http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Versions).serve_forever()
"""
"""Enough of a wire server for an agent to accept it as its host, and to be a storage endpoint
that is only connected to."""

TRY = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()
    print("connected")
except OSError as error:
    print(type(error).__name__, error.errno)
"""


@contextmanager
def new(network: LabNetwork) -> Iterator[LabGuest]:
    with (
        tempfile.TemporaryDirectory(prefix="quiesce-e2e-") as folder,
        ready_guest(Path(folder), network=network) as guest,
    ):
        yield guest


@contextmanager
def serving(network: LabNetwork, address: str, port: int) -> Iterator[None]:
    server = subprocess.Popen(
        network.enter([sys.executable, "-c", WIRE_SERVER, address, str(port)]),
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: f"{address}:{port}" in network.run(["ss", "-Hltn"]), 60.0)
        yield
    finally:
        server.kill()
        server.wait()


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)


def attempt(guest: LabGuest, address: str, port: int) -> str:
    """What a guest's program sees that connects there."""
    return guest.run(["python3", "-c", TRY, address, str(port)]).strip()
