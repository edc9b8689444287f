"""The client side of the REST API: over the unix socket of this machine's server, or a URL.

Answers stay the JSON that the API gave; `--json` prints them unchanged, so their shapes are those
of docs/reference/rest-api.md.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from quiesce.cli.remote_failure import from_problem
from quiesce.model.failure import AuthFailure, Evidence, InputFailure, ServerFailure

Json = dict[str, Any]
Query = str | int | bool | list[str] | None

_API = "/api/v1"
_CONNECT_SECONDS = 5.0


class Client:
    """Calls of one server. `server` is a URL, `unix:PATH`, or empty for this machine's socket.

    Every call raises `ServerFailure` when no server answers, and the server's own failure, as it
    was raised there, when it says no.
    """

    def __init__(self, server: str = "", *, timeout_seconds: float = 120.0) -> None:
        self._socket, base = _address(server)
        self.place = f"unix:{self._socket}" if self._socket else base
        transport = httpx.HTTPTransport(uds=str(self._socket)) if self._socket else None
        self._http = httpx.Client(
            base_url=base + _API,
            transport=transport,
            headers={} if self._socket else _authorization(),
            timeout=httpx.Timeout(timeout_seconds, connect=_CONNECT_SECONDS),
            # A proxy setting meant for the Internet must not swallow calls to one's own server.
            trust_env=False,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, *path: str, **query: Query) -> Any:
        return self._call("GET", path, query=query)

    def post(self, *path: str, body: Json | None = None, **query: Query) -> Any:
        return self._call("POST", path, query=query, body=body)

    def put(self, *path: str, body: Json) -> Any:
        return self._call("PUT", path, body=body)

    def patch(self, *path: str, body: Json) -> Any:
        return self._call("PATCH", path, body=body)

    def delete(self, *path: str, **query: Query) -> Any:
        return self._call("DELETE", path, query=query)

    def download(self, *path: str, **query: Query) -> tuple[bytes, httpx.Headers]:
        """The body of an answer that is no JSON, with the headers that describe it."""
        answer = self._answer("POST", path, query=query)
        if not answer.is_success:
            self._content(answer)
        return answer.content, answer.headers

    def _call(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: dict[str, Query] | None = None,
        body: Json | None = None,
    ) -> Any:
        return self._content(self._answer(method, path, query=query, body=body))

    def _answer(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: dict[str, Query] | None = None,
        body: Json | None = None,
    ) -> httpx.Response:
        # Names may hold anything, so every part of the path is encoded on its own.
        url = "/" + "/".join(quote(part, safe="") for part in path)
        params = {key: value for key, value in (query or {}).items() if value is not None}
        try:
            return self._http.request(method, url, params=params, json=body)
        except httpx.ConnectError as inner:
            raise self._unreachable() from inner
        except httpx.TimeoutException as inner:
            raise ServerFailure(
                "server.timeout",
                f"The server at {self.place} did not answer in time.",
                retryable=True,
            ) from inner
        except httpx.HTTPError as inner:
            raise self._unreachable() from inner

    def _content(self, answer: httpx.Response) -> Any:
        if answer.is_success and answer.status_code == httpx.codes.NO_CONTENT:
            return None
        try:
            content = answer.json()
        except ValueError as inner:
            raise self._strange(answer) from inner
        if answer.is_success:
            return content
        if isinstance(content, dict) and "code" in content:
            raise from_problem(content)
        raise self._strange(answer)

    def _unreachable(self) -> ServerFailure:
        return ServerFailure(
            "server.unreachable",
            f"No Quiesce server answers at {self.place}.",
            evidence=[Evidence(_socket_fact(self._socket), self.place)],
            retryable=True,
        )

    def _strange(self, answer: httpx.Response) -> ServerFailure:
        return ServerFailure(
            "server.answer-invalid",
            f"What answers at {self.place} is not a Quiesce server.",
            evidence=[Evidence(f"HTTP {answer.status_code}", self.place, raw=answer.text[:300])],
        )


def _address(server: str) -> tuple[Path | None, str]:
    """(socket, base URL) of `server`."""
    if not server:
        # Imported here: pydantic is a noticeable part of the start-up time of a command.
        from quiesce.service.settings import load_settings

        return load_settings().api_socket, "http://quiesce"
    if server.startswith("unix:"):
        return Path(server.removeprefix("unix:").removeprefix("//")), "http://quiesce"
    parts = urlsplit(server)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InputFailure(
            "input.server-invalid",
            f"{server!r} is not the address of a server.",
            remedy="Give a URL such as `http://127.0.0.1:8420`, or `unix:/path/to/quiesce.sock`.",
        )
    return None, server.rstrip("/")


def _authorization() -> dict[str, str]:
    """The token for calls over TCP: `QUIESCE_TOKEN`, else this machine's own token file."""
    token = os.environ.get("QUIESCE_TOKEN", "").strip()
    if not token:
        from quiesce.service.settings import load_settings

        path = load_settings().api_token_file
        try:
            token = path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return {}
        except OSError as inner:
            raise AuthFailure(
                "auth.token-unreadable", f"The token file {path} cannot be read."
            ) from inner
    if not token.isascii() or any(character.isspace() for character in token):
        raise AuthFailure("auth.token-wrong", "The token holds characters that no token has.")
    return {"Authorization": f"Bearer {token}"}


def _socket_fact(socket: Path | None) -> str:
    if socket is None:
        return "the connection was not accepted"
    try:
        return "nothing listens on it" if socket.exists() else "the socket does not exist"
    except PermissionError:
        return "its folder belongs to another user"
