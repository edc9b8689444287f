"""Who is at the other end of a connection: what QEMU says, and what is concluded from it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from quiesce.hypervisor import card_roster, neighbours
from quiesce.hypervisor.cards import configured, interfaces, open_taps
from quiesce.hypervisor.neighbours import Address, Neighbours, Sighting
from quiesce.hypervisor.qmp import VmAbsent
from quiesce.hypervisor.rtnetlink import Link
from quiesce.model.failure import VmFailure
from quiesce.model.vm import NetworkCard

FIRST_ROUND_SECONDS = card_roster._FIRST_ROUND_SECONDS
QTREE = """\
bus: main-system-bus
  type System
  dev: q35-pcihost, id ""
    bus: pcie.0
      type PCIE
      dev: virtio-net-pci, id "net1"
        disable-legacy = "off"
        bus: virtio-bus
          type virtio-pci-bus
          dev: virtio-net-device, id ""
            csum = true
            mac = "52:54:00:AB:CD:57"
            netdev = "n1"
            bootindex = -1 (0xffffffffffffffff)
      dev: e1000, id ""
        mac = "52:54:00:00:00:01"
        netdev = "#net054"
      dev: rtl8139, id "alone"
        mac = "52:54:00:12:34:58"
        netdev = ""
      dev: odd, id ""
        mac = "not an address"
        netdev = "n7"
"""

NETWORK = r"""n4: index=0,type=socket,
net1: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:57
 \ n1: index=0,type=tap,ifname=tap0,script=no,downscript=no
e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:00:00:01
 \ #net054: index=0,type=tap,fd=33
 \ n2: index=0,type=user,net=10.0.2.0,restrict=off
 \ n3: index=0,type=tap,helper=/usr/lib/qemu/qemu-bridge-helper,br=br0
