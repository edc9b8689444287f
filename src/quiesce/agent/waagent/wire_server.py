"""The wire server: what the agent asks for on HTTP port 80 of the host address.

Whatever is not known here is 404, at once: to most other answers the agent reacts by trying up to
25 times. 410 stands for a document of an incarnation that has passed: it fetches the goal state
again.
"""

from __future__ import annotations

import asyncio

from cryptography import x509
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from quiesce.agent.waagent import documents
from quiesce.agent.waagent.certificates import VmIdentity, transport_certificate
from quiesce.agent.waagent.goal import Dossier
from quiesce.agent.waagent.health import MAX_HEALTH_BYTES, read_health
from quiesce.agent.waagent.packages import Offer
from quiesce.agent.waagent.recognition import agent_of, body_of, host_named, too_large
from quiesce.agent.waagent.vm_agent import VmAgent
from quiesce.model.failure import Failure

_MAX_POST_BYTES = 256 * 1024
"""The agent sends at most 64 KiB of telemetry at a time."""
_DOCUMENTS_KEPT = 4096
_CONFIGURATION = ("hostingEnvironmentConfig", "sharedConfig", "extensionsConfig", "certificates")


class WireServer:
    """Its pages, rendered once per VM, incarnation and host address."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self._rendered: dict[tuple[str, str], tuple[Dossier, str, bytes]] = {}
        self.app = Starlette(
            routes=[
                Route("/", self._root),
                Route("/machine", self._machine, methods=["GET", "POST"]),
                Route("/machine/", self._machine, methods=["GET", "POST"]),
                Route("/machine/{container}/{incarnation}/{document}", self._configuration),
                Route("/packages/{token}/{name}", self._package),
                Route("/HealthService", self._swallowed, methods=["POST"]),
            ],
            exception_handlers={405: _not_found},
        )

    async def _root(self, request: Request) -> Response:
        if request.query_params.get("comp") == "versions":
            return _xml(documents.VERSIONS.encode())
        return await _not_found(request)

    async def _machine(self, request: Request) -> Response:
        asked = request.query_params.get("comp", "")
        if request.method == "POST":
            return await self._posted(request, asked)
        if asked != "goalstate":
            return await _not_found(request)
        agent = agent_of(request)
        agent.polled()
        return _xml(self._document(agent, agent.dossier, "goalstate", _base(request)))

    async def _configuration(self, request: Request) -> Response:
        agent, asked = agent_of(request), request.path_params
        dossier = agent.dossier
        if asked["container"] != dossier.container_id:
            return await _not_found(request)
        name = asked["document"]
        if name not in _CONFIGURATION or (name == "certificates" and dossier.identity is None):
            return await _not_found(request)
        if asked["incarnation"] != str(dossier.goal.incarnation):
            return PlainTextResponse("a later incarnation is published\n", 410)
        if name == "certificates" and dossier.identity is not None:
            return await _certificates(request, dossier, dossier.identity)
        if name == "extensionsConfig":
            agent.fetched(dossier.goal.incarnation)
        return _xml(self._document(agent, dossier, name, _base(request)))

    async def _package(self, request: Request) -> Response:
        return package_answer(agent_of(request), self._offer, request.url.path, _base(request))

    async def _posted(self, request: Request, what: str) -> Response:
        if what == "health":
            body = await body_of(request, MAX_HEALTH_BYTES)
            if body is None:
                return too_large()
            try:
                health = read_health(body)
            except Failure as refused:
                return PlainTextResponse(f"{refused.message}\n", 400)
            agent_of(request).take_health(health.ready, health.words)
            return Response()
        if what in ("roleProperties", "telemetrydata"):
            return await self._swallowed(request)
        return await _not_found(request)

    async def _swallowed(self, request: Request) -> Response:
        """What the agent wants to be rid of, and nobody reads here."""
        if await body_of(request, _MAX_POST_BYTES) is None:
            return too_large()
        accepted = request.query_params.get("comp") == "roleProperties"
        return Response(status_code=202 if accepted else 200)

    def _document(self, agent: VmAgent, dossier: Dossier, name: str, base: str) -> bytes:
        key = (agent.vm, name)
        kept = self._rendered.get(key)
        if kept is not None and kept[0] is dossier and kept[1] == base:
            return kept[2]
        if name == "goalstate":
            text = documents.goal_state(agent.vm, dossier, base)
        elif name == "hostingEnvironmentConfig":
            text = documents.hosting_environment(agent.vm, dossier)
        elif name == "sharedConfig":
            text = documents.shared_config(agent.vm, dossier)
        else:
            text = documents.extensions_config(dossier, base)
        while len(self._rendered) >= _DOCUMENTS_KEPT:
            del self._rendered[next(iter(self._rendered))]
        self._rendered[key] = (dossier, base, text.encode())
        return self._rendered[key][2]


def package_answer(agent: VmAgent, offer: Offer, path: str, base: str) -> Response:
    """The manifest or the package at `path`, for the VM whose they are."""
    dossier = agent.dossier
    if path == documents.manifest_path(dossier):
        return _xml(documents.manifest(dossier, offer.version, base).encode())
    if path == documents.package_path(dossier, offer.version):
        return Response(offer.content, media_type="application/zip")
    return PlainTextResponse("not found\n", 404)


async def _certificates(request: Request, dossier: Dossier, identity: VmIdentity) -> Response:
    try:
        transport = transport_certificate(request.headers.get("x-ms-guest-agent-public-x509-cert"))
    except Failure as refused:
        facts = "; ".join(evidence.fact for evidence in refused.evidence)
        return PlainTextResponse(f"{refused.message} {facts}\n", 400)
    return _xml(await asyncio.to_thread(_parcelled, dossier, identity, transport))


def _parcelled(dossier: Dossier, identity: VmIdentity, transport: x509.Certificate) -> bytes:
    return documents.certificates(dossier, identity.parcel(transport)).encode()


async def _not_found(_request: Request, _error: Exception | None = None) -> Response:
    return PlainTextResponse("not found\n", 404)


def _base(request: Request) -> str:
    return f"http://{host_named(request.scope)}"


def _xml(content: bytes) -> Response:
    return Response(content, media_type="text/xml; charset=utf-8")
