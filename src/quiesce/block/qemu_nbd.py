"""qcow2 images by QEMU's own tools: qemu-img creates them, qemu-nbd writes them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from quiesce.block.nbd import NbdTarget
from quiesce.block.past_cache import can_pass
from quiesce.model.failure import Evidence, RestoreFailure

START_SECONDS = 20.0
STOP_SECONDS = 60.0


def create_qcow2(path: Path, size_bytes: int) -> None:
    """An empty qcow2 image over the existing file at `path`; its size is rounded up to 512.

    :raise RestoreFailure: restore.tool-missing, restore.write-failed
    """
    command = ["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(size_bytes)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=STOP_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise _tool_missing(command[0]) from error
    except subprocess.TimeoutExpired as error:
        raise _broken("qemu-img did not end in time", "") from error
    if done.returncode != 0:
        raise _broken(f"qemu-img ended with {done.returncode}", done.stderr)


class Qcow2Server:
    """A qemu-nbd process of our own that serves one image to us alone, as `disk`.

    It ends by itself when the connection does, and until there is one the kernel ends it with the
    thread that made it: so it outlives neither `stop` nor a crash.
    """

    def __init__(self, image: Path) -> None:
        """:raise RestoreFailure: restore.tool-missing, restore.write-failed"""
        if shutil.which("qemu-nbd") is None:
            raise _tool_missing("qemu-nbd")
        self._folder = tempfile.TemporaryDirectory(
            prefix="quiesce-nbd-", ignore_cleanup_errors=True
        )
        socket = Path(self._folder.name) / "disk"
        self._said = Path(self._folder.name) / "stderr"
        # As for raw files: past the cache it takes half the time.
        cache = "none" if can_pass(image) else "writeback"
        command = ["qemu-nbd", "--format=qcow2", f"--cache={cache}", f"--socket={socket}"]
        tie = ["setpriv", "--pdeathsig", "KILL"]
        try:
            with self._said.open("wb") as said:
                self._process = subprocess.Popen(
                    [*tie, *command, str(image)], stdin=subprocess.DEVNULL, stdout=said, stderr=said
                )
        except FileNotFoundError as error:
            self._folder.cleanup()
            raise _tool_missing(tie[0]) from error
        try:
            self.disk = self._connect(socket)
        except BaseException:
            self.kill()
            raise

    def _connect(self, socket: Path) -> NbdTarget:
        deadline = time.monotonic() + START_SECONDS
        refused: RestoreFailure | None = None
        while time.monotonic() < deadline:
            if socket.exists():
                try:
                    return NbdTarget(socket)
                except RestoreFailure as failure:
                    refused = failure
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=0.02)
                raise _broken(f"qemu-nbd ended with {self._process.returncode}", self._text())
        raise _broken("qemu-nbd did not listen in time", self._text()) from refused

    def stop(self) -> None:
        """Close the image cleanly. Whoever wants the data durable calls `disk.flush` first.

        :raise RestoreFailure: restore.write-failed
        """
        self.disk.close()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise _broken("qemu-nbd did not end in time", self._text()) from error
        if code != 0:
            raise _broken(f"qemu-nbd ended with {code}", self._text())
        self._folder.cleanup()

    def kill(self) -> None:
        """End it at once, whatever becomes of the image. Idempotent."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        disk: NbdTarget | None = getattr(self, "disk", None)
        if disk is not None:
            disk.close()
        self._folder.cleanup()

    def _text(self) -> str:
        with suppress(OSError):
            return self._said.read_text(errors="replace").strip()
        return ""


def _tool_missing(tool: str) -> RestoreFailure:
    return RestoreFailure(
        "restore.tool-missing",
        f"{tool} is not installed on this machine; qcow2 images need it.",
        evidence=[Evidence(f"{tool} is not on the search path", "quiesce")],
        remedy="apt install util-linux" if tool == "setpriv" else "apt install qemu-utils",
    )


def _broken(fact: str, said: str) -> RestoreFailure:
    return RestoreFailure(
        "restore.write-failed",
        "The qcow2 image could not be written.",
        evidence=[Evidence(fact, "qemu-utils", raw=said)],
    )
