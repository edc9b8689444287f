"""What the command line and the portal call things alike: hops of a probe, routes, proxies."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from quiesce.model.failure import FailureReport

_HOPS: Mapping[str, str] = {
    "address": "address",
    "dhcp-245": "DHCP option 245",
    "route": "route",
    "wire-server": "wire server",
    "host-plugin": "host plugin",
    "dns": "DNS",
    "proxy": "proxy",
    "tcp": "TCP",
    "tls": "TLS",
    "http": "HTTP",
    "clock": "clock",
}

AGENTS: Mapping[str, str] = {
    "qga": "QEMU guest agent",
    "waagent": "Azure Linux agent",
    "both": "Azure Linux agent and QEMU guest agent",
}


def hop_title(name: str) -> str:
    """A hop of `model.network.Hop.name` for people; one that a newer guest invents stays as it
    is."""
    return _HOPS.get(name, name)


def seen_at(at: datetime, now: datetime | None = None) -> str:
    """An instant as local time, with its date unless it is of today."""
    local = at.astimezone()
    today = (now or datetime.now(UTC)).astimezone().date()
    return f"{local:%H:%M:%S}" if local.date() == today else f"{local:%Y-%m-%d %H:%M:%S}"


def mark(ok: bool | None) -> str:
    """✓, ✗, or – for what was not tried."""
    return "–" if ok is None else "✓" if ok else "✗"


def setback_title(route: str | None, setbacks: int) -> str:
    """What stands over a failure that was got round. `route` is the one that took the point, of a
    job with that many setbacks: of two routes the other one failed, or both did."""
    failed = {"host": "guest", "guest": "host"}.get(route or "", "")
    if setbacks > 1 or not failed:
        return "A route failed and was got round:"
    return f"The {failed} route failed and was got round:"


def proxy_words(http: str, https: str, no_proxy: str) -> str:
    """A proxy setting in one line; one without a proxy says so, since it is set on purpose."""
    if not (http or https):
        return "none"
    if http == https:
        words = https
    else:
        said = (("https", https), ("http", http))
        words = ", ".join(f"{scheme} by {url}" for scheme, url in said if url)
    return f"{words}, except for {no_proxy}" if no_proxy else words


def goal_words(served: int, acknowledged: int) -> str:
    """Which goal state is published for an agent, and which one it has answered; empty when there
    is none."""
    if not served:
        return ""
    if acknowledged == served:
        return f"{served}, acknowledged"
    return f"{served}, acknowledged up to {acknowledged}" if acknowledged else str(served)


def retry_words(helps: bool) -> str:
    """Whether the same call may succeed without anything being mended."""
    if helps:
        return "Trying again can help."
    return "Trying again does not help until it is mended."


def explains(symptom: str, failure: FailureReport) -> bool:
    """Whether a diagnosis that began with this symptom is the one of that failure: the symptom is
    one of the codes in its chain of causes."""
    link: FailureReport | None = failure
    while link is not None:
        if link.code == symptom:
            return True
        link = link.cause
    return False


_AREAS: Mapping[str, str] = {
    "agent": "Agent",
    "extension": "Backup extension",
    "mounts": "Mounts",
    "network": "Network",
    "disks": "Disks",
    "space": "Space",
    "load": "Load",
    "schedule": "Schedule",
    "windows": "Windows",
}


def area_title(area: str) -> str:
    """An area of `model.diagnosis.Check.area` for people."""
    return _AREAS.get(area, area)


def area_order(area: str) -> int:
    """Where it stands among the others; one that is not known, behind them."""
    return list(_AREAS).index(area) if area in _AREAS else len(_AREAS)
