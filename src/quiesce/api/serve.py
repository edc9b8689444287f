"""Runs the server's process: API and portal on a unix socket and on TCP, until it is told to stop.

Two listeners of one application: the unix socket's is wrapped in `Trusted`. A stop (SIGTERM,
SIGINT) ends both, lets a guest that is being frozen thaw, and does not wait for transfers: they
go on at the next start, by the same path as after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog
import uvicorn
from fastapi import FastAPI

from quiesce.api.app import create_app
from quiesce.api.security import Trusted
from quiesce.model.failure import Evidence, ServerFailure
from quiesce.service.service import Service

log = structlog.get_logger(__name__)

MountPortal = Callable[[FastAPI, Service], None]

_SHUTDOWN_SECONDS = 5
_CALLS_SECONDS = 1.0


def serve(
    service: Service,
    *,
    mount_portal: MountPortal | None = None,
    on_bound: Callable[[int], None] = lambda port: None,
) -> None:
    """Serve until SIGTERM or SIGINT; the service is closed then. `on_bound` is told the TCP port:
    of the settings' port 0 only the system knows what it becomes.

    Does not return when jobs or calls are still running: the process ends at once with status 0,
    since their threads end only with it.

    :raise ServerFailure: server.port-taken
    """
    app = create_app(service)
    if mount_portal is not None:
        mount_portal(app, service)
    runner = asyncio.Runner()
    try:
        with _unix_socket(service.settings.api_socket) as local, _tcp_socket(service) as tcp:
            on_bound(tcp.getsockname()[1])
            service.start()
            runner.run(_serve(app, local, tcp))
    finally:
        log.info("stopping")
        if service.close():
            log.info("stopped; running jobs go on at the next start")
            os._exit(0)
    if _calls_under_way():
        # A network test or an installation in a guest, say: the runner would wait for its thread.
        log.info("stopped; calls that were being answered are given up")
        os._exit(0)
    runner.close()


def _calls_under_way() -> bool:
    """Whether threads are left that the end of the process would wait for."""
    until = time.monotonic() + _CALLS_SECONDS
    while any(
        not each.daemon and each is not threading.main_thread() for each in threading.enumerate()
    ):
        if time.monotonic() > until:
            return True
        time.sleep(0.05)
    return False


async def _serve(app: FastAPI, local: socket.socket, tcp: socket.socket) -> None:
    # The lifespan belongs to one of the two, or NiceGUI would be started twice.
    servers = [
        _Server(_config(app, lifespan="auto")),
        _Server(_config(Trusted(app), lifespan="off")),
    ]

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    host, port = tcp.getsockname()[:2]
    log.info("listening", url=f"http://{host}:{port}", socket=local.getsockname())
    await asyncio.gather(servers[0].serve([tcp]), servers[1].serve([local]))


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end both servers, so neither may take them for itself."""
        yield


def _config(app: object, *, lifespan: str) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        lifespan=lifespan,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        proxy_headers=False,
    )


@contextlib.contextmanager
def _unix_socket(path: Path) -> Iterator[socket.socket]:
    """A listener on `path`, 0600 from its first moment: the folder is 0700 and the umask closes
    the rest. A leftover of a dead server is replaced; the data folder's lock says it is dead."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_umask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(old_umask)
    try:
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _tcp_socket(service: Service) -> Iterator[socket.socket]:
    host, port = service.settings.host, service.settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as taken:
            raise ServerFailure(
                "server.port-taken",
                f"The server cannot listen on {host}:{port}: {taken.strerror}.",
                evidence=[Evidence("bind refused", f"{host}:{port}", raw=str(taken))],
                remedy="Set `port` (QUIESCE_PORT) to another one, or end what listens there.",
            ) from taken
        yield listener