"""


def test_cards_are_read_with_what_is_behind_them() -> None:
    assert configured(QTREE) == [
        ("52:54:00:ab:cd:57", "n1"),
        ("52:54:00:00:00:01", "#net054"),
        ("52:54:00:12:34:58", ""),
    ]


@pytest.mark.parametrize("text", ["", "\0\n: \n", "mac = \nnetdev = \n", "dev: x\n" * 10_000])
def test_a_text_that_is_none_of_qemus_shows_no_cards(text: str) -> None:
    assert configured(text) == []
    assert interfaces(text, {}) == {}


def test_taps_are_known_by_name_by_number_and_as_what_is_left_over() -> None:
    opened = {8: "tap0", 33: "vnet4", 40: "vnet5"}
    assert interfaces(NETWORK, opened) == {"n1": "tap0", "#net054": "vnet4", "n3": "vnet5"}


def test_a_tap_that_cannot_be_told_apart_has_no_name() -> None:
    assert interfaces(NETWORK, {}) == {"n1": "tap0"}
    assert "n3" not in interfaces(NETWORK, {33: "vnet4", 40: "vnet5", 41: "vnet6"})


def test_the_kernel_names_the_taps_of_a_process(tmp_path: Path) -> None:
    (tmp_path / "fdinfo").mkdir()
    (tmp_path / "fdinfo" / "8").write_text("pos:\t0\nflags:\t0104002\nino:\t105\niff:\ttap7\n")
    (tmp_path / "fdinfo" / "9").write_text("pos:\t0\nflags:\t02\n")
    assert open_taps(tmp_path) == {8: "tap7"}
    assert open_taps(tmp_path / "ended") == {}


class Host:
    """VMs, and what the kernel sees of peers; a clock that the test moves."""

    def __init__(self) -> None:
        self.cards: dict[str, tuple[NetworkCard, ...] | Exception] = {}
        self.guest_addresses: dict[str, str] = {}
        self.seen: dict[str, Sighting] = {}
        self.asked: list[str] = []
        self.now = 1000.0

    def listing(self) -> Iterator[tuple[str, str, Callable[[], tuple[NetworkCard, ...]]]]:
        for name in self.cards:
            yield name, self.guest_addresses.get(name, ""), lambda name=name: self.ask(name)

    def ask(self, name: str) -> tuple[NetworkCard, ...]:
        self.asked.append(name)
        answer = self.cards[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sight(self, address: Address) -> Sighting | None:
        return self.seen.get(str(address))

    def neighbours(self) -> Neighbours:
        return Neighbours(self.listing, sight=self.sight, clock=lambda: self.now)

    def becomes(self, neighbours: Neighbours, address: str, expected: str | None) -> None:
        """Ask as an agent does, again and again, some seconds apart."""
        deadline = time.monotonic() + 60
        while (answer := neighbours.vm_at(address, 1)) != expected:
            assert time.monotonic() < deadline, answer
            self.now += 1
            time.sleep(0.005)


def asked_round(known: Neighbours) -> None:
    """Wait until no round of questions is under way."""
    deadline = time.monotonic() + 60
    while known._roster._running:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(card_roster.socket, "if_nametoindex", lambda name: int(name[3:]))
    # The first answer waits for the first round, on a machine that is busy for a moment too.
    monkeypatch.setattr(card_roster, "_FIRST_ROUND_SECONDS", 60.0)
    made = Host()
    made.cards = {"web": (NetworkCard("52:00", "tap1"),), "db": (NetworkCard("52:01", "tap2"),)}
    made.seen = {"10.0.0.1": Sighting("52:00", 1), "10.0.0.2": Sighting("52:01", 2)}
    return made


def test_a_vm_is_known_at_once_after_the_start(host: Host) -> None:
    known = host.neighbours()
    assert known.vm_at("10.0.0.1", 1) == "web"
    assert known.vm_at("10.0.0.2", 1) == "db"
    assert known.vm_at("::ffff:10.0.0.2", 1) == "db"


@pytest.mark.parametrize("address", ["", "web", "10.0.0", "fe80::1%br0", "10.0.0.9", "\0", "::1"])
def test_what_is_no_neighbour_is_nobody(host: Host, address: str) -> None:
    assert host.neighbours().vm_at(address, 1) is None


def test_a_hardware_address_at_another_place_is_nobody(host: Host) -> None:
    host.seen["10.0.0.1"] = Sighting("52:00", 2)
    with capture_logs() as said:
        known = host.neighbours()
        for _ in range(1000):
            assert known.vm_at("10.0.0.1", 1) is None
    assert [line["vm"] for line in said] == ["web"]


def test_a_hardware_address_that_no_port_has_learned_is_nobody(host: Host) -> None:
    host.seen["10.0.0.1"] = Sighting("52:00", 0)
    assert host.neighbours().vm_at("10.0.0.1", 1) is None


def test_two_places_that_nobody_knows_are_not_the_same(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card's tap is in another network namespace, and the bridge has not learned the peer."""

    def elsewhere(name: str) -> int:
        raise OSError(19, "No such device")

    monkeypatch.setattr(card_roster.socket, "if_nametoindex", elsewhere)
    host.seen["10.0.0.1"] = Sighting("52:00", 0)
    assert host.neighbours().vm_at("10.0.0.1", 1) is None


def test_a_card_whose_interface_nobody_knows_is_told_by_its_address(host: Host) -> None:
    host.cards["web"] = (NetworkCard("52:00"),)
    assert host.neighbours().vm_at("10.0.0.1", 1) == "web"


def test_two_vms_with_one_hardware_address_are_both_nobody_and_it_is_said_once(host: Host) -> None:
    host.cards["db"] = (NetworkCard("52:00", "tap2"),)
    with capture_logs() as said:
        known = host.neighbours()
        for _ in range(10):
            assert known.vm_at("10.0.0.1", 1) is None
    assert [line["vms"] for line in said] == [["db", "web"]]


def test_a_clone_is_served_when_the_other_one_is_off(host: Host) -> None:
    host.cards["db"] = (NetworkCard("52:00", "tap2"),)
    known = host.neighbours()
    assert known.vm_at("10.0.0.1", 1) is None
    host.cards["db"] = VmAbsent("vm.not-found", "off")
    host.becomes(known, "10.0.0.1", "web")


