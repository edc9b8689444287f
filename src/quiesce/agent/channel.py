"""The host's end of an agent channel: the unix socket of QEMU's character device.

QEMU accepts one client at a time and leaves the next one waiting in the kernel's queue, where
`connect` looks like a success. Who is at fault when no answer comes is told by three facts that
the host's kernel knows:

| accepted by QEMU | our bytes taken | so |
|---|---|---|
| no  | –   | another client holds the channel |
| yes | no  | nobody in the guest has opened the port: QEMU reads only for an open port |
| yes | yes | the agent has opened the port and does not answer |
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import termios
import time
from pathlib import Path

from quiesce.model.failure import AgentFailure, Evidence

_PROC_UNIX = Path("/proc/net/unix")
_CONNECTING = "02"
"""State of a stream socket in /proc/net/unix that nobody has accepted yet (SS_CONNECTING)."""
_QUEUE_POLL_SECONDS = 0.05


class Channel:
    """A connected socket with deadlines as monotonic times. Not thread-safe."""

    def __init__(self, path: Path, deadline: float) -> None:
        """:raise AgentFailure: agent.channel-missing, agent.channel-denied, agent.channel-busy"""
        self.path = path
        self._socket = _connect(path, deadline)

    def send(self, data: bytes, deadline: float) -> None:
        """:raise TimeoutError: the peer did not take all of it
        :raise OSError: the peer is gone"""
        view = memoryview(data)
        while view:
            self._socket.settimeout(_remaining(deadline))
            view = view[self._socket.send(view) :]

    def receive(self, deadline: float) -> bytes:
        """Some bytes, at least one.

        :raise TimeoutError: none came
        :raise OSError: the peer is gone"""
        self._socket.settimeout(_remaining(deadline))
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "QEMU closed the agent channel")
        return data

    def peek(self) -> bytes | None:
        """What has arrived and was not asked for: None for nothing, empty when QEMU has gone."""
        self._socket.settimeout(0)
        try:
            return self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def unread_bytes(self) -> int:
        """Bytes of ours that QEMU has not taken (SIOCOUTQ, in the kernel's accounting)."""
        raw = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        return int(struct.unpack("i", raw)[0])

    def close(self) -> None:
        self._socket.close()


def somebody_waits_at(path: Path) -> bool:
    """Whether a connection to the listener at `path` has not been accepted."""
    names = {str(path), str(path.resolve())}
    for line in _PROC_UNIX.read_text(errors="replace").splitlines()[1:]:
        columns = line.split(maxsplit=7)
        if len(columns) == 8 and columns[7] in names and columns[5] == _CONNECTING:
            return True
    return False


def _connect(path: Path, deadline: float) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _wait_and_connect(channel, path, deadline)
    except TimeoutError as inner:
        channel.close()
        raise busy(path, "the queue of waiting clients is full") from inner
    except (FileNotFoundError, NotADirectoryError) as inner:
        channel.close()
        raise AgentFailure(
            "agent.channel-missing",
            f"There is no agent channel at {path}.",
            evidence=[Evidence(fact="no such socket", source=str(path), raw=str(inner))],
        ) from inner
    except PermissionError as inner:
        channel.close()
        raise AgentFailure(
            "agent.channel-denied",
            f"Quiesce may not open the agent channel at {path}.",
            evidence=[Evidence(fact="permission denied", source=str(path), raw=str(inner))],
        ) from inner
    except OSError as inner:  # refused, not a socket, path too long
        channel.close()
        raise AgentFailure(
            "agent.channel-missing",
            f"Nothing listens at {path}: the VM is off, or was started without this channel.",
            evidence=[Evidence(fact="connect failed", source=str(path), raw=str(inner))],
            retryable=isinstance(inner, ConnectionRefusedError),
        ) from inner
    return channel


def _wait_and_connect(channel: socket.socket, path: Path, deadline: float) -> None:
    while True:
        channel.settimeout(_remaining(deadline))
        try:
            return channel.connect(str(path))
        except BlockingIOError:  # the queue is full; Linux does not wait for a place in it
            time.sleep(min(_QUEUE_POLL_SECONDS, _remaining(deadline)))


def busy(path: Path, fact: str) -> AgentFailure:
    return AgentFailure(
        "agent.channel-busy",
        f"Another program holds the agent channel at {path}; QEMU admits one at a time.",
        evidence=[Evidence(fact=fact, source=str(path))],
        remedy=f"Find it with: ss -xp | grep {path.name}",
        retryable=True,
    )


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("the call's deadline has passed")
    return remaining
