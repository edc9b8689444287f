"""What stands before every page: no page without a login, and headers that keep browsers careful.

The API under `/api/` has its own ways in and is not touched.
"""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quiesce.portal.sessions import COOKIE, Sessions

_OPEN_PATHS = {"/login", "/portal.css"}
_HARMLESS = ("GET", "HEAD")

# NiceGUI compiles its templates in the browser, hence unsafe-eval, and sets styles inline.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; "
    "connect-src 'self' ws: wss:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}


class Gate:
    """ASGI middleware: who has no session is sent to the login; their sockets are refused, and so
    is whatever another site's page sends."""

    def __init__(self, app: ASGIApp, *, sessions: Sessions) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        allowed = scope["path"] in _OPEN_PATHS or self._known(scope)
        if scope["type"] == "websocket":
            if allowed and _same_origin(scope):
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        careful = _with_headers(send)
        if scope["method"] not in _HARMLESS and not _same_origin(scope):
            other = PlainTextResponse("This request comes from another site.", status_code=403)
            await other(scope, receive, careful)
        elif allowed:
            await self._app(scope, receive, careful)
        elif scope["method"] in _HARMLESS and not scope["path"].startswith("/_nicegui"):
            wanted = scope["path"] + (
                f"?{scope['query_string'].decode('latin-1')}" * bool(scope["query_string"])
            )
            where = "/login" if wanted == "/" else f"/login?next={quote(wanted, safe='')}"
            await RedirectResponse(where, status_code=303)(scope, receive, careful)
        else:
            refused = PlainTextResponse("Please log in.", status_code=401)
            await refused(scope, receive, careful)

    def _known(self, scope: Scope) -> bool:
        return self._sessions.of(session_token(Headers(scope=scope).get("cookie", ""))) is not None


def session_token(cookie_header: str) -> str | None:
    """The session's token in a Cookie header."""
    try:
        morsel = SimpleCookie(cookie_header).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel else None


def safe_next(path: str) -> str:
    """Where to go after the login: a path of this portal, never another site."""
    parts = urlsplit(path)
    if parts.scheme or parts.netloc or not path.startswith("/") or path[1:2] in ("/", "\\"):
        return "/"
    return path


def _same_origin(scope: Scope) -> bool:
    """A browser names the page that opens a socket or sends a form; it must be one of this
    portal's. What is no browser names none, and carries no cookie that it was not given."""
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    return origin is None or (urlsplit(origin).netloc.lower() == headers.get("host", "").lower())


def _with_headers(send: Send) -> Send:
    async def careful(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
        await send(message)

    return careful
