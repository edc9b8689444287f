"""What the lab's network tells nft, dnsmasq, squid and QEMU."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from quiesce.lab.cuts import Addresses, Cut, ruleset
from quiesce.lab.daemons import ProxyRule, dnsmasq_configuration, squid_configuration
from quiesce.lab.machine import (
    Card,
    GuestFiles,
    Hardware,
    Machine,
    card_commands,
)

AT = Addresses("br0", "10.77.0.1", "168.63.129.16", "198.51.100.10", 3128)
CARD = Card("tap1", "52:54:00:77:00:01", "10.77.0.101")


def dnsmasq(announced: str | None) -> list[str]:
    return dnsmasq_configuration(
        Path("/run/x"),
        bridge="br0",
        gateway="10.77.0.1",
        leases={CARD.hardware_address: CARD.address},
        names={"storage.quiesce.test": "198.51.100.10"},
        announced=announced,
    ).splitlines()


def squid(rule: ProxyRule) -> list[str]:
    text = squid_configuration(
        Path("/run/x"), gateway="10.77.0.1", storage="198.51.100.10", rule=rule
    )
    return [line for line in text.splitlines() if line.startswith("http_access")]


def test_nothing_is_forwarded_and_without_a_cut_nothing_is_dropped() -> None:
    rules = ruleset((), AT)
    assert "hook forward priority 0; policy drop;" in rules
    assert "counter" not in rules


@pytest.mark.parametrize(
    ("cut", "rule"),
    [
        (Cut.STORAGE_DROPPED, "ip daddr 198.51.100.10 counter drop"),
        (Cut.STORAGE_REJECTED, "reject with icmp type admin-prohibited"),
        (Cut.STORAGE_RESET, "reject with tcp reset"),
        (Cut.HOST, "ip daddr 168.63.129.16 counter drop"),
        (Cut.NAMES, "udp dport 53 counter drop"),
        (Cut.PROXY, "ip daddr 10.77.0.1 tcp dport 3128 counter drop"),
    ],
)
def test_each_cut_is_a_rule_for_the_guests_packets_alone(cut: Cut, rule: str) -> None:
    lines = [line.strip() for line in ruleset([cut], AT).splitlines()]
    own = lines.index('iifname != "br0" accept')
    assert any(line.endswith(rule) for line in lines[own:])


def test_what_one_cut_forbids_another_does_not_allow() -> None:
    lines = [line.strip() for line in ruleset(Cut, AT).splitlines()]
    rules = lines[lines.index('iifname != "br0" accept') + 1 : -2]
    accepted = [line.endswith("accept") for line in rules]
    assert any(accepted)
    first = accepted.index(True)
    assert rules[-1] == "counter drop"
    assert all(not before or after for before, after in pairwise(accepted[first:-1]))


def test_dhcp_announces_the_host_address_in_option_245_or_not_at_all() -> None:
    assert "dhcp-option-force=245,a8:3f:81:10" in dnsmasq("168.63.129.16")
    assert "dhcp-option-force=245,0a:4d:00:f5" in dnsmasq("10.77.0.245")
    assert not any("245" in line for line in dnsmasq(None))


def test_dhcp_serves_known_cards_alone_and_dns_asks_nobody_outside() -> None:
    lines = dnsmasq(None)
    assert "dhcp-range=10.77.0.0,static,255.255.255.0,1h" in lines
    assert "dhcp-host=52:54:00:77:00:01,10.77.0.101" in lines
    assert {"no-resolv", "local=/#/"} <= set(lines)


def test_proxy_lets_nobody_further_than_to_the_storage_endpoint() -> None:
    assert squid(ProxyRule.OPEN) == ["http_access allow storage", "http_access deny all"]
    assert squid(ProxyRule.PASSWORD) == [
        "http_access allow known storage",
        "http_access deny all",
    ]
    assert squid(ProxyRule.DENY) == ["http_access deny all"]


def test_card_is_the_same_hardware_from_the_start_and_plugged_in_later() -> None:
    machine = Machine(
        Hardware(), Path("vmlinuz"), Path("initrd"), GuestFiles(Path("/x")), {}, card=CARD
    )
    command = " ".join(machine.command())
    for _, arguments in card_commands(CARD):
        assert all(f'"{key}": "{value}"' in command for key, value in arguments.items())