def test_a_vm_that_got_another_card_is_known_again(host: Host) -> None:
    known = host.neighbours()
    assert known.vm_at("10.0.0.1", 1) == "web"
    host.cards["web"] = (NetworkCard("52:ff", "tap9"),)
    host.seen["10.0.0.1"] = Sighting("52:ff", 9)
    host.becomes(known, "10.0.0.1", "web")


def test_a_vm_that_is_added_later_is_known_soon(host: Host) -> None:
    known = host.neighbours()
    host.cards["new"] = (NetworkCard("52:02", "tap3"),)
    host.seen["10.0.0.3"] = Sighting("52:02", 3)
    host.becomes(known, "10.0.0.3", "new")


def test_a_vm_that_is_removed_is_a_stranger_soon(host: Host) -> None:
    known = host.neighbours()
    assert known.vm_at("10.0.0.1", 1) == "web"
    del host.cards["web"]
    host.becomes(known, "10.0.0.1", None)


def test_a_vm_that_does_not_answer_stays_what_it_was(host: Host) -> None:
    known = host.neighbours()
    assert known.vm_at("10.0.0.1", 1) == "web"
    host.cards["web"] = VmFailure("vm.unreachable", "busy")
    host.asked.clear()
    host.becomes(known, "10.9.9.9", None)
    host.now += 1000
    while "web" not in host.asked:
        known.vm_at("10.0.0.2", 1)
        time.sleep(0.005)
    assert known.vm_at("10.0.0.1", 1) == "web"


def test_what_one_vm_raises_keeps_no_other_from_being_known(host: Host) -> None:
    host.cards["web"] = RuntimeError("a defect")
    known = host.neighbours()
    assert known.vm_at("10.0.0.2", 1) == "db"


def test_a_vm_that_hangs_keeps_nobody_waiting_for_longer_than_half_a_second(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card_roster, "_FIRST_ROUND_SECONDS", FIRST_ROUND_SECONDS)
    assert FIRST_ROUND_SECONDS == 0.5
    hanging = threading.Event()
    ask = host.ask

    def asked(name: str) -> tuple[NetworkCard, ...]:
        if name == "db":
            hanging.wait(60)
        return ask(name)

    host.ask = asked  # type: ignore[method-assign]
    began = time.monotonic()
    known = host.neighbours()
    for _ in range(100):
        assert known.vm_at("10.0.0.2", 1) is None
    assert time.monotonic() - began < 20, "each of them waited"
    hanging.set()
    host.becomes(known, "10.0.0.2", "db")


def test_a_flood_of_strangers_asks_nobody_more_often(host: Host) -> None:
    known = host.neighbours()
    assert known.vm_at("10.0.0.1", 1) == "web"
    asked = len(host.asked)
    for number in range(5000):
        address = f"10.1.{number // 250}.{number % 250 + 1}"
        host.seen[address] = Sighting(f"66:{number:x}", 7)
        assert known.vm_at(address, 1) is None
    assert len(host.asked) == asked


def test_a_stranger_that_stays_has_each_vm_asked_once_a_minute_at_last(host: Host) -> None:
    known = host.neighbours()
    assert known.vm_at("10.0.0.1", 1) == "web"
    host.seen["10.0.0.9"] = Sighting("66:66", 7)
    counts = []
    for _ in range(2):
        host.asked.clear()
        for _ in range(300):
            host.now += 1
            assert known.vm_at("10.0.0.9", 1) is None
            asked_round(known)
        counts.append(host.asked.count("db"))
    assert counts[0] <= 11
    assert 3 <= counts[1] <= 6


def test_a_vm_is_known_at_its_first_request_after_the_list_has_changed(host: Host) -> None:
    known = host.neighbours()
    assert known.vm_at("10.0.0.1", 1) == "web"
    host.cards["new"] = (NetworkCard("52:02", "tap3"),)
    host.seen["10.0.0.3"] = Sighting("52:02", 3)
    known.look_now()
    asked_round(known)
    assert known.vm_at("10.0.0.3", 1) == "new"


