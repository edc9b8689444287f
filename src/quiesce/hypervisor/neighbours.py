"""Which VM is at the other end of a connection, by what a guest cannot forge.

The kernel tells by which interface and to which hardware address it answers the peer. The VM whose
card has this address is the one, if the peer is also at this card's place:

- the interface is the card's own tap, or
- the interface is a bridge (or a VLAN of one) and the bridge has learned the hardware address on
  the card's tap. A guest that takes another one's address is learned on its own tap.

Where QEMU and the kernel do not tell the card's tap, the hardware address alone must do.

A VM with a guest address is also known by that address, for an agent behind a router. When the
peer is no neighbour, nothing but the address is known; when it is one, its hardware address must
not be another VM's.

Two guests on one bridge can fight for an address, each being learned in turn. Hypervisors prevent
it (libvirt's `clean-traffic` filter); nobody can from here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

import structlog

from quiesce.hypervisor.card_roster import CardRoster, Holder, Listing
from quiesce.hypervisor.rtnetlink import Link, Rtnetlink

log = structlog.get_logger(__name__)

SAID_AGAIN_SECONDS = 600.0
_SAID_AT_MOST = 256
_DEEPEST_STACK = 4

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Sighting:
    """A neighbour as the kernel knows it. `port` is the index of the interface that it is at:
    the bridge's port, else the interface itself; 0 when a bridge has not learned it."""

    hardware_address: str
    port: int


class Sight(Protocol):
    def __call__(self, address: Address) -> Sighting | None:
        """None for whoever is no neighbour.

        :raise OSError: the kernel did not tell
        """


def sight(address: Address) -> Sighting | None:
    """What this thread's network namespace knows of a peer, now."""
    with Rtnetlink() as kernel:
        device = kernel.device_towards(address)
        if device is None:
            return None
        hardware_address = kernel.hardware_address(address, device)
        if hardware_address is None:
            return None
        return Sighting(hardware_address, _port(kernel, device, hardware_address))


def _port(kernel: Rtnetlink, device: int, hardware_address: str) -> int:
    below = kernel.link(device)
    vlans = [0]  # what a bridge that knows no VLANs learns by
    for _ in range(_DEEPEST_STACK):
        if below is None or below.kind != "vlan":
            break
        vlans = [below.vlan, 0]
        device, below = below.lower, kernel.link(below.lower)
    if below is None or below.kind != "bridge":
        return device
    return _bridge_port(kernel, device, below, hardware_address, vlans)


def _bridge_port(
    kernel: Rtnetlink, bridge: int, link: Link, hardware_address: str, vlans: list[int]
) -> int:
    if vlans == [0] and link.vlan:
        vlans = [0, link.vlan]
    for vlan in vlans:
        port = kernel.bridge_port(bridge, hardware_address, vlan)
        if port is not None:
            return port
    return 0


class Neighbours:
    """Thread-safe. Fulfils `quiesce.agent.waagent.ports.Neighbourhood`.

    Knows a VM some moments after it was listed, and its change of card some seconds after it was
    seen, up to a minute while strangers keep coming: until then it is a stranger, which an agent
    tries again after.
    """

    def __init__(
        self,
        vms: Listing,
        *,
        sight: Sight = sight,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._roster = CardRoster(vms, clock=clock)
        self._sight = sight
        self._clock = clock
        self._said: dict[tuple[str, str], float] = {}
        self._said_lock = threading.Lock()
        self._roster.keep_up()

    def vm_at(self, address: str, port: int) -> str | None:
        """The name of the VM that this peer is, None for strangers. Never raises. Some 0.1 ms;
        in the first half second after the start it waits for the first answers.

        IPv4, and IPv6 other than link-local addresses, which no agent uses. The port tells
        nothing here: VMs do not share an address.
        """
        self._roster.wait_for_first_round()
        self._roster.keep_up()
        try:
            peer = _plain(ip_address(address))
            seen = self._sight(peer)
        except ValueError:
            return None
        except OSError as error:
            self._say("the kernel did not tell who a peer is", "", error=str(error))
            return None
        named = self._named(str(peer))
        if seen is None:
            return named
        holders = self._roster.holders(seen.hardware_address)
        if not holders:
            # It may be a card that is not known yet, and with it, another VM's.
            self._roster.keep_up(ask_again=True)
            return named
        proven = self._proven(seen, holders)
        return proven if named in (None, proven) else None

    def look_now(self) -> None:
        """A VM was added, changed or removed. Waits for nothing."""
        self._roster.look_now()

    def _named(self, address: str) -> str | None:
        names = self._roster.at_address(address)
        if len(names) > 1:
            self._say("several VMs have this guest address", address, vms=sorted(names))
            return None
        return names[0] if names else None

    def _proven(self, seen: Sighting, holders: tuple[Holder, ...]) -> str | None:
        names = {holder.vm for holder in holders}
        if len(names) > 1:
            self._roster.keep_up(ask_again=True)
            self._say(
                "several VMs have this hardware address, so none of them is served",
                seen.hardware_address,
                vms=sorted(names),
            )
            return None
        if any(_is_at(holder.port, seen.port) for holder in holders):
            return holders[0].vm
        # The tap may have been made anew with the VM; it may as well be a guest that lies.
        self._roster.keep_up(ask_again=True)
        self._say(
            "a VM's hardware address is at another place than its network card",
            seen.hardware_address,
            vm=holders[0].vm,
            at=seen.port,
            card=[holder.port for holder in holders],
        )
        return None

    def _say(self, what: str, about: str, **facts: object) -> None:
        """Once in a while: guests can make it happen as often as they like."""
        now = self._clock()
        with self._said_lock:
            if now - self._said.get((what, about), float("-inf")) < SAID_AGAIN_SECONDS:
                return
            if len(self._said) >= _SAID_AT_MOST:
                self._said.pop(next(iter(self._said)))
            self._said[what, about] = now
        log.warning(what, about=about, **facts)


def _is_at(card_port: int | None, seen_port: int) -> bool:
    """A port of 0 is a place nobody knows, which is not the same place as another such."""
    return card_port is None or card_port == seen_port != 0


def _plain(address: Address) -> Address:
    """An IPv4 peer of a socket that serves both is "::ffff:192.0.2.1".

    :raise ValueError: a link-local IPv6 address, which several VMs may have
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.scope_id or address.is_link_local:
            raise ValueError(f"link-local address {address}")
    return address
