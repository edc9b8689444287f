"""Bounds on what a caller may send. FastAPI's own `max_body_size` answers in plain text, while
every error of this API is a problem; hence this one."""

from __future__ import annotations

from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quiesce.api.problem import problem_response
from quiesce.model.failure import FailureReport

MAX_REQUEST_BYTES = 1024 * 1024


class RequestSizeLimit:
    """Refuses every body that is larger than `MAX_REQUEST_BYTES`: by its announced length, else as
    soon as more has come. The portal's too: nobody uploads there, and a form is read before its
    sender is known."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, more = b"", _announced_bytes(scope) <= MAX_REQUEST_BYTES
        too_large = not more
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            too_large = len(body) > MAX_REQUEST_BYTES
            more = message.get("more_body", False) and not too_large
        if too_large:
            await _REFUSED(scope, receive, send)
        else:
            await self._app(scope, _replayed(body, receive), send)


_REFUSED = problem_response(
    FailureReport("input.too-large", f"The request is larger than {MAX_REQUEST_BYTES} bytes."),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    {"Connection": "close"},
)


def _announced_bytes(scope: Scope) -> int:
    """0 when no length is announced; the server has checked that it is a number."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body read above, once, then what the connection says."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return first.pop() if first else await receive()

    return next_message
