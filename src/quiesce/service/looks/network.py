"""The guest's way to the storage endpoint: from the failure where it tells, else by the probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from quiesce.diagnosis.catalogue import catalogue
from quiesce.diagnosis.vocabulary import HOPS
from quiesce.model.diagnosis import Fact
from quiesce.model.failure import Failure, FailureReport
from quiesce.model.network import Hop, NetworkReport
from quiesce.service.extensions import QGA
from quiesce.service.looks.channel import spare_the_frozen
from quiesce.service.looks.inside import ways_in
from quiesce.service.looks.panel import Case, Found
from quiesce.service.network import Network

CHANNEL = "network probe"
_HOP_OF = {
    "network.no-address": "address",
    "network.dhcp-no-host-address": "dhcp-245",
    "network.no-route": "route",
    "network.host-address-unreachable": "wire-server",
    "network.host-address-hijacked": "wire-server",
    "network.not-recognised": "wire-server",
    "network.dns-failed": "dns",
    "network.proxy-unreachable": "proxy",
    "network.proxy-denied": "proxy",
    "network.proxy-auth-required": "proxy",
    "network.proxy-failed": "proxy",
    "network.connect-timeout": "tcp",
    "network.connect-refused": "tcp",
    "network.rejected": "tcp",
    "network.tls-failed": "tls",
    "network.tls-untrusted": "tls",
    "network.clock-skew": "clock",
    "network.http-intercepted": "http",
}
"""At which hop the extension (guest/dial.py, guest/probe.py) meets each."""
_ON_THE_WAY = ("network.", "storage.", "agent.silent", "agent.stale", "agent.never-seen")
_NOT_THE_GUESTS = ("storage.scratch", "storage.full", "storage.slow", "storage.io")

Decided = Callable[[FailureReport, Sequence[Fact]], bool]
"""Whether these facts prove the cause already."""


class NetworkLook:
    """Comes after the looks at the channel, the agents and the guest's inside. `decided` spares a
    probe, which takes up to half a minute, where the cause is known without it."""

    def __init__(self, network: Network, decided: Decided) -> None:
        self._network = network
        self._decided = decided

    def __call__(self, case: Case, before: Found) -> Found:
        told = tuple(_told(case))
        if not self._wanted(case, before, told):
            return Found(told)
        try:
            ways = ways_in(before)
            if before.value("qga.exec") is False:
                ways = tuple(way for way in ways if way != QGA)
            if not ways:
                return Found(told, channels=(f"{CHANNEL}: no agent can run it in the guest",))
            report = self._network.probe(
                case.address, *ways, before_each=lambda: spare_the_frozen(case)
            )
        except Failure as failure:
            return Found(told, (failure.report(),), (f"{CHANNEL}: {failure}",))
        seen = tuple(_hops(report))
        return Found((*seen, *told), report.setbacks, (f"{CHANNEL} (through {report.channel})",))

    def _wanted(self, case: Case, before: Found, told: Sequence[Fact]) -> bool:
        if not case.address.agent.waagent:
            return False  # such a guest needs no network for its backups
        if case.deep:
            return True
        if case.failure is None or told:
            return False
        codes = [failure.code for failure in case.failures]
        on_the_way = any(
            code.startswith(_ON_THE_WAY) and not code.startswith(_NOT_THE_GUESTS) for code in codes
        )
        return on_the_way and not self._decided(case.failure, before.facts)


def _told(case: Case) -> Iterator[Fact]:
    """What the extension itself met on its way, the innermost failure's word first."""
    for failure in reversed(case.failures):
        hop = _HOP_OF.get(failure.code)
        if hop is not None:
            raw = "\n".join(
                f"{each.fact} {each.raw}".rstrip() for each in failure.evidence if each.fact
            )
            at = failure.evidence[0].observed_at if failure.evidence else case.now
            source = "the failure, from inside the guest"
            yield Fact(f"hop.{hop}", "failed", failure.message, source, at, raw)
            yield Fact(f"hop.{hop}.code", failure.code, failure.message, source, at, raw)
            return


def _hops(report: NetworkReport) -> Iterator[Fact]:
    source = f"{CHANNEL} in the guest, through {report.channel}"
    slowest: Hop | None = None
    for hop in report.hops:
        if hop.name not in HOPS:
            continue
        word = {True: "ok", False: "failed", None: "untried"}[hop.ok]
        words = f"{hop.name}: {hop.detail}"
        yield Fact(f"hop.{hop.name}", word, words, source, raw=hop.raw)
        if hop.ok is False:
            # It comes from the guest: one that means nothing here is not passed on.
            known = hop.code in catalogue().entries
            code = hop.code if known else "network.probe-failed"
            yield Fact(f"hop.{hop.name}.code", code, words, source, raw=hop.raw)
        if hop.ok and (slowest is None or hop.milliseconds > slowest.milliseconds):
            slowest = hop
    if slowest is not None:
        words = f"the slowest hop was {slowest.name} with {slowest.milliseconds:.0f} ms"
        yield Fact("hop.slowest-ms", slowest.milliseconds, words, source)
