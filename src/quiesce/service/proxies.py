"""The proxies of guests: checked when they are given, shown without their passwords.

A value that is refused is never repeated: it may hold a password.
"""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from quiesce.model.failure import Evidence, InputFailure
from quiesce.model.network import Proxy

HIDDEN = "***"
_MOST_CHARACTERS = 2048
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def checked(proxy: Proxy) -> Proxy:
    """:raise InputFailure: input.proxy-invalid, which names the field and not its value"""
    problems = {
        "http": problem_of_url(proxy.http),
        "https": problem_of_url(proxy.https),
        "no_proxy": problem_of_no_proxy(proxy.no_proxy),
    }
    wrong = [
        Evidence(f"{field} {problem}", "request") for field, problem in problems.items() if problem
    ]
    if wrong:
        raise InputFailure(
            "input.proxy-invalid",
            "The proxy setting is not valid.",
            evidence=wrong,
            remedy="Give the proxies as `http://NAME-OR-ADDRESS:PORT`, with "
            "`http://USER:PASSWORD@…` where the proxy wants it (special characters as %XX), and "
            "`no_proxy` as names, addresses and networks with commas between them.",
        )
    return proxy


def redacted(proxy: Proxy) -> Proxy:
    """The same for people's eyes: passwords are "***"."""
    return replace(proxy, http=_redacted(proxy.http), https=_redacted(proxy.https))


def place(url: str) -> tuple[str, int]:
    """Host and port of a proxy's URL that was checked."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80


def excepted(host: str, port: int, no_proxy: str) -> bool:
    """Whether the guest reaches this place without the proxy, by the rules of its extension: `*`
    is everything, a name stands for itself and all below it, addresses and networks compare with
    addresses, and an entry may end in `:port`."""
    host = host.lower().strip("[]")
    for name, only in map(_split_port, _entries(no_proxy.lower())):
        if name == "*":
            return True
        if only in (0, port) and _covers(name, host):
            return True
    return False


def problem_of_url(url: str) -> str:
    """What is wrong with a proxy's URL; empty for nothing, the empty URL included."""
    if not url:
        return ""
    if len(url) > _MOST_CHARACTERS:
        return "is too long"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "has characters that no URL has; write them as %XX"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme != "http":
        return "does not begin with http://"
    if not valid_host(parts.hostname or ""):
        return "names no host"
    if port == 0:
        return "has the port 0"
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return "has something behind its port; special characters of a password go as %XX"
    if parts.password == HIDDEN:
        return "has *** for its password, which is how passwords are shown; give the real one"
    return ""


def problem_of_no_proxy(names: str) -> str:
    if len(names) > _MOST_CHARACTERS:
        return "is too long"
    for name, _ in map(_split_port, _entries(names)):
        if not (name == "*" or valid_host(name.removeprefix(".")) or _network(name)):
            return "has an entry that is no name, address or network"
    return ""


def valid_host(host: str) -> bool:
    """Whether this is an IP address or a DNS name."""
    try:
        ip_address(host)
    except ValueError:
        labels = host.removesuffix(".").split(".")
        numeric = labels[-1].isdigit()  # an address with a mistake in it
        return len(host) <= 253 and not numeric and all(map(_NAME.fullmatch, labels))
    return "%" not in host


def _entries(no_proxy: str) -> list[str]:
    return no_proxy.replace(",", " ").split()


def _split_port(entry: str) -> tuple[str, int]:
    """`name:port`, `[v6]:port`, or an entry without a port: then it is 0."""
    name, colon, port = entry.rpartition(":")
    if colon and port.isascii() and port.isdigit() and (":" not in name or name.endswith("]")):
        return name.strip("[]"), int(port)
    return entry.strip("[]"), 0


def _covers(name: str, host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        bare = name.lstrip(".")
        return bool(bare) and (host == bare or host.endswith("." + bare))
    try:
        return address in ip_network(name, strict=False)
    except ValueError:
        return False


def _network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _redacted(url: str) -> str:
    if not url:
        return url
    parts: SplitResult = urlsplit(url)
    if parts.password is None:
        return url
    user, _, place = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}:{HIDDEN}@{place}").geturl()
