"""The lab's network is what the guest route's tests rely on: one way in, cuts, and no way out."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_network_site import attempt, new, serving

from quiesce.lab import faults
from quiesce.lab.cuts import Cut
from quiesce.lab.daemons import ProxyRule
from quiesce.lab.guest import LabGuest
from quiesce.lab.namespace import remove_leftovers
from quiesce.lab.network import HOST_ADDRESS, LabNetwork

pytestmark = [pytest.mark.guest, pytest.mark.long]

ASK_PROXY = """
import base64, socket, sys
line = socket.create_connection(("10.77.0.1", 3128), timeout=10)
target, word = sys.argv[1], sys.argv[2]
sent = f"CONNECT {target} HTTP/1.1\\r\\nHost: {target}\\r\\n"
if word:
    sent += f"Proxy-Authorization: Basic {base64.b64encode(word.encode()).decode()}\\r\\n"
line.sendall((sent + "\\r\\n").encode())
print(line.recv(200).split(b"\\r\\n")[0].decode())
"""


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[LabNetwork, LabGuest]]:
    """One network and one guest in it for the tests that cut and heal."""
    with LabNetwork() as network, serving(network, network.storage_address, 443), new(network) as g:
        yield network, g


def through_proxy(guest: LabGuest, target: str, word: str = "") -> str:
    """The proxy's status line."""
    return guest.run(["python3", "-c", ASK_PROXY, target, word]).strip()


def test_guest_has_its_address_and_the_host_address_from_dhcp(
    site: tuple[LabNetwork, LabGuest],
) -> None:
    network, guest = site
    assert guest.card is not None
    assert f"inet {guest.card.address}/24" in guest.run("ip -4 address show dev eth0")
    assert guest.card.hardware_address in guest.run("cat /sys/class/net/eth0/address")
    lease = guest.run("cat /var/lib/dhcp/dhclient.eth0.leases")
    assert "option unknown-245 a8:3f:81:10;" in lease
    assert "option:245" in network.dhcp_log()
    assert "198.51.100.10" in guest.run(f"getent hosts {network.storage_name}")


def test_guest_reaches_the_lab_and_nothing_outside(site: tuple[LabNetwork, LabGuest]) -> None:
    network, guest = site
    assert attempt(guest, network.storage_address, 443) == "connected"
    assert network.run(["ip", "route", "show", "default"]) == ""
    links = [line.split()[0] for line in network.run(["ip", "-br", "link"]).splitlines()]
    assert links == ["lo", "br0", "tap1"], "a link might lead out"
    outside = subprocess.run(
        ["ip", "-br", "-4", "address"], capture_output=True, text=True, check=True
    ).stdout.split()
    own = [word.partition("/")[0] for word in outside if "/" in word and "127." not in word]
    for address in [*own, "192.0.2.1", "1.1.1.1"]:
        assert attempt(guest, address, 443) != "connected", address
    assert guest.run("getent hosts deb.debian.org || echo unknown").strip() == "unknown"


@pytest.mark.parametrize(
    ("cut", "seen"),
    [
        (Cut.STORAGE_DROPPED, "TimeoutError None"),
        (Cut.STORAGE_REJECTED, "OSError 113"),
        (Cut.STORAGE_RESET, "ConnectionRefusedError 111"),
        (Cut.PROXY_ONLY, "TimeoutError None"),
    ],
)
def test_each_cut_looks_to_the_guest_as_its_firewall_would_and_heals(
    site: tuple[LabNetwork, LabGuest], cut: Cut, seen: str
) -> None:
    network, guest = site
    network.cut(cut)
    try:
        assert attempt(guest, network.storage_address, 443) == seen
    finally:
        network.heal(cut)
    assert attempt(guest, network.storage_address, 443) == "connected"


def test_without_names_the_address_is_still_reached(site: tuple[LabNetwork, LabGuest]) -> None:
    network, guest = site
    look_up = f"timeout 5 getent ahostsv4 {network.storage_name} >/dev/null && echo found || true"
    assert guest.run(look_up).strip() == "found"
    network.cut(Cut.NAMES)
    try:
        assert guest.run(look_up).strip() == ""
        assert attempt(guest, network.storage_address, 443) == "connected"
    finally:
        network.heal()


