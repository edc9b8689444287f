"""Which VM a connection comes from, with a real bridge and real packets: needs root."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from network_bench import HOST, NetworkBench

from quiesce.hypervisor import card_roster
from quiesce.hypervisor.neighbours import Neighbours
from quiesce.model.vm import NetworkCard

pytestmark = pytest.mark.root

CARD_A, CARD_B, CARD_C = (f"52:54:00:00:00:0{digit}" for digit in "abc")
ADDRESS_A, ADDRESS_B, ADDRESS_C = "10.99.0.10", "10.99.0.11", "10.99.0.12"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[NetworkBench]:
    # The first answer waits for the first round, on a machine that is busy for a moment too.
    monkeypatch.setattr(card_roster, "_FIRST_ROUND_SECONDS", 60.0)
    made = NetworkBench()
    try:
        made.guest("a", address=ADDRESS_A, card=CARD_A)
        made.guest("b", address=ADDRESS_B, card=CARD_B)
        made.guest("c", address=ADDRESS_C, card=CARD_C)
        yield made
    finally:
        made.close()


@pytest.fixture
def neighbours(bench: NetworkBench) -> Neighbours:
    """The VMs a and b; c is none of ours."""
    return watching(bench, ("a", "", NetworkCard(CARD_A, "tap-a")), b_of_ours())


def b_of_ours() -> tuple[str, str, NetworkCard]:
    return ("b", "", NetworkCard(CARD_B, "tap-b"))


def watching(bench: NetworkBench, *vms: tuple[str, str, NetworkCard]) -> Neighbours:
    def listing() -> list[tuple[str, str, Callable[[], tuple[NetworkCard, ...]]]]:
        return [(name, address, lambda card=card: (card,)) for name, address, card in vms]

    return bench.within("host", lambda: Neighbours(listing))


def test_each_vm_is_known_by_its_card(bench: NetworkBench, neighbours: Neighbours) -> None:
    assert bench.call("a", ask=neighbours.vm_at) == "a"
    assert bench.call("b", ask=neighbours.vm_at) == "b"


def test_a_stranger_on_the_same_bridge_is_nobody(
    bench: NetworkBench, neighbours: Neighbours
) -> None:
    assert bench.call("c", ask=neighbours.vm_at) is None


def test_a_guest_with_another_ones_address_is_still_itself(
    bench: NetworkBench, neighbours: Neighbours
) -> None:
    bench.unplug("a")
    bench.pretend("b", address=ADDRESS_A, card=CARD_B)
    assert bench.call("b", ask=neighbours.vm_at) == "b"


@pytest.mark.parametrize("liar", ["b", "c"])
def test_a_guest_with_another_ones_hardware_address_is_refused(
    bench: NetworkBench, neighbours: Neighbours, liar: str
) -> None:
    assert bench.call("a", ask=neighbours.vm_at) == "a"
    assert f"{CARD_A} dev tap-a" in bench.bridge("fdb", "show", "br", "br0")

    bench.on("a", "link", "set", "eth0", "down")
    bench.pretend(liar, address=ADDRESS_A, card=CARD_A)

    assert bench.call(liar, ask=neighbours.vm_at) is None
    assert f"{CARD_A} dev tap-{liar}" in bench.bridge("fdb", "show", "br", "br0")

    bench.on(liar, "link", "set", "eth0", "down")
    bench.on("a", "link", "set", "eth0", "up")
    assert bench.call("a", ask=neighbours.vm_at) == "a"


def test_a_liar_is_refused_on_a_bridge_with_vlans_too(
    bench: NetworkBench, neighbours: Neighbours
) -> None:
    if not bench.knows_vlans():
        pytest.skip("this kernel's bridges know no VLANs")
    assert bench.call("a", ask=neighbours.vm_at) == "a"
    bench.on("a", "link", "set", "eth0", "down")
    bench.pretend("c", address=ADDRESS_A, card=CARD_A)
    assert bench.call("c", ask=neighbours.vm_at) is None


def test_a_vm_in_a_vlan_of_its_own_is_known(bench: NetworkBench, neighbours: Neighbours) -> None:
    if not bench.knows_vlans():
        pytest.skip("this kernel's bridges know no VLANs")
    bench.bridge("vlan", "add", "dev", "br0", "vid", "20", "self")
    bench.bridge("vlan", "add", "dev", "tap-a", "vid", "20", "pvid", "untagged")
    vlan = ("link", "br0", "name", "br0.20", "type", "vlan", "id", "20")
    bench.on("host", "link", "add", *vlan)
    bench.on("host", "addr", "add", "10.98.0.1/24", "dev", "br0.20")
    bench.on("host", "link", "set", "br0.20", "up")
    bench.on("a", "addr", "add", "10.98.0.10/24", "dev", "eth0")
    assert bench.call("a", host="10.98.0.1", ask=neighbours.vm_at) == "a"


def test_a_vm_that_is_routed_without_a_bridge_is_known(
    bench: NetworkBench, neighbours: Neighbours
) -> None:
    bench.on("host", "link", "set", "tap-a", "nomaster")
    bench.on("host", "addr", "add", "10.98.0.1/24", "dev", "tap-a")
    bench.on("a", "addr", "add", "10.98.0.10/24", "dev", "eth0")
    assert bench.call("a", host="10.98.0.1", ask=neighbours.vm_at) == "a"


def test_a_vm_whose_tap_was_made_anew_is_known_again(
    bench: NetworkBench, neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card_roster, "ROUND_SECONDS", 0.2)
    assert bench.call("a", ask=neighbours.vm_at) == "a"
    bench.unplug("a")
    bench.plug("a", address=ADDRESS_A, card=CARD_A)
    deadline = time.monotonic() + 60
    while bench.call("a", ask=neighbours.vm_at) != "a":
        assert time.monotonic() < deadline


def test_a_vm_behind_a_router_is_known_by_its_guest_address(bench: NetworkBench) -> None:
    """c routes for `far`, whose hardware address the host never sees."""
    bench.namespace("far")
    far_end = ("peer", "name", "eth0", "netns", f"{bench.tag}-far")
    bench.on("c", "link", "add", "inside", "type", "veth", *far_end)
    bench.on("c", "addr", "add", "10.97.0.1/24", "dev", "inside")
    bench.on("c", "link", "set", "inside", "up")
    bench.on("far", "addr", "add", "10.97.0.10/24", "dev", "eth0")
    bench.on("far", "link", "set", "eth0", "up")
    bench.on("far", "route", "add", "default", "via", "10.97.0.1")
    bench.on("host", "route", "add", "10.97.0.0/24", "via", ADDRESS_C)
    forward = "/proc/sys/net/ipv4/ip_forward"
    bench.within("c", lambda: open(forward, "w").write("1"))  # noqa: SIM115

    nobody = NetworkCard("52:54:00:99:99:99")
    neighbours = watching(bench, ("far", "10.97.0.10", nobody), b_of_ours())
    assert bench.call("far", ask=neighbours.vm_at) == "far"

    # Another VM that takes the address is told by its card: the host sees it as a neighbour.
    bench.on("host", "route", "del", "10.97.0.0/24")
    bench.on("host", "addr", "add", "10.97.0.1/24", "dev", "br0")
    bench.pretend("b", address="10.97.0.10", card=CARD_B)
    assert bench.call("b", host="10.97.0.1", ask=neighbours.vm_at) is None


def test_ipv6_neighbours_are_known_likewise(bench: NetworkBench, neighbours: Neighbours) -> None:
    bench.on("host", "addr", "add", "fd00::1/64", "dev", "br0", "nodad")
    bench.on("a", "addr", "add", "fd00::a/64", "dev", "eth0", "nodad")
    assert bench.call("a", host="fd00::1", ask=neighbours.vm_at) == "a"


def test_asking_is_quick(bench: NetworkBench, neighbours: Neighbours) -> None:
    def seconds_per_answer(address: str, port: int) -> float:
        began = time.perf_counter()
        for _ in range(1000):
            assert neighbours.vm_at(address, port) == "a"
        return (time.perf_counter() - began) / 1000

    seconds = bench.call("a", ask=seconds_per_answer)
    print(f"{seconds * 1e6:.0f} µs per answer")
    assert seconds < 0.002  # ten times what it should be: others use this machine


def test_the_host_itself_is_nobody(bench: NetworkBench, neighbours: Neighbours) -> None:
    assert bench.call("host", ask=neighbours.vm_at) is None
    assert bench.within("host", lambda: neighbours.vm_at(HOST, 1)) is None
