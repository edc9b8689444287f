"""The endpoint's own thread: accepts connections, speaks TLS, hands requests to the application."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import formatdate

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from quiesce.model.failure import Evidence, StorageFailure
from quiesce.storage.authority import Authority
from quiesce.storage.connection import IDLE_SECONDS, Connection
from quiesce.storage.crowd import Crowd, Visit

log = structlog.get_logger(__name__)

_HANDSHAKE_SECONDS = 10
_HEADER_LIMIT_BYTES = 32 * 1024
_CONNECTIONS = 768
_CONNECTIONS_OF_ONE_PEER = 192
"""Many guests may come by one proxy."""
_RENEWAL_CHECK_SECONDS = 6 * 3600
_CLOSE_SECONDS = 5
_FLUSHES, _FLUSH_SECONDS = 10, 0.02
"""For the last bytes of an answer to leave, and the peer to agree to the end."""


class Listener:
    def __init__(self, app: ASGIApp, authority: Authority, address: str, port: int) -> None:
        """Take the address; nobody is answered before `start`.

        :raise StorageFailure: storage.endpoint-bind-failed
        """
        self._authority = authority
        self._socket = _bound(address, port)
        self.port: int = self._socket.getsockname()[1]
        self._context = authority.tls_context()
        self._crowd = Crowd(places=_CONNECTIONS, places_of_one_peer=_CONNECTIONS_OF_ONE_PEER)
        self._state = ServerState()
        self._config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE_SECONDS,
            h11_max_incomplete_event_size=_HEADER_LIMIT_BYTES,
        )
        self._config.load()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="storage-endpoint", daemon=True)

    def start(self) -> None:
        self._socket.listen(256)
        self._thread.start()
        self._up.wait()

    def close(self) -> None:
        """Let what is being answered come to its end, for some seconds, and end. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        """What uvicorn's own server does around its connections, without its polling."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        work = (self._tell_the_time(), self._accept(), self._renew())
        beside = [asyncio.create_task(task) for task in work]
        self._up.set()
        await self._stop.wait()
        for task in beside:
            task.cancel()
        await self._say_goodbye()

    async def _say_goodbye(self) -> None:
        connections, answers = self._state.connections, self._state.tasks
        for connection in list(connections):
            connection.shutdown()
        if answers:
            await asyncio.wait(answers, timeout=_CLOSE_SECONDS)
        for _ in range(_FLUSHES):
            await asyncio.sleep(0 if not connections else _FLUSH_SECONDS)
        for connection in list(connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    async def _tell_the_time(self) -> None:
        while True:
            date = formatdate(usegmt=True).encode("ascii")
            self._state.default_headers = [(b"date", date), (b"server", b"Quiesce-Blob/1.0")]
            await asyncio.sleep(1)

    async def _accept(self) -> None:
        """Connections are counted from the first packet, not from the end of the TLS handshake as
        asyncio's own server would: a guest cannot use up the process's file descriptors."""
        loop = asyncio.get_running_loop()
        handshakes: set[asyncio.Task[None]] = set()
        while True:
            try:
                connection, address = await loop.sock_accept(self._socket)
            except OSError as refused:
                log.warning("storage endpoint cannot accept", error=str(refused))
                await asyncio.sleep(0.5)
                continue
            visit = self._crowd.enter(str(address[0]), _hang_up(connection))
            if visit is None:
                connection.close()
                continue
            task = loop.create_task(self._welcome(connection, visit))
            handshakes.add(task)
            task.add_done_callback(handshakes.discard)

    async def _welcome(self, connection: socket.socket, visit: Visit) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Connection(self._config, self._state, visit),
                connection,
                ssl=self._context,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            )
        except (OSError, EOFError):  # ssl.SSLError and timeouts are OSErrors
            connection.close()
            visit.left()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEWAL_CHECK_SECONDS)
            try:
                if self._authority.renew(datetime.now(UTC)):
                    self._context = self._authority.tls_context()
                    log.info("storage endpoint's certificate renewed")
            except (OSError, ssl.SSLError) as failed:
                log.warning("storage endpoint's certificate not renewed", error=str(failed))


def _hang_up(connection: socket.socket) -> Callable[[], None]:
    """The event loop sees it as the peer's doing, in the midst of a handshake too."""

    def hang_up() -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    return hang_up


def _bound(address: str, port: int) -> socket.socket:
    listener: socket.socket | None = None
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind((address, port))
    except (OSError, OverflowError, ValueError) as refused:
        if listener is not None:
            listener.close()
        raise StorageFailure(
            "storage.endpoint-bind-failed",
            f"The storage endpoint cannot listen on {address}, port {port}.",
            evidence=[Evidence("bind refused", f"{address}:{port}", raw=str(refused))],
            remedy=f"See whether the address is this host's: `ip -br address`; and what listens "
            f"there: `ss -ltnp 'sport = :{port}'`. Or set `storage_address` and `storage_port`.",
        ) from refused
    return listener
