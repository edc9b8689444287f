"""A QEMU without a guest tells its network cards, however their taps were opened."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable, Iterator

import pytest
from bare_qemu import BareQemu
from missing import missing

from quiesce.hypervisor.qmp import Monitor, VmAbsent
from quiesce.model.failure import VmFailure
from quiesce.model.vm import NetworkCard

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000


@pytest.fixture
def own_network() -> Iterator[None]:
    """A network namespace for the taps, and for the QEMU that is started meanwhile."""
    if os.geteuid() != 0:
        missing("taps need root")
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home:
        assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


@pytest.fixture
def tap(own_network: None) -> Iterator[tuple[int, str]]:
    """An open tap, as libvirt hands it to QEMU: (file descriptor, interface)."""
    opened = os.open("/dev/net/tun", os.O_RDWR)
    name = "vnet7"
    fcntl.ioctl(opened, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    os.set_inheritable(opened, True)
    yield opened, name
    os.close(opened)


def on_tap(name: str) -> str:
    return f"tap,id=n{name},ifname={name},script=no,downscript=no"


def test_cards_of_every_kind_are_told_with_their_tap(
    bare: Callable[..., BareQemu], own_network: None
) -> None:
    first, second = "tap-one", "tap-two"
    qemu = bare(
        extra=(
            *("-netdev", on_tap(first), "-netdev", on_tap(second), "-netdev", "user,id=nat"),
            *("-device", f"e1000,netdev=n{first},mac=52:54:00:00:0A:01"),
            *("-device", f"virtio-net-pci,netdev=n{second},id=net1,mac=52:54:00:00:0a:02"),
            *("-device", "rtl8139,netdev=nat,mac=52:54:00:00:0a:03"),
            *("-nic", "user,model=e1000e,mac=52:54:00:00:0a:04"),
        )
    ).start()
    assert set(qemu.vm().network_cards()) == {
        NetworkCard("52:54:00:00:0a:01", first),
        NetworkCard("52:54:00:00:0a:02", second),
        NetworkCard("52:54:00:00:0a:03", ""),
        NetworkCard("52:54:00:00:0a:04", ""),
    }


def test_a_card_without_a_mac_of_its_own_is_told_with_qemus(bare: Callable[..., BareQemu]) -> None:
    qemu = bare(extra=("-nic", "user,model=virtio-net-pci")).start()
    assert qemu.vm().network_cards() == (NetworkCard("52:54:00:12:34:56"),)


def test_a_vm_without_a_network_has_no_cards(bare: Callable[..., BareQemu]) -> None:
    assert bare().start().vm().network_cards() == ()


def test_a_vm_that_is_off_is_not_found(bare: Callable[..., BareQemu]) -> None:
    with pytest.raises(VmAbsent):
        bare().vm().network_cards()


def test_a_monitor_that_is_held_is_given_up_soon(bare: Callable[..., BareQemu]) -> None:
    qemu = bare().start()
    with Monitor(qemu.socket), pytest.raises(VmFailure) as caught:
        qemu.vm().network_cards()
    assert caught.value.code == "vm.unreachable"


def test_a_tap_that_qemu_was_handed_open_is_named(
    bare: Callable[..., BareQemu], tap: tuple[int, str]
) -> None:
    opened, name = tap
    qemu = bare(
        extra=(
            *("-netdev", f"tap,id=n0,fd={opened}"),
            *("-device", "virtio-net-pci,netdev=n0,mac=52:54:00:00:0a:05"),
        )
    ).start(pass_fds=(opened,))
    assert qemu.vm().network_cards() == (NetworkCard("52:54:00:00:0a:05", name),)
