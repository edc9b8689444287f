"""The host plugin: what the agent asks for on port 32526 of the host address.

Source: WALinuxAgent, common/protocol/hostplugin.py. `/vmSettings` is 404, which tells the agent
that goal states come from the wire server alone.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from quiesce.agent.waagent.packages import Offer
from quiesce.agent.waagent.recognition import agent_of, body_of, too_large
from quiesce.agent.waagent.status import MAX_STATUS_BYTES
from quiesce.agent.waagent.vm_agent import VmAgent
from quiesce.agent.waagent.wire_server import package_answer
from quiesce.model.failure import Failure

_VERSIONS = ["2015-09-01"]
_MAX_PUT_BYTES = MAX_STATUS_BYTES * 3 // 2
"""The status travels in base64."""
_MAX_LOG_BYTES = 64 << 20
_ARTIFACT = "x-ms-artifact-location"


class HostPlugin:
    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self._reading: WeakKeyDictionary[VmAgent, asyncio.Lock] = WeakKeyDictionary()
        self.app = Starlette(
            routes=[
                Route("/versions", _versions),
                Route("/health", _health),
                Route("/status", self._status, methods=["PUT"]),
                Route("/vmAgentLog", _agent_log, methods=["PUT"]),
                Route("/extensionArtifact", self._artifact),
            ],
            exception_handlers={405: _not_found, 404: _not_found},
        )

    async def _artifact(self, request: Request) -> Response:
        """Our own package for an agent that does not reach it otherwise, as when a proxy of its
        own stands between; the plugin fetches nothing from elsewhere."""
        try:
            wanted = urlsplit(request.headers.get(_ARTIFACT, ""))
        except ValueError:
            return await _not_found(request)
        return package_answer(
            agent_of(request), self._offer, wanted.path, f"{wanted.scheme}://{wanted.netloc}"
        )

    async def _status(self, request: Request) -> Response:
        """Read in a thread, one of a VM at a time: what a guest writes may take long to read, and
        other VMs' agents are not to wait for that."""
        body = await body_of(request, _MAX_PUT_BYTES)
        if body is None:
            return too_large()
        agent = agent_of(request)
        async with self._reading.setdefault(agent, asyncio.Lock()):
            return await asyncio.to_thread(_take_status, agent, body)


async def _versions(_request: Request) -> Response:
    return JSONResponse(_VERSIONS)


async def _health(_request: Request) -> Response:
    return Response()


def _take_status(agent: VmAgent, body: bytes) -> Response:
    try:
        content = json.loads(body)["content"]
        agent.take_status(base64.b64decode(content, validate=True))
    except Failure as refused:
        return PlainTextResponse(f"{refused.message}\n", 400)
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error):
        return PlainTextResponse("The status is not JSON with a content in base64.\n", 400)
    return Response()


async def _agent_log(request: Request) -> Response:
    """Logs that the agent offers of its own accord are taken and dropped: what a backup needs of
    them, the extension brings."""
    announced = request.headers.get("content-length", "")
    taken = 0
    if announced.isdigit() and int(announced) > _MAX_LOG_BYTES:
        return too_large()
    async for chunk in request.stream():
        taken += len(chunk)
        if taken > _MAX_LOG_BYTES:
            return too_large()
    return Response()


async def _not_found(_request: Request, _error: Exception | None = None) -> Response:
    return PlainTextResponse("not found\n", 404)
