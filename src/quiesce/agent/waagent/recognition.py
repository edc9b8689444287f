"""Who is asking: the first thing both servers find out about a request, and the last thing that a
stranger learns nothing from."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from quiesce.agent.waagent.ports import Neighbourhood
from quiesce.agent.waagent.vm_agent import Clock, VmAgent
from quiesce.model.failure import Failure

log = structlog.get_logger(__name__)

_STRANGERS_REMEMBERED = 16
_HOST = re.compile(r"[A-Za-z0-9.:\[\]-]{1,80}")
_NOT_FOUND = PlainTextResponse("not found\n", 404)
_OTHER_CONTAINER = PlainTextResponse("another container\n", 410)
"""On 410 an agent fetches its goal state again, and with it its container id."""
_LATER = PlainTextResponse("later\n", 503)
"""On 503 it tries again every second."""

AgentOf = Callable[[str], Awaitable[VmAgent | None]]


@dataclass(frozen=True, slots=True)
class Stranger:
    """Somebody who asked and is no VM that is known here. Times are UTC."""

    address: str
    last_seen: datetime
    requests: int


class Strangers:
    """The last few of them; thread-safe."""

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, Stranger] = OrderedDict()

    def note(self, address: str) -> None:
        with self._lock:
            known = self._seen.pop(address, None)
            count = known.requests + 1 if known else 1
            self._seen[address] = Stranger(address, self._now(), count)
            while len(self._seen) > _STRANGERS_REMEMBERED:
                self._seen.popitem(last=False)

    def recent(self) -> tuple[Stranger, ...]:
        """Newest first."""
        with self._lock:
            return tuple(reversed(self._seen.values()))


class Recognition:
    """In front of an application: lets through only requests of known VMs, with the VM's agent
    in `scope["state"]`."""

    def __init__(
        self, app: ASGIApp, neighbourhood: Neighbourhood, agent_of: AgentOf, strangers: Strangers
    ) -> None:
        self._app = app
        self._neighbourhood, self._agent_of, self._strangers = neighbourhood, agent_of, strangers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        address, port = scope["client"] or ("", 0)
        vm = self._neighbourhood.vm_at(address, port)
        try:
            agent = await self._agent_of(vm) if vm is not None else None
        except Failure as failure:
            log.warning("a VM's record could not be opened", vm=vm, code=failure.code)
            await _LATER(scope, receive, send)
            return
        if agent is None:
            self._strangers.note(address)
            await _NOT_FOUND(scope, receive, send)
            return
        agent.heard(address, _without_port(host_named(scope)))
        container = _header(scope, b"x-ms-containerid")
        if container and container != agent.dossier.container_id:
            await _OTHER_CONTAINER(scope, receive, send)
            return
        scope["state"] = {"agent": agent}
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            return


def agent_of(request: Request) -> VmAgent:
    agent = request.scope["state"]["agent"]
    assert isinstance(agent, VmAgent)
    return agent


def host_named(scope: Scope) -> str:
    """The host address as the agent writes it. It may differ from the address that the request
    arrived at (a translation between), and only the former is sure to work from there. It goes
    back to nobody but the VM that sent it."""
    said = _header(scope, b"host")
    if _HOST.fullmatch(said):
        return said
    address, port = scope["server"] or ("", 0)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


async def body_of(request: Request, limit_bytes: int) -> bytes | None:
    """The request's body, None when it is larger than that; then the rest is not read."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit_bytes:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            return None
    return bytes(body)


def too_large() -> Response:
    return PlainTextResponse("too large\n", 413, headers={"Connection": "close"})


def _without_port(host: str) -> str:
    name, _, port = host.rpartition(":")
    return name if name and port.isdigit() else host


def _header(scope: Scope, name: bytes) -> str:
    value: bytes = next((value for key, value in scope["headers"] if key == name), b"")
    return value.decode("latin-1")
