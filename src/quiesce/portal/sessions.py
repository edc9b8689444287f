"""Who is logged in. Sessions live in this process only: a restart logs everybody out."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address

from quiesce.model.failure import AuthFailure

COOKIE = "quiesce_session"
LIFETIME_SECONDS = 12 * 3600
_MAX_SESSIONS = 1000
_MAX_WRONG = 5
_WRONG_WINDOW_SECONDS = 60.0
_MAX_PEERS = 10_000


@dataclass(slots=True)
class Session:
    """One logged-in browser. `dark` is its choice; None follows the system's."""

    expires_at: float
    dark: bool | None = None


class Sessions:
    """Checks the portal's password and remembers who gave it. Thread-safe.

    After 5 wrong passwords from one address in a minute the login waits for that address until
    the minute is over, and for nobody else: a stranger cannot lock the administrator out. Behind
    a proxy all come from one address and are counted together.
    """

    def __init__(self, password: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._digest = _digest(password)
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[bytes, Session] = {}
        self._wrong: dict[str, deque[float]] = {}

    def log_in(self, password: str, peer: str = "") -> str:
        """A new session's token, for the browser's cookie. `peer` is the caller's address.

        :raise AuthFailure: auth.password-wrong, auth.too-many-attempts
        """
        now = self._clock()
        with self._lock:
            wrong = self._wrong_of(_household(peer), now)
            if len(wrong) >= _MAX_WRONG:
                raise AuthFailure(
                    "auth.too-many-attempts",
                    "Too many wrong passwords. Please wait a minute.",
                    retryable=True,
                )
            # Digests have one length, so the comparison's time tells nothing of the password's.
            if not hmac.compare_digest(_digest(password), self._digest):
                wrong.append(now)
                raise AuthFailure("auth.password-wrong", "This is not the portal's password.")
            self._drop_expired(now)
            token = secrets.token_urlsafe(32)
            self._open[_digest(token)] = Session(expires_at=now + LIFETIME_SECONDS)
            return token

    def of(self, token: str | None) -> Session | None:
        """The session that a cookie's token stands for, None when it is not (or no longer) one."""
        if not token:
            return None
        with self._lock:
            session = self._open.get(_digest(token))
            if session is None or session.expires_at <= self._clock():
                return None
            return session

    def log_out(self, token: str | None) -> None:
        """Idempotent."""
        with self._lock:
            self._open.pop(_digest(token or ""), None)

    def _wrong_of(self, peer: str, now: float) -> deque[float]:
        """When `peer` gave wrong passwords lately. Put at the end: the dict's first is the one
        that has been silent longest, and is forgotten when there are too many."""
        wrong = self._wrong.pop(peer, deque())
        while wrong and wrong[0] <= now - _WRONG_WINDOW_SECONDS:
            wrong.popleft()
        while len(self._wrong) >= _MAX_PEERS:
            del self._wrong[next(iter(self._wrong))]
        self._wrong[peer] = wrong
        return wrong

    def _drop_expired(self, now: float) -> None:
        for key in [key for key, session in self._open.items() if session.expires_at <= now]:
            del self._open[key]
        while len(self._open) >= _MAX_SESSIONS:
            del self._open[next(iter(self._open))]


def _household(peer: str) -> str:
    """Who has one IPv6 address has the 2⁶⁴ others of its network."""
    try:
        address = ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(IPv6Network((int(address), 64), strict=False))
    return peer


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
