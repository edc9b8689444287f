"""The login page: plain HTML, so that nothing of the portal is sent to who is not known."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from urllib.parse import quote

from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from quiesce.model.failure import AuthFailure
from quiesce.portal.gate import safe_next
from quiesce.portal.sessions import COOKIE, LIFETIME_SECONDS, Sessions

_MAX_PASSWORD = 1024

MARK = (
    '<svg class="mark" viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="10.5" '
    'fill="none" stroke="currentColor" stroke-width="1.8"/><path d="M4 13.2c2-3.4 4-3.4 6 0s4 3.4 '
    '5.4.6H20" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round"/></svg>'
)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in · Quiesce</title><link rel="stylesheet" href="/portal.css"></head>
<body class="login-body"><main class="login-card">
<div class="login-brand">{mark}<span>Quiesce</span></div>
<form method="post" action="/login?next={next}">
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required
 autofocus maxlength="{max_length}">
{problem}
<button type="submit">Log in</button>
</form>
<p class="login-hint">The password is in the file <code>{password_file}</code> on the server.</p>
</main></body></html>"""


def add_login(app: FastAPI, sessions: Sessions, password_file: str) -> None:
    """The routes `/login`, `/logout` and the style sheet that the login page needs."""
    style = files("quiesce.portal").joinpath("theme.css").read_text(encoding="utf-8")

    @app.get("/portal.css", include_in_schema=False)
    def style_sheet() -> Response:
        return Response(style, media_type="text/css", headers={"Cache-Control": "max-age=300"})

    @app.get("/login", include_in_schema=False)
    def form(next: str = "/") -> HTMLResponse:  # noqa: A002 - the query's name
        return _form(next, password_file)

    @app.post("/login", include_in_schema=False)
    def log_in(
        request: Request,
        password: str = Form(max_length=_MAX_PASSWORD),
        next: str = "/",  # noqa: A002 - the query's name
    ) -> Response:
        try:
            token = sessions.log_in(password, request.client.host if request.client else "")
        except AuthFailure as failure:
            status = 429 if failure.code == "auth.too-many-attempts" else 401
            return _form(next, password_file, problem=failure.message, status=status)
        answer = RedirectResponse(safe_next(next), status_code=303)
        answer.set_cookie(
            COOKIE,
            token,
            max_age=LIFETIME_SECONDS,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return answer

    @app.post("/logout", include_in_schema=False)
    def log_out(request: Request) -> Response:
        sessions.log_out(request.cookies.get(COOKIE))
        answer = RedirectResponse("/login", status_code=303)
        answer.delete_cookie(COOKIE)
        return answer


def _form(
    next_path: str, password_file: str, *, problem: str = "", status: int = 200
) -> HTMLResponse:
    page = _PAGE.format(
        mark=MARK,
        next=quote(safe_next(next_path), safe=""),
        max_length=_MAX_PASSWORD,
        problem=f'<p class="login-problem" role="alert">{escape(problem)}</p>' if problem else "",
        password_file=escape(password_file),
    )
    return HTMLResponse(page, status_code=status, headers={"Cache-Control": "no-store"})
