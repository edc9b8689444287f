"""The guests' way to this server: tested from inside, and what firewalls must let through."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from quiesce.diagnosis.catalogue import catalogue
from quiesce.model.failure import (
    AgentFailure,
    Evidence,
    ExtensionFailure,
    FailureReport,
    NetworkFailure,
)
from quiesce.model.network import Hop, NetworkReport, Proxy
from quiesce.model.vm import VmAddress
from quiesce.service.composition import Composition
from quiesce.service.extensions import QGA, channels
from quiesce.service.guest_side import GuestSide, endpoint_off
from quiesce.service.job_book import JobBook
from quiesce.service.proxies import excepted, place
from quiesce.service.settings import Settings
from quiesce.service.views import Need
from quiesce.service.vm_table import VmTable


def _nothing() -> None:
    return


class Network:
    """What CLI, REST and portal call."""

    def __init__(
        self,
        settings: Settings,
        table: VmTable,
        composition: Composition,
        guest_side: GuestSide,
        book: JobBook,
    ) -> None:
        self._settings = settings
        self._table = table
        self._composition = composition
        self._guest_side = guest_side
        self._book = book

    def test(self, name: str, channel: str | None = None) -> NetworkReport:
        """Run the probe in a guest, hop by hop to the storage endpoint. A hop that fails is in
        the report; only that the probe could not be run at all is raised.

        `channel`: the agent that runs it. Without one it is the QEMU guest agent where there is
        one, since it works without the network, and then the other; what kept the first from it
        is in `setbacks`.

        :raise NotFoundFailure: vm.unknown
        :raise InputFailure: input.channel-invalid
        :raise PolicyFailure: agent.endpoint-off, policy.in-progress
        :raise AgentFailure: the agent cannot be reached, and why
        :raise ExtensionFailure: the extension cannot run
        """
        address = self._table.address(name)
        ways = channels(address, channel)
        if not self._guest_side.wanted:
            raise endpoint_off()
        self._book.check_idle(address.name)
        return self.probe(address, *ways)

    def probe(
        self, address: VmAddress, *ways: str, before_each: Callable[[], None] = _nothing
    ) -> NetworkReport:
        """As `test`, by these agents, one after the other; also while a job of this VM runs, whose
        guest must not be frozen then: `before_each` raises if it may be. Raises as `test` does, but
        for policy.in-progress."""
        setbacks: list[FailureReport] = []
        for position, way in enumerate(ways, 1):
            before_each()
            try:
                hops = self._probe(address, way)
            except (AgentFailure, ExtensionFailure) as failure:
                if position == len(ways):
                    raise
                setbacks.append(failure.report())
            else:
                return NetworkReport(
                    vm=address.name,
                    channel=way,
                    endpoint=self._guest_side.storage().endpoint.url,
                    hops=hops,
                    failure=_failure(address.name, hops),
                    setbacks=tuple(setbacks),
                )
        raise AssertionError("a VM has one channel at least")

    def needs(self, name: str) -> tuple[Need, ...]:
        """What the guest must be able to reach, in the order in which it does. Nothing when its
        agent needs no network.

        :raise NotFoundFailure: vm.unknown
        :raise PolicyFailure: agent.endpoint-off
        """
        address = self._table.address(name)
        if not address.agent.waagent:
            return ()
        if not self._guest_side.wanted:
            raise endpoint_off()
        settings = self._settings
        host = settings.agent_address
        return (
            Need(host, settings.agent_port, "tcp", "wire server: what the agent is to do"),
            Need(host, settings.host_plugin_port, "tcp", "host plugin: packages and status"),
            *_with_dns(self._storage_need(self._table.proxy_of(address.name))),
        )

    def _storage_need(self, proxy: Proxy) -> Need:
        settings = self._settings
        host, port = settings.storage_name, settings.storage_port
        direct = host == settings.agent_address or excepted(host, port, proxy.no_proxy)
        if proxy.https and not direct:
            return Need(*place(proxy.https), "tcp", "proxy to the storage endpoint")
        return Need(host, port, "tcp", "storage endpoint: the snapshot command")

    def _probe(self, address: VmAddress, channel: str) -> tuple[Hop, ...]:
        if channel != QGA:
            return self._guest_side.agents().probe(address.name)
        guest = self._composition.guest(address)
        if guest is None:
            raise AgentFailure(
                "agent.channel-missing",
                f"No guest agent socket is set for the VM {address.name}.",
            )
        # The host address is the Azure Linux agent's; to others it does not answer.
        host_address = self._settings.agent_address if address.agent.waagent else ""
        endpoint = self._guest_side.storage().endpoint
        return guest.probe(endpoint, self._table.proxy_of(address.name), host_address)


def _with_dns(need: Need) -> tuple[Need, ...]:
    """A name must be looked up first, by a server that only the guest knows."""
    try:
        ip_address(need.address)
    except ValueError:
        why = f"your DNS server: the address of {need.address}"
        return (Need("", 53, "udp", why), Need("", 53, "tcp", why), need)
    return (need,)


def _failure(vm: str, hops: tuple[Hop, ...]) -> FailureReport | None:
    """The first hop that failed. Its code comes from the guest: one that means nothing here is
    not passed on."""
    failed = next((hop for hop in hops if hop.ok is False), None)
    if failed is None:
        return None
    known = failed.code in catalogue().entries
    return NetworkFailure(
        failed.code if known else "network.probe-failed",
        f"The way from the VM {vm} to this server breaks at {failed.name}: {failed.detail}",
        evidence=[
            Evidence(
                f"{hop.name}: {hop.detail}",
                "probe in the guest",
                raw=hop.raw,
            )
            for hop in hops
            if hop.ok is False
        ],
    ).report()