def test_under_the_cut_the_proxy_is_the_only_way_out_and_leads_to_the_storage_endpoint_alone(
    site: tuple[LabNetwork, LabGuest],
) -> None:
    network, guest = site
    network.cut(Cut.PROXY_ONLY)
    try:
        assert attempt(guest, network.storage_address, 443) == "TimeoutError None"
        assert through_proxy(guest, f"{network.storage_name}:443").startswith("HTTP/1.1 200")
        assert through_proxy(guest, f"{HOST_ADDRESS}:80").startswith("HTTP/1.1 403")
        assert through_proxy(guest, "deb.debian.org:443").startswith("HTTP/1.1 ")
        assert not through_proxy(guest, "deb.debian.org:443").startswith("HTTP/1.1 200")
    finally:
        network.heal()
    assert any(f"CONNECT {network.storage_name}:443" in line for line in network.proxy_requests())


def test_proxy_asks_for_a_password_denies_and_dies_on_demand(
    site: tuple[LabNetwork, LabGuest],
) -> None:
    network, guest = site
    target = f"{network.storage_address}:443"
    network.set_proxy(ProxyRule.PASSWORD)
    assert through_proxy(guest, target).startswith("HTTP/1.1 407")
    assert through_proxy(guest, target, "backup:open sesame").startswith("HTTP/1.1 200")
    network.set_proxy(ProxyRule.DENY)
    assert through_proxy(guest, target).startswith("HTTP/1.1 403")
    network.stop_proxy()
    assert attempt(guest, "10.77.0.1", 3128) == "ConnectionRefusedError 111"
    network.set_proxy(ProxyRule.OPEN)
    assert through_proxy(guest, target).startswith("HTTP/1.1 200")


def test_disk_is_full_to_the_last_block_and_free_again(site: tuple[LabNetwork, LabGuest]) -> None:
    _, guest = site
    with faults.full_disk(guest):
        said = guest.run("dd if=/dev/zero of=/root/more bs=8k count=1 2>&1; rm -f /root/more; true")
        assert "No space left on device" in said
    guest.run("dd if=/dev/zero of=/root/more bs=1M count=8 2>&1 && rm /root/more")


def test_extension_is_corrupted_without_a_trace_and_removed(
    site: tuple[LabNetwork, LabGuest],
) -> None:
    _, guest = site
    folder = "/var/lib/waagent/Quiesce.VmBackup-0.0.1"
    guest.run(f"mkdir -p {folder}/bin && seq 1000 > {folder}/bin/handler")
    look = f"stat -c '%s %Y' {folder}/bin/handler; sha256sum < {folder}/bin/handler"
    before = guest.run(look).splitlines()
    faults.corrupt_extension(guest)
    after = guest.run(look).splitlines()
    assert after[0] == before[0]
    assert after[1] != before[1]
    faults.remove_extension(guest)
    assert guest.run("ls /var/lib/waagent") == ""


def test_clock_jumps_and_comes_back(site: tuple[LabNetwork, LabGuest]) -> None:
    _, guest = site
    faults.skew_clock(guest, seconds=-86400)
    assert abs(float(guest.run("date +%s")) + 86400 - time.time()) < 30
    faults.right_clock(guest)
    assert abs(float(guest.run("date +%s")) - time.time()) < 30


def test_guest_keeps_its_card_over_a_reboot_and_a_lease_without_option_245_says_so(
    site: tuple[LabNetwork, LabGuest],
) -> None:
    network, guest = site
    card = guest.card
    guest.stop()
    guest.start()
    assert guest.card == card
    faults.silence_option_245(network, guest)
    lease = guest.run("cat /var/lib/dhcp/dhclient.eth0.leases")
    assert "option routers 10.77.0.1;" in lease
    assert "unknown-245" not in lease
    network.announce(network.host_address)
    faults.renew_lease(guest)
    assert "unknown-245" in guest.run("cat /var/lib/dhcp/dhclient.eth0.leases")


ABANDON = """
import os, sys
from quiesce.lab.network import LabNetwork
network = LabNetwork(tied=False)
assert os.path.exists(f"/run/netns/{network.namespace.name}")
print(network.namespace.name, flush=True)
os._exit(0)
"""


def test_network_of_a_dead_owner_is_removed_and_a_living_ones_is_not() -> None:
    with LabNetwork() as mine:
        dead = subprocess.run(
            [sys.executable, "-c", ABANDON], capture_output=True, text=True, check=True
        ).stdout.strip()
        remove_leftovers()  # unless another run of the lab has just done it
        assert not Path("/run/netns", dead).exists()
        assert Path("/run/netns", mine.namespace.name).exists()
    assert not Path("/run/netns", mine.namespace.name).exists()
