"""Who gets into the portal."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from quiesce.model.failure import AuthFailure, Evidence, FailureReport
from quiesce.portal.failure_card import failure_html
from quiesce.portal.gate import Gate, safe_next
from quiesce.portal.login import add_login
from quiesce.portal.sessions import COOKIE, LIFETIME_SECONDS, Sessions


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_right_password_opens_a_session_that_ends_by_itself() -> None:
    clock = Clock()
    sessions = Sessions("open sesame", clock=clock)
    token = sessions.log_in("open sesame")
    assert sessions.of(token) is not None
    clock.now += LIFETIME_SECONDS
    assert sessions.of(token) is None


def test_logging_out_ends_the_session_at_once() -> None:
    sessions = Sessions("open sesame")
    token = sessions.log_in("open sesame")
    sessions.log_out(token)
    assert sessions.of(token) is None


@pytest.mark.parametrize("token", [None, "", "x", "ü" * 5000])
def test_a_made_up_token_opens_nothing(token: str | None) -> None:
    assert Sessions("open sesame").of(token) is None


def test_after_five_wrong_passwords_even_the_right_one_waits_a_minute() -> None:
    clock = Clock()
    sessions = Sessions("open sesame", clock=clock)
    for guess in ("a", "b", "", "OPEN SESAME", "ß"):
        with pytest.raises(AuthFailure) as wrong:
            sessions.log_in(guess)
        assert wrong.value.code == "auth.password-wrong"
    with pytest.raises(AuthFailure) as waiting:
        sessions.log_in("open sesame")
    assert waiting.value.code == "auth.too-many-attempts"
    clock.now += 61
    assert sessions.of(sessions.log_in("open sesame")) is not None


def too_many(sessions: Sessions, peer: str) -> bool:
    try:
        sessions.log_in("wrong", peer)
    except AuthFailure as failure:
        return failure.code == "auth.too-many-attempts"
    raise AssertionError("a wrong password was taken")


def test_a_strangers_guesses_do_not_lock_the_administrator_out() -> None:
    sessions = Sessions("open sesame", clock=Clock())
    assert [too_many(sessions, "192.0.2.66") for _ in range(6)] == [False] * 5 + [True]
    assert sessions.of(sessions.log_in("open sesame", "192.0.2.1")) is not None
    with pytest.raises(AuthFailure):
        sessions.log_in("open sesame", "192.0.2.66")


def test_one_network_of_ipv6_counts_as_one_address() -> None:
    sessions = Sessions("open sesame", clock=Clock())
    assert [too_many(sessions, f"2001:db8::{n:x}") for n in range(6)] == [False] * 5 + [True]
    assert not too_many(sessions, "2001:db8:0:1::1")
    assert [too_many(sessions, f"::ffff:192.0.2.{n}") for n in range(6)] == [False] * 6


def test_guesses_from_endless_addresses_take_no_endless_memory() -> None:
    sessions = Sessions("open sesame", clock=Clock())
    for number in range(20_000):
        too_many(sessions, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(sessions._wrong) <= 10_000


@pytest.fixture
def browser() -> TestClient:
    """The gate and the login around one page, without NiceGUI."""
    app = FastAPI()
    sessions = Sessions("open sesame")
    add_login(app, sessions, "/data/portal-password")
    app.add_middleware(Gate, sessions=sessions)

    @app.get("/jobs")
    def page() -> str:
        return "the jobs"

    @app.get("/api/v1/health")
    def health() -> str:
        return "ok"

    return TestClient(app, follow_redirects=False)


def test_without_a_login_a_page_leads_to_the_login_and_back(browser: TestClient) -> None:
    sent = browser.get("/jobs?vm=web1")
    assert sent.status_code == 303
    assert sent.headers["location"] == "/login?next=%2Fjobs%3Fvm%3Dweb1"
    form = browser.get(sent.headers["location"])
    assert "/data/portal-password" in form.text
    done = browser.post(sent.headers["location"], data={"password": "open sesame"})
    assert done.headers["location"] == "/jobs?vm=web1"
    assert browser.get("/jobs").json() == "the jobs"


def test_the_cookie_is_hidden_from_scripts_and_secure_over_https(browser: TestClient) -> None:
    plain = browser.post("/login", data={"password": "open sesame"}).headers["set-cookie"]
    assert COOKIE in plain
    assert "HttpOnly" in plain
    assert "SameSite=lax" in plain
    browser.base_url = "https://testserver"  # type: ignore[assignment]
    assert (
        "Secure" in browser.post("/login", data={"password": "open sesame"}).headers["set-cookie"]
    )


def test_a_wrong_password_is_refused_in_words(browser: TestClient) -> None:
    refused = browser.post("/login", data={"password": "<script>"})
    assert refused.status_code == 401
    assert "not the portal&#x27;s password" in refused.text
    for _ in range(5):
        waiting = browser.post("/login", data={"password": "x"})
    assert waiting.status_code == 429


def test_every_page_forbids_frames_and_plugins(browser: TestClient) -> None:
    for path in ("/login", "/jobs", "/portal.css"):
        policy = browser.get(path).headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "object-src 'none'" in policy


def test_the_api_has_its_own_ways_in(browser: TestClient) -> None:
    assert browser.get("/api/v1/health").json() == "ok"


@pytest.mark.parametrize("path", ["/_nicegui/x.js", "/anything"])
def test_nothing_but_pages_is_redirected(browser: TestClient, path: str) -> None:
    assert browser.post(path).status_code == 401


@pytest.mark.parametrize(
    "target", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:x", ""]
)
def test_the_login_never_leads_to_another_site(target: str) -> None:
    assert safe_next(target) == "/"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://testserver:81"])
@pytest.mark.parametrize("path", ["/login", "/logout", "/_nicegui/upload"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_another_sites_page_changes_nothing(
    browser: TestClient, origin: str, path: str, method: str
) -> None:
    browser.post("/login", data={"password": "open sesame"})
    refused = browser.request(method, path, headers={"origin": origin})
    assert refused.status_code == 403
    assert "set-cookie" not in refused.headers
    assert browser.get("/jobs").json() == "the jobs", "the session is still open"


def test_the_portals_own_pages_send_their_forms(browser: TestClient) -> None:
    own = {"origin": "http://testserver"}
    assert browser.post("/login", data={"password": "open sesame"}, headers=own).status_code == 303
    assert browser.post("/logout", headers=own).status_code == 303
    assert browser.get("/jobs").status_code == 303


def websocket(headers: list[tuple[bytes, bytes]], sessions: Sessions) -> list[Any]:
    """What a socket of the portal is answered; "let in" when the gate lets it pass."""
    answers: list[Any] = []

    async def inside(*_: object) -> None:
        answers.append("let in")

    async def send(message: Any) -> None:
        answers.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    scope = {"type": "websocket", "path": "/_nicegui_ws/socket.io/", "headers": headers}
    asyncio.run(Gate(inside, sessions=sessions)(scope, receive, send))
    return answers


def test_sockets_need_a_session_and_a_page_of_this_portal() -> None:
    sessions = Sessions("open sesame")
    cookie = (b"cookie", f"{COOKIE}={sessions.log_in('open sesame')}".encode())
    host = (b"host", b"backup.example")
    refused = [{"type": "websocket.close", "code": 1008}]
    assert websocket([host], sessions) == refused
    assert websocket([host, cookie, (b"origin", b"https://evil.example")], sessions) == refused
    assert websocket([host, cookie, (b"origin", b"https://backup.example")], sessions) == ["let in"]


def test_what_a_guest_says_is_never_markup() -> None:
    shown = failure_html(
        FailureReport(
            code='x"><script>',
            message="<b>bold</b>",
            evidence=(Evidence("<img src=x>", "guest", raw="<script>alert(1)</script>"),),
            remedy="run `<script>`",
        )
    )
    assert "<script>" not in shown
    assert "<img" not in shown
    assert "<b>" not in shown
