"""The Blob REST service as an ASGI application: who may, what it is about, and the answer."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import TypeVar
from weakref import WeakValueDictionary

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from quiesce.storage import disk_blobs, refusal, small_blobs
from quiesce.storage.containers import Containers, DiskBlob
from quiesce.storage.journal import Seen, printable
from quiesce.storage.naming import ACCOUNT
from quiesce.storage.ports import InThread
from quiesce.storage.refusal import Refusal
from quiesce.storage.request import BlobRequest, read_request
from quiesce.storage.sas import authorise

log = structlog.get_logger(__name__)

T = TypeVar("T")

_DEFAULT_VERSION = "2020-12-06"
_BLOBS_AT_ONCE, _WAITING_AT_MOST = 2, 64
"""Of one guest: requests for small blobs, and those that wait until it is their turn."""

_ALLOWED_BY = {
    ("GET", ""): "r",
    ("HEAD", ""): "r",
    ("GET", "metadata"): "r",
    ("HEAD", "metadata"): "r",
    ("GET", "pagelist"): "r",
    ("PUT", ""): "w",
    ("PUT", "metadata"): "w",
    ("PUT", "properties"): "w",
    ("PUT", "page"): "w",
    ("PUT", "snapshot"): "cw",
    ("DELETE", ""): "d",
}
"""Per operation the permissions of which one is needed; what is not in it is not served."""


class BlobService:
    def __init__(
        self,
        containers: Containers,
        account_key: bytes,
        *,
        writers: Executor,
        readers: Executor,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._containers = containers
        self._account_key = account_key
        self._writers = writers
        self._readers = readers
        self._now = now
        self._places: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._waiting: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as held:
            response = await self._respond(scope, receive, held)
            await response(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive, held: AsyncExitStack) -> Response:
        """The answer; what is `held` by it is let go of when it is sent."""
        began = time.perf_counter()
        request_id = str(uuid.uuid4())
        request: BlobRequest | None = None
        let_in, code = False, ""
        try:
            request = read_request(scope)
            self._authorise(request)
            let_in = True
            scope["state"]["visit"].let_in()
            response = await self._answer(request, receive, held)
        except Refusal as no:
            code, response = no.code, _refused(no, request_id)
        _sign_off(response, scope, request_id)
        if request is not None:
            seen = _seen(request, response.status_code, code, time.perf_counter() - began)
            container = self._containers.find(request.container)
            if container is not None:
                container.journal.add(seen, let_in=let_in)
        return response

    def _authorise(self, request: BlobRequest) -> None:
        allowed_by = _ALLOWED_BY.get((request.method, request.comp))
        if allowed_by is None:
            raise refusal.invalid_query("comp", "It is not served with this verb.")
        authorise(
            self._account_key,
            request.query,
            request.container,
            request.blob,
            allowed_by=allowed_by,
            peer=request.peer,
            scheme=request.scheme,
            now=self._now(),
        )

    async def _answer(
        self, request: BlobRequest, receive: Receive, held: AsyncExitStack
    ) -> Response:
        for name in request.query:
            if name.startswith("rsc"):
                raise refusal.unsupported_query(name)
        if request.method == "DELETE":
            raise refusal.unsupported_verb()
        blob = self._containers.blob(request.container, request.blob)
        if isinstance(blob, DiskBlob):
            return await disk_blobs.answer(request, blob, _in_threads(self._readers))
        await held.enter_async_context(self._place(request.container))
        return await small_blobs.answer(request, receive, blob, _in_threads(self._writers))

    @asynccontextmanager
    async def _place(self, container: str) -> AsyncIterator[None]:
        """Bounds what one guest can make the endpoint hold in memory, from the upload's first byte
        to the answer's last: it keeps nobody waiting but itself.

        :raise Refusal: ServerBusy
        """
        places = self._places.get(container)
        if places is None:
            places = self._places[container] = asyncio.Semaphore(_BLOBS_AT_ONCE)
        if self._waiting[container] >= _WAITING_AT_MOST:
            raise refusal.server_busy()
        self._waiting[container] += 1
        try:
            await places.acquire()
        finally:
            self._waiting[container] -= 1
            if not self._waiting[container]:
                del self._waiting[container]
        try:
            yield
        finally:
            places.release()


def _in_threads(executor: Executor) -> InThread:
    async def run(work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, work)
        except OSError as full:
            log.warning("blob not read or stored", error=str(full))
            raise Refusal(500, "InternalError", "The blob could not be read or stored.") from full

    return run


def _seen(request: BlobRequest, status: int, code: str, seconds: float) -> Seen:
    operation = f"{request.comp} of snapshot" if request.snapshot else request.comp
    return Seen(
        peer=request.peer,
        method=request.method,
        path=printable(f"/{ACCOUNT}/{request.container}/{request.blob}"),
        operation=printable(operation.strip()),
        status=status,
        code=code,
        milliseconds=round(seconds * 1000, 1),
    )


def _refused(no: Refusal, request_id: str) -> Response:
    headers = {"x-ms-error-code": no.code, **no.headers}
    if no.status == 304:
        return Response(status_code=304, headers=headers)
    return Response(
        no.body(request_id), status_code=no.status, media_type="application/xml", headers=headers
    )


def _sign_off(response: Response, scope: Scope, request_id: str) -> None:
    headers = Headers(scope=scope)
    response.headers["x-ms-request-id"] = request_id
    version = headers.get("x-ms-version", "")
    known = len(version) == len(_DEFAULT_VERSION) and version.isascii() and version.isprintable()
    response.headers["x-ms-version"] = version if known else _DEFAULT_VERSION
    client_id = headers.get("x-ms-client-request-id", "")
    if 0 < len(client_id) <= 1024 and client_id.isascii() and client_id.isprintable():
        response.headers["x-ms-client-request-id"] = client_id
