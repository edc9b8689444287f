"""Who may call the API.

Over the unix socket the file's mode (0600) has decided already; over TCP every call carries the
server's token. Which of the two a request came by is a mark set by the server's own wrapper
around the unix socket's listener (`Trusted`), so that anything unmarked needs the token.
"""

from __future__ import annotations

import secrets

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from quiesce.model.failure import AuthFailure

_MARK = "quiesce.trusted"


class Trusted:
    """Marks every request of the listener it wraps as allowed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, _MARK: True}, receive, send)


def caller_is_allowed(request: Request) -> None:
    """
    :raise AuthFailure: auth.required, auth.forbidden
    """
    if request.scope.get(_MARK) is True:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    remedy = "Send `Authorization: Bearer TOKEN`; the token is in the data folder, `api-token`."
    if scheme.lower() != "bearer" or not token.strip():
        raise AuthFailure("auth.required", "This call needs a token.", remedy=remedy)
    expected: str = request.app.state.service.api_token
    if not secrets.compare_digest(token.strip().encode(), expected.encode()):
        raise AuthFailure("auth.forbidden", "The token is not this server's.", remedy=remedy)