def test_a_guest_address_tells_a_vm_behind_a_router(host: Host) -> None:
    host.guest_addresses["web"] = "10.5.0.1"
    known = host.neighbours()
    assert known.vm_at("10.5.0.1", 1) == "web"
    assert known.vm_at("10.0.0.1", 1) == "web"


def test_a_guest_address_is_not_taken_from_another_vms_card(host: Host) -> None:
    host.guest_addresses["web"] = "10.0.0.2"
    assert host.neighbours().vm_at("10.0.0.2", 1) is None


def test_a_guest_address_of_two_vms_tells_neither(host: Host) -> None:
    host.guest_addresses = {"web": "10.5.0.1", "db": "10.5.0.1"}
    with capture_logs() as said:
        assert host.neighbours().vm_at("10.5.0.1", 1) is None
    assert [line["vms"] for line in said] == [["db", "web"]]


def test_a_kernel_that_does_not_tell_makes_strangers(host: Host) -> None:
    def refused(address: Address) -> Sighting | None:
        raise PermissionError(1, "not permitted")

    known = Neighbours(host.listing, sight=refused)
    assert known.vm_at("10.0.0.1", 1) is None


class Kernel:
    """Links by index; what bridges have learned, by (bridge, VLAN)."""

    def __init__(self, links: dict[int, Link], learned: dict[tuple[int, int], int]) -> None:
        self.links, self.learned = links, learned

    def link(self, index: int) -> Link | None:
        return self.links.get(index)

    def bridge_port(self, bridge: int, hardware_address: str, vlan: int) -> int | None:
        return self.learned.get((bridge, vlan))


BRIDGE, VLAN_20, PORT, OTHER_PORT = 5, 6, 11, 12


@pytest.mark.parametrize(
    ("device", "learned", "port"),
    [
        pytest.param(BRIDGE, {(BRIDGE, 0): PORT}, PORT, id="a bridge without VLANs"),
        pytest.param(BRIDGE, {(BRIDGE, 1): PORT}, PORT, id="the VLAN of untagged frames"),
        pytest.param(BRIDGE, {(BRIDGE, 20): PORT}, 0, id="another VLAN"),
        pytest.param(
            VLAN_20, {(BRIDGE, 20): PORT, (BRIDGE, 1): OTHER_PORT}, PORT, id="a VLAN of a bridge"
        ),
        pytest.param(VLAN_20, {(BRIDGE, 0): PORT}, PORT, id="a VLAN over a bridge without"),
        pytest.param(99, {}, 99, id="no bridge"),
    ],
)
def test_the_place_on_a_bridge_with_vlans(
    device: int, learned: dict[tuple[int, int], int], port: int
) -> None:
    links = {BRIDGE: Link("bridge", vlan=1), VLAN_20: Link("vlan", BRIDGE, 20), 99: Link("tun")}
    assert neighbours._port(Kernel(links, learned), device, "52:00") == port  # type: ignore[arg-type]


def test_vlans_in_a_circle_end() -> None:
    links = {1: Link("vlan", 2, 1), 2: Link("vlan", 1, 1)}
    neighbours._port(Kernel(links, {}), 1, "52:00")  # type: ignore[arg-type]


def test_an_address_of_our_own_is_no_neighbour() -> None:
    """By the real kernel, without any privilege."""
    assert neighbours.sight(ip_address("127.0.0.1")) is None
    assert neighbours.sight(ip_address("::1")) is None


def test_ten_thousand_vms_make_no_answer_slow(host: Host) -> None:
    host.cards |= {f"vm{i}": (NetworkCard(f"56:{i:x}", f"tap{i + 10}"),) for i in range(10_000)}
    known = host.neighbours()
    host.seen["10.0.0.3"] = Sighting(f"56:{9999:x}", 10_009)
    host.becomes(known, "10.0.0.3", "vm9999")
    assert known._roster._first_round.wait(60)  # it asks all of them, and takes its share of time
    began = time.perf_counter()
    for _ in range(1000):
        assert known.vm_at("10.0.0.1", 1) == "web"
    assert (time.perf_counter() - began) / 1000 < 0.001
