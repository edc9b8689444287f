"""Network namespaces as a hypervisor host and its VMs, joined by a bridge."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

HOST = "10.99.0.1"


def in_namespace(name: str, work: Callable[[], T]) -> T:
    """Do it in a thread that lives in this network namespace, as do the threads it starts."""

    def enter_and_work() -> T:
        with Path("/run/netns", name).open() as namespace:
            if _libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        return work()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(enter_and_work).result(30)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass
class NetworkBench:
    """The host has `HOST` on its bridge `br0`; each guest is a port of the bridge, named
    `tap-<guest>` on the host's side."""

    tag: str = field(default_factory=lambda: f"qznb{os.getpid()}")
    made: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.namespace("host")
        self.on("host", "link", "add", "br0", "type", "bridge")
        self.on("host", "addr", "add", f"{HOST}/24", "dev", "br0")
        self.on("host", "link", "set", "br0", "up")

    def namespace(self, name: str) -> None:
        ip("netns", "add", f"{self.tag}-{name}")
        self.made.append(f"{self.tag}-{name}")
        self.on(name, "link", "set", "lo", "up")

    def on(self, name: str, *words: str) -> None:
        ip("-n", f"{self.tag}-{name}", *words)

    def within(self, name: str, work: Callable[[], T]) -> T:
        return in_namespace(f"{self.tag}-{name}", work)

    def bridge(self, *words: str) -> str:
        command = ["bridge", "-n", f"{self.tag}-host", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def guest(self, name: str, *, address: str, card: str) -> None:
        self.namespace(name)
        self.plug(name, address=address, card=card)

    def plug(self, name: str, *, address: str, card: str, bridge: str = "br0") -> None:
        """A new cable, with a new interface at both ends."""
        tap = f"tap-{name}"
        peer = ("peer", "name", "eth0", "address", card, "netns", f"{self.tag}-{name}")
        self.on("host", "link", "add", tap, "type", "veth", *peer)
        if bridge:
            self.on("host", "link", "set", tap, "master", bridge)
        self.on("host", "link", "set", tap, "up")
        self.on(name, "link", "set", "eth0", "up")
        self.on(name, "addr", "add", f"{address}/24", "dev", "eth0")

    def unplug(self, name: str) -> None:
        self.on("host", "link", "del", f"tap-{name}")

    def pretend(self, name: str, *, address: str, card: str) -> None:
        """What a guest's administrator may do: use another address and hardware address."""
        self.on(name, "link", "set", "eth0", "down")
        self.on(name, "link", "set", "eth0", "address", card)
        self.on(name, "addr", "flush", "dev", "eth0")
        self.on(name, "link", "set", "eth0", "up")
        self.on(name, "addr", "add", f"{address}/24", "dev", "eth0")

    def call(self, name: str, *, host: str = HOST, ask: Callable[[str, int], T]) -> T:
        """Connect from a guest to the host, and ask there about the peer that was accepted."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server = self.within("host", lambda: socket.create_server((host, 0), family=family))
        with server:
            port = server.getsockname()[1]
            with self.within(name, lambda: socket.create_connection((host, port), 10)):
                accepted, peer = server.accept()
                with accepted:
                    return self.within("host", lambda: ask(peer[0], peer[1]))

    def knows_vlans(self) -> bool:
        """Whether this kernel's bridges can (CONFIG_BRIDGE_VLAN_FILTERING)."""
        try:
            self.on("host", "link", "set", "br0", "type", "bridge", "vlan_filtering", "1")
        except subprocess.CalledProcessError:
            return False
        return True

    def close(self) -> None:
        for name in reversed(self.made):
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)
