"""The guest's way to the storage endpoint: proxies, and what a probe saw hop by hop."""

from __future__ import annotations

from dataclasses import dataclass

from quiesce.model.failure import FailureReport


@dataclass(frozen=True, slots=True)
class Proxy:
    """How a guest gets out, in the words of the usual environment variables: URLs of the proxies
    for http and https (credentials allowed: a secret), and the names, addresses and networks that
    are reached without. Empty: no proxy. The host address never goes through one."""

    http: str = ""
    https: str = ""
    no_proxy: str = ""

    def __bool__(self) -> bool:
        return bool(self.http or self.https)


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of the probe, run in the guest. `ok` None: not tried, since an earlier hop failed
    or there is no such thing here (no proxy, no name to look up).

    `name`: address, dhcp-245, route, wire-server, host-plugin, dns, proxy, tcp, tls, http, clock.
    `detail` is one sentence with what was seen; `milliseconds` what it took; `code` is the
    failure's code when `ok` is false; `raw` the operating system's own words.
    """

    name: str
    ok: bool | None
    detail: str
    milliseconds: float = 0.0
    code: str = ""
    raw: str = ""


@dataclass(frozen=True, slots=True)
class NetworkReport:
    """What a probe in a guest saw. `channel` is the agent that ran it (qga, waagent); `endpoint`
    the storage endpoint's URL; `failure` the first hop that failed, None when data got through.
    `setbacks` are why the probe could not be run through another agent that was tried before."""

    vm: str
    channel: str
    endpoint: str
    hops: tuple[Hop, ...]
    failure: FailureReport | None = None
    setbacks: tuple[FailureReport, ...] = ()
