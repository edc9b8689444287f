"""Where the guests' way can be cut, as nftables rules in the lab's namespace.

All that a guest may reach is an address of the namespace itself, so every cut stands where the
namespace receives; nothing is ever forwarded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

METADATA_ADDRESS = "169.254.169.254"


class Cut(StrEnum):
    """One misfortune on the way. Several add up."""

    STORAGE_DROPPED = "storage-dropped"
    """Packets to the storage endpoint vanish: the guest waits."""
    STORAGE_REJECTED = "storage-rejected"
    """A firewall says so: ICMP "administratively prohibited"."""
    STORAGE_RESET = "storage-reset"
    """A firewall hangs up: TCP RST, as from a closed port."""
    PROXY_ONLY = "proxy-only"
    """Everything vanishes but DHCP, DNS, the host address and the proxy."""
    NAMES = "names"
    """DNS does not answer."""
    HOST = "host"
    """Packets to the host address vanish."""
    PROXY = "proxy"
    """Packets to the proxy vanish."""
    EVERYTHING = "everything"
    """Not even DHCP gets through."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """What the rules are about. `bridge` is the interface that the guests' packets come from."""

    bridge: str
    gateway: str
    host: str
    storage: str
    proxy_port: int


def ruleset(cuts: Iterable[Cut], at: Addresses) -> str:
    """What `nft -f -` is given: replaces the rules of before in one transaction."""
    # The only cut that also accepts comes last: what the others forbid stays forbidden.
    ordered = sorted(set(cuts), key=lambda cut: (cut is Cut.PROXY_ONLY, cut))
    rules = "".join(f"    {rule}\n" for cut in ordered for rule in _rules(cut, at))
    return (
        "table inet quiesce {}\n"
        "delete table inet quiesce\n"
        "table inet quiesce {\n"
        # An agent that finds no metadata service looks for it for half a minute, twice at its
        # start; here, as on Azure, one answers.
        "  chain prerouting {\n"
        "    type nat hook prerouting priority -100;\n"
        f"    ip daddr {METADATA_ADDRESS} tcp dport 80 dnat to {at.host}\n"
        "  }\n"
        "  chain forward { type filter hook forward priority 0; policy drop; }\n"
        "  chain input {\n"
        "    type filter hook input priority 0; policy accept;\n"
        f'    iifname != "{at.bridge}" accept\n'
        f"{rules}"
        "  }\n"
        "}\n"
    )


def _rules(cut: Cut, at: Addresses) -> list[str]:
    match cut:
        case Cut.STORAGE_DROPPED:
            return [f"ip daddr {at.storage} counter drop"]
        case Cut.STORAGE_REJECTED:
            return [f"ip daddr {at.storage} counter reject with icmp type admin-prohibited"]
        case Cut.STORAGE_RESET:
            return [f"ip daddr {at.storage} meta l4proto tcp counter reject with tcp reset"]
        case Cut.PROXY_ONLY:
            return [
                "udp dport { 53, 67 } accept",
                "tcp dport 53 accept",
                f"ip daddr {at.host} accept",
                f"ip daddr {at.gateway} tcp dport {at.proxy_port} accept",
                "counter drop",
            ]
        case Cut.NAMES:
            return ["udp dport 53 counter drop", "tcp dport 53 counter drop"]
        case Cut.HOST:
            return [f"ip daddr {at.host} counter drop"]
        case Cut.PROXY:
            return [f"ip daddr {at.gateway} tcp dport {at.proxy_port} counter drop"]
        case Cut.EVERYTHING:
            return ["counter drop"]
