"""Both servers of the host address, in one thread with one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from quiesce.model.failure import AgentFailure, Evidence

log = structlog.get_logger(__name__)

_http_log = logging.getLogger(f"{__name__}.http")
_http_log.setLevel(logging.ERROR)
"""A peer's bad requests are not our log's matter."""

_CONNECTION_SECONDS = 120.0
"""The agent makes one request per connection and gives up after 10 s of silence."""
_HEADER_SECONDS = 10.0
_CONNECTIONS = 2048
"""Of one server, where the system lets the process open that many files: both servers together
take no more than half of them."""
_SHARE_OF_OPEN_FILES = 4
_CONNECTIONS_PER_PEER = 32
_MAX_HEAD_BYTES = 64 * 1024
_BACKLOG = 2048
_START_SECONDS = 10.0
_SHUTDOWN_SECONDS = 2


class Connections:
    """Those of one server, oldest first. Touched by the event loop's thread only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_peer: dict[str, dict[GuestConnection, None]] = {}
        self._count = 0

    def admit(self, connection: GuestConnection, peer: str) -> None:
        """Count it. One too many of a peer ends at once; one too many of all ends the oldest of
        the peer that has most, one that is being answered only if there is no other."""
        held = self._by_peer.setdefault(peer, {})
        held[connection] = None
        self._count += 1
        if len(held) > _CONNECTIONS_PER_PEER:
            connection.end()
        elif self._count > self._limit:
            most = max(self._by_peer.values(), key=len)
            next((each for each in most if each.idle), next(iter(most))).end()

    def leave(self, connection: GuestConnection, peer: str) -> None:
        """Count it no more. Idempotent."""
        held = self._by_peer.get(peer, {})
        if connection in held:
            del held[connection]
            self._count -= 1
        if not held:
            self._by_peer.pop(peer, None)


class GuestConnection(HttpToolsProtocol):
    """A connection of somebody who may be hostile: how many, how long and how much header, and
    one request at a time."""

    held: ClassVar[Connections]

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.logger = _http_log
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if peer else ""
        self._head_bytes = 0
        self._end = self.loop.call_later(_CONNECTION_SECONDS, self.end)
        self._unfinished = self.loop.call_later(_HEADER_SECONDS, self.end)
        self.held.admit(self, self._peer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        self._unfinished.cancel()
        self.held.leave(self, self._peer)
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def end(self) -> None:
        """At once, whatever the peer would still say or hear."""
        self.held.leave(self, self._peer)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > _MAX_HEAD_BYTES:
            self.end()

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        if self.transport.is_closing() or not self.idle:
            # An honest agent waits for its answer; requests that queue up would be read, kept
            # and answered at the cost of all others.
            self.end()
            raise _Pipelined
        if self.cycle is not None:
            self._unfinished.cancel()
            self._unfinished = self.loop.call_later(_HEADER_SECONDS, self.end)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._unfinished.cancel()
        self._head_bytes = -(1 << 62)  # a body is bounded by whoever reads it

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head_bytes = 0


class _Pipelined(Exception):  # noqa: N818 - control flow of this module
    """A second request before the first one's answer: the rest is not even parsed."""


def _connections() -> type[GuestConnection]:
    """Of one server, which counts its own."""
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _CONNECTIONS
    if open_files != resource.RLIM_INFINITY:
        limit = min(limit, open_files // _SHARE_OF_OPEN_FILES)

    class Connection(GuestConnection):
        held: ClassVar[Connections] = Connections(limit)

    return Connection


class Listener:
    """`ports` are those that are really listened on, in the order of `apps`."""

    def __init__(self, address: str, apps: Sequence[tuple[int, ASGIApp]]) -> None:
        self._address, self._apps = address, apps
        self._servers: list[_Server] = []
        self._thread: threading.Thread | None = None
        self.ports: tuple[int, ...] = ()

    def start(self) -> None:
        """Returns when all listen; nothing is left open when it raises.

        :raise AgentFailure: agent.endpoint-bind-failed
        """
        sockets: list[socket.socket] = []
        try:
            for port, _app in self._apps:
                sockets.append(_listening(self._address, port))
        except BaseException:
            for opened in sockets:
                opened.close()
            raise
        self.ports = tuple(int(opened.getsockname()[1]) for opened in sockets)
        self._servers = [_Server(_config(app)) for _port, app in self._apps]
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(sockets, ready), name="waagent-servers", daemon=True
        )
        self._thread.start()
        if not ready.wait(_START_SECONDS):
            self.close()
            raise AgentFailure(
                "agent.endpoint-bind-failed", "The servers for VM agents did not come up in time."
            )

    def close(self) -> None:
        """Idempotent."""
        for server in self._servers:
            server.should_exit = True
        if self._thread is not None:
            self._thread.join(_START_SECONDS)
            self._thread = None

    def _run(self, sockets: list[socket.socket], ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(sockets, ready))
        except Exception:
            log.exception("the servers for VM agents stopped")
            raise

    async def _serve(self, sockets: list[socket.socket], ready: threading.Event) -> None:
        serving = [
            asyncio.create_task(server.serve([opened]))
            for server, opened in zip(self._servers, sockets, strict=True)
        ]
        while not all(server.started or server.should_exit for server in self._servers):
            await asyncio.sleep(0.005)
        ready.set()
        await asyncio.gather(*serving)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They belong to the process."""
        yield


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_connections(),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )


def _listening(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError as refused:
        listener.close()
        raise AgentFailure(
            "agent.endpoint-bind-failed",
            f"The server for VM agents cannot listen on {address}:{port}: {refused.strerror}.",
            evidence=[Evidence("bind refused", f"{address}:{port}", raw=str(refused))],
            remedy=_REMEDIES.get(refused.errno or 0, ""),
        ) from refused
    return listener


_REMEDIES = {
    errno.EADDRNOTAVAIL: "Give an interface of this host that address, such as the VMs' bridge: "
    "`ip address add ADDRESS/32 dev BRIDGE`; or set `agent_address` to one that it has.",
    errno.EADDRINUSE: "Another program listens there: `ss -ltnp`. End it, or set `agent_port`.",
    errno.EACCES: "Ports below 1024 need CAP_NET_BIND_SERVICE: run the server as root or by the "
    "systemd unit.",
}
