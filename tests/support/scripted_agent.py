"""Protocol peers: a unix socket behind which something speaks as a QEMU guest agent does."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quiesce.agent.package import ExtensionPackage
from quiesce.model.failure import Failure

Handler = Callable[[dict[str, Any]], Any]
PACKAGE = ExtensionPackage("1.0", "ab" * 32, b"zip bytes")


class RefusalError(Exception):
    """Raised by a handler: the agent answers with this error."""

    def __init__(self, description: str, error_class: str = "GenericError") -> None:
        super().__init__(description)
        self.error = {"class": error_class, "desc": description}


class Raw(bytes):
    """Returned by a handler: these bytes go over the wire instead of an answer."""


HANG_UP = Raw()
"""Returned by a handler: the connection ends here."""


class ScriptedAgent:
    """Serves one client at a time, as QEMU's character device does.

    `handlers` maps commands to what they return; unknown ones are refused as QGA refuses them.
    `before_sync` goes out ahead of every answer to a sync; after a command named by
    `hangs_up_after` the connection ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handlers: dict[str, Handler] = {"guest-ping": lambda _: {}}
        self.before_sync = b""
        self.answers_sync = True
        self.sync_delay_seconds = 0.0
        self.pieces = 1 << 20
        self.received: list[str] = []
        self.connections = 0
        self.hangs_up_after = ""
        self.hung_up = threading.Semaphore(0)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                with client, contextlib.suppress(OSError), client.makefile("rb") as lines:
                    for line in lines:
                        reply = self._reply(json.loads(line.replace(b"\xff", b"")))
                        if reply is HANG_UP:
                            break
                        for start in range(0, len(reply), self.pieces):
                            client.sendall(reply[start : start + self.pieces])
                        if self.hangs_up_after and self.received[-1] == self.hangs_up_after:
                            break
                    with contextlib.suppress(OSError):
                        client.shutdown(socket.SHUT_RDWR)
                    self.hung_up.release()

    def _reply(self, request: dict[str, Any]) -> bytes:
        command, arguments = request["execute"], request.get("arguments", {})
        self.received.append(command)
        if command == "guest-sync-delimited":
            if not self.answers_sync:
                return b""
            time.sleep(self.sync_delay_seconds)
            return self.before_sync + b"\xff" + _line({"return": arguments["id"]})
        handler = self.handlers.get(command)
        if handler is None:
            description = f"The command {command} has not been found"
            return _line({"error": {"class": "CommandNotFound", "desc": description}})
        try:
            answer = handler(arguments)
        except RefusalError as refusal:
            return _line({"error": refusal.error})
        return answer if isinstance(answer, Raw) else _line({"return": answer})


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


class ScriptedGuest(ScriptedAgent):
    """An agent in front of a guest that consists of `files` and of what `run` does.

    `run` gets path, arguments and input of guest-exec and returns (exit code, stdout, stderr);
    `ordered` gets each line written to a FIFO named control.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.files: dict[str, bytes] = {}
        self.ran: list[list[str]] = []
        self.orders: list[str] = []
        self.run: Callable[[str, list[str], bytes], tuple[int, bytes, bytes]] = lambda *_: (
            0,
            b"{}",
            b"",
        )
        self.ordered: Callable[[str], None] = lambda _: None
        self._open: dict[int, str] = {}
        self._numbers = itertools.count(1000)
        self._ended: dict[int, tuple[int, bytes, bytes]] = {}
        self.handlers |= {
            "guest-file-open": self._file_open,
            "guest-file-close": lambda order: self._open.pop(order["handle"]) and {},
            "guest-file-read": self._file_read,
            "guest-file-seek": lambda order: {
                "position": len(self.files[self._open[order["handle"]]]),
                "eof": False,
            },
            "guest-file-write": self._file_write,
            "guest-file-flush": lambda _: {},
            "guest-exec": self._exec,
            "guest-exec-status": self._exec_status,
        }

    @property
    def open_handles(self) -> list[str]:
        return list(self._open.values())

    def _file_open(self, order: dict[str, Any]) -> int:
        if order["path"] not in self.files:
            raise RefusalError(f"failed to open file '{order['path']}': No such file or directory")
        handle = next(self._numbers)
        self._open[handle] = order["path"]
        return handle

    def _file_read(self, order: dict[str, Any]) -> dict[str, Any]:
        content = self.files[self._open[order["handle"]]][: order["count"]]
        return {"count": len(content), "buf-b64": base64.b64encode(content).decode(), "eof": True}

    def _file_write(self, order: dict[str, Any]) -> dict[str, Any]:
        if order["handle"] not in self._open:
            raise RefusalError(f"handle '{order['handle']}' has not been found")
        line = base64.b64decode(order["buf-b64"])
        word = line.decode().strip()
        self.orders.append(word)
        self.ordered(word)
        return {"count": len(line), "eof": False}

    def _exec(self, order: dict[str, Any]) -> dict[str, Any]:
        pid = next(self._numbers)
        self.ran.append([order["path"], *order["arg"]])
        given = base64.b64decode(order.get("input-data", ""))
        self._ended[pid] = self.run(order["path"], order["arg"], given)
        return {"pid": pid}

    def _exec_status(self, order: dict[str, Any]) -> dict[str, Any]:
        code, out, err = self._ended.pop(order["pid"])
        return {
            "exited": True,
            "exitcode": code,
            "out-data": base64.b64encode(out).decode(),
            "err-data": base64.b64encode(err).decode(),
        }


def failure_from(call: object, *arguments: object) -> Failure:
    assert callable(call)
    with pytest.raises(Failure) as caught:
        call(*arguments)
    return caught.value
