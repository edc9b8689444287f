"""A synchronous, deadline-bounded way to speak QMP with one QEMU.

`qemu.qmp` does the protocol; it is asynchronous, so one daemon thread of this process runs an
event loop for all monitors. Nothing here waits without a deadline.

QEMU's monitor socket serves one client at a time. Holding a `Monitor` is therefore a lock on the
VM: no other Quiesce process is between two commands of its own while we are connected.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import socket
import struct
import threading
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError

from quiesce.model.failure import Evidence, SnapshotFailure, VmFailure

CONNECT_SECONDS = 10.0
COMMAND_SECONDS = 30.0

# The library logs every refused connection as an error; here each one becomes a Failure that
# carries the same words, and a VM that is off is nothing to alarm anybody about.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)

_T = TypeVar("_T")


class VmAbsent(VmFailure):
    """Nobody listens at the monitor socket: no process runs this VM."""


class QmpRefused(SnapshotFailure):
    """QEMU understood the command and refused it. `error_class` and `desc` are QEMU's words."""

    def __init__(self, command: str, error_class: str, desc: str) -> None:
        super().__init__(
            "hypervisor.command-refused",
            f"QEMU refused {command}: {desc}",
            evidence=[
                Evidence(f"QMP {command} answered {error_class}", "QEMU monitor", raw=desc),
            ],
        )
        self.error_class = error_class
        self.desc = desc


class _LoopThread:
    """The event loop that all monitors of this process share; started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, _T], seconds: float) -> _T:
        """:raise TimeoutError: after `seconds`; the work is cancelled then."""
        future = asyncio.run_coroutine_threadsafe(
            asyncio.wait_for(work, seconds), self._running_loop()
        )
        try:
            # The coroutine's own deadline comes first; this one only bounds a stuck loop.
            return future.result(seconds + 5)
        except concurrent.futures.TimeoutError as inner:
            future.cancel()
            raise TimeoutError(f"no answer within {seconds:g} s") from inner

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True).start()
            return self._loop


_LOOP = _LoopThread()


class Monitor:
    """One connection to a QEMU's monitor; a context manager. Not for several threads at once.

    :raise VmAbsent: vm.not-found when nobody listens at the socket
    :raise VmFailure: vm.unreachable when someone does and there is no greeting in time: QEMU
        hangs, or another client holds the monitor
    """

    def __init__(self, address: Path, *, connect_seconds: float = CONNECT_SECONDS) -> None:
        self.address = address
        self._client = QMPClient("quiesce")
        stream = self._connected(connect_seconds)
        # The process that listens, and its user: who must be able to read and write what we
        # prepare for it, and whose working folder relative image paths start from.
        self.pid, listened_as, _ = struct.unpack(
            "3i", stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
        self.uid = _effective_uid(self.pid, listened_as)
        try:
            _LOOP.run(self._client.connect(stream), connect_seconds)
        except ConnectError as inner:
            stream.close()
            raise VmFailure(
                "vm.unreachable",
                f"What listens at {address} does not speak QMP, or ended just now.",
                evidence=[Evidence("no QMP greeting", str(address), raw=str(inner))],
                retryable=True,
            ) from inner
        except TimeoutError as inner:
            stream.close()
            raise VmFailure(
                "vm.unreachable",
                f"QEMU's monitor at {address} did not greet within {connect_seconds:g} s.",
                evidence=[Evidence("connected, no greeting", str(address), raw=str(inner))],
                remedy="Another program may hold this monitor: give Quiesce a QMP socket of its "
                f"own (-qmp unix:PATH,server=on,wait=off). `ss -xp | grep {address.name}` shows "
                "who is connected.",
                retryable=True,
            ) from inner
        greeting = self._client.greeting
        version: Mapping[str, Any] = greeting.QMP.version if greeting is not None else {}
        qemu = version.get("qemu", {})
        self.version: tuple[int, int, int] = (
            int(qemu.get("major", 0)),
            int(qemu.get("minor", 0)),
            int(qemu.get("micro", 0)),
        )

    @property
    def hypervisor(self) -> str:
        return "QEMU " + ".".join(str(part) for part in self.version)

    def execute(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        seconds: float = COMMAND_SECONDS,
    ) -> Any:
        """Run one command and return QEMU's answer (JSON as Python values).

        :raise QmpRefused: hypervisor.command-refused
        :raise VmFailure: vm.unreachable without an answer in time; vm.gone when the connection
            ended. Whether the command was carried out is then unknown.
        """
        try:
            return _LOOP.run(self._client.execute(command, arguments), seconds)
        except ExecuteError as inner:
            raise QmpRefused(command, inner.error_class, str(inner)) from inner
        except TimeoutError as inner:
            raise VmFailure(
                "vm.unreachable",
                f"QEMU did not answer {command} within {seconds:g} s.",
                evidence=[Evidence(f"no answer to {command}", str(self.address), raw=str(inner))],
                retryable=True,
            ) from inner
        except (QMPError, EOFError, OSError) as inner:
            raise VmFailure(
                "vm.gone",
                f"QEMU closed its monitor during {command}: the VM's process ended.",
                evidence=[Evidence(f"disconnected in {command}", str(self.address))],
                retryable=True,
            ) from inner

    def close(self) -> None:
        """Give the monitor free for the next client. Idempotent; never raises, since whatever
        ended the connection was reported by the command that met it."""
        try:
            _LOOP.run(self._client.disconnect(), 5.0)
        except (QMPError, EOFError, OSError) as ended:
            logging.getLogger(__name__).debug("monitor %s closed: %r", self.address, ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _connected(self, seconds: float) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(seconds)
        try:
            stream.connect(os.fspath(self.address))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as inner:
            stream.close()
            raise VmAbsent(
                "vm.not-found",
                f"No VM process listens at {self.address}.",
                evidence=[Evidence("no listener", str(self.address), raw=str(inner))],
                remedy="Check that the VM runs with -qmp unix:PATH,server=on,wait=off and that "
                "PATH is the one Quiesce was given.",
            ) from inner
        except OSError as inner:  # permission, a path too long, a full backlog
            stream.close()
            raise VmFailure(
                "vm.unreachable",
                f"QEMU's monitor at {self.address} cannot be opened: {inner.strerror or inner}.",
                evidence=[Evidence("connect failed", str(self.address), raw=str(inner))],
                remedy="Run Quiesce as root or as the user that runs QEMU, and keep the path of "
                "the socket below 108 bytes.",
                retryable=isinstance(inner, TimeoutError),
            ) from inner
        stream.setblocking(False)
        return stream


def _effective_uid(pid: int, listened_as: int) -> int:
    """The user a process runs as now: QEMU listens first and gives up its rights then (-runas)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # a QEMU in another PID name space
        return listened_as
    return next((int(line.split()[2]) for line in lines if line.startswith("Uid:")), listened_as)
