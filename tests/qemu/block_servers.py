"""Real QEMU servers over image files, for the tests of block and transfer."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def qemu_io(image: Path, *commands: str, image_format: str = "qcow2") -> None:
    words = [word for command in commands for word in ("-c", command)]
    run("qemu-io", "-f", image_format, *words, image)


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def listens(path: Path) -> bool:
    """A socket that is there already may still refuse: it is bound first, and then listened at."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


@contextmanager
def qemu_nbd(
    image: Path, sock: Path, *, image_format: str = "raw", bitmap: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A read-only server that stays for several clients; at `sock` until the block ends."""
    command = ["qemu-nbd", "-r", "-t", "-e", "8", "-f", image_format, "-x", "disk"]
    command += ["-B", bitmap] if bitmap else []
    process = subprocess.Popen([*command, "-k", str(sock), str(image)])
    try:
        wait_for(lambda: listens(sock) or process.poll() is not None)
        assert process.poll() is None, "qemu-nbd did not start"
        yield process
    finally:
        process.kill()
        process.wait()
        sock.unlink(missing_ok=True)


class StorageDaemon:
    """qemu-storage-daemon, spoken to over QMP."""

    def __init__(self, folder: Path) -> None:
        path = folder / "qmp"
        self.process = subprocess.Popen(
            [
                "qemu-storage-daemon",
                "--chardev",
                f"socket,id=m,path={path},server=on,wait=off",
                "--monitor",
                "chardev=m",
            ]
        )
        wait_for(lambda: listens(path) or self.process.poll() is not None)
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(20)
        self._sock.connect(str(path))
        self._lines = self._sock.makefile("r")
        self._lines.readline()
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments: Any) -> Any:
        words = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._sock.sendall(json.dumps({"execute": command, "arguments": words}).encode() + b"\n")
        while True:
            answer = json.loads(self._lines.readline())
            if "event" not in answer:
                assert "return" in answer, answer
                return answer["return"]

    def close(self) -> None:
        self._lines.close()
        self._sock.close()
        self.process.kill()
        self.process.wait()
