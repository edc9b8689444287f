"""A server that is told to stop stops, whatever it is asked at that moment."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

SERVER = """
import sys, time
from pathlib import Path
from quiesce.api.serve import serve
from quiesce.service.service import Service
from quiesce.service.settings import Settings

folder = Path(sys.argv[1])
service = Service(Settings(data_folder=folder, port=0))

def test(name, channel=None):
    (folder / "asked").touch()
    time.sleep(120)

service.network.test = test
serve(service)
"""


def test_a_guest_that_is_being_asked_does_not_keep_the_server_from_stopping(
    tmp_path: Path,
) -> None:
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path)])
    try:
        (socket,) = eventually(lambda: list(tmp_path.rglob("quiesce.sock")))
        client = httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=60)

        def ask() -> None:
            with contextlib.suppress(httpx.HTTPError):
                client.post("http://quiesce/api/v1/vms/web/network-test")

        threading.Thread(target=ask, daemon=True).start()
        eventually(lambda: (tmp_path / "asked").exists())
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()


def eventually(look):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 120
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.1)
    return found
