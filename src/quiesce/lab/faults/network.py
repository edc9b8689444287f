"""The guest's way to the storage endpoint and to its host: cut, misled, refused."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from quiesce.lab import waagent
from quiesce.lab.cuts import Cut
from quiesce.lab.daemons import PROXY_PORT, ProxyRule
from quiesce.lab.faults.fault import Scene, fault
from quiesce.lab.network import GATEWAY, STAND_IN_ADDRESS, STORAGE_ADDRESS
from quiesce.model.failure import LabFailure

NETWORK = "network"
_PROXY = f"http://{GATEWAY}:{PROXY_PORT}"


def _cut(scene: Scene, cut: Cut) -> Iterator[None]:
    scene.network.cut(cut)
    yield
    scene.network.heal(cut)


@fault("egress-dropped", NETWORK, "network.blocked", quick=True)
def egress_dropped(scene: Scene) -> Iterator[None]:
    """A firewall on the way drops the guest's packets to the storage endpoint."""
    yield from _cut(scene, Cut.STORAGE_DROPPED)


@fault("egress-rejected", NETWORK, "network.blocked")
def egress_rejected(scene: Scene) -> Iterator[None]:
    """A firewall on the way answers that the storage endpoint is administratively prohibited."""
    yield from _cut(scene, Cut.STORAGE_REJECTED)


@fault("egress-reset", NETWORK, "network.blocked")
def egress_reset(scene: Scene) -> Iterator[None]:
    """A firewall on the way resets connections to the storage endpoint."""
    yield from _cut(scene, Cut.STORAGE_RESET)


@fault("proxy-only-and-not-told", NETWORK, "network.blocked")
def proxy_only(scene: Scene) -> Iterator[None]:
    """The only way out is a proxy, and the guest was not told of it."""
    yield from _cut(scene, Cut.PROXY_ONLY)


@fault("dns-dead", NETWORK, "network.dns-failed")
def dns_dead(scene: Scene) -> Iterator[None]:
    """The guest's resolver does not answer."""
    yield from _cut(scene, Cut.NAMES)


@fault("host-address-dropped", NETWORK, "network.host-address-unreachable")
def host_address_dropped(scene: Scene) -> Iterator[None]:
    """Packets to 168.63.129.16 are dropped on the way."""
    yield from _cut(scene, Cut.HOST)


@fault("no-route", NETWORK, "network.no-route")
def no_route(scene: Scene) -> Iterator[None]:
    """The guest's routing table says that the storage endpoint is unreachable."""
    scene.hand.run(f"ip route add unreachable {STORAGE_ADDRESS}")
    yield
    scene.hand.run(f"ip route del unreachable {STORAGE_ADDRESS} || true")


@fault("default-route-gone", NETWORK, "network.no-route")
def default_route_gone(scene: Scene) -> Iterator[None]:
    """The guest's default route is gone, and with it the host's address."""
    scene.hand.run("ip route del default")
    yield
    scene.hand.run(f"ip route replace default via {GATEWAY}")


@fault("no-address", NETWORK, "network.no-address")
def no_address(scene: Scene) -> Iterator[None]:
    """DHCP was switched off in the guest, and its card has no address."""
    scene.hand.run("systemctl stop lab-dhcp; ip address flush dev eth0")
    yield
    scene.hand.run("systemctl start lab-dhcp")


@fault("option-245-missing", NETWORK, "network.dhcp-no-host-address")
def option_245_missing(scene: Scene) -> Iterator[None]:
    """DHCP does not tell the host's address, and the one that agents know without it, which
    another lab network would give to nobody, does not answer."""
    scene.network.announce(None)
    scene.hand.run(
        "systemctl stop lab-dhcp; rm -f /var/lib/dhcp/*.leases; ip address flush dev eth0; "
        f"systemctl start lab-dhcp; rm -f {waagent.FOLDER}/WireServerEndpoint"
    )
    scene.hand.run("for i in $(seq 200); do ip -4 -o address show eth0 | grep -q inet && exit 0; "
                   "sleep 0.1; done; exit 1")  # fmt: skip
    scene.network.cut(Cut.HOST)
    yield
    scene.network.heal()
    scene.network.announce(scene.network.host_address)
    scene.hand.run(
        "systemctl stop lab-dhcp; rm -f /var/lib/dhcp/*.leases; ip address flush dev eth0; "
        f"systemctl start lab-dhcp; systemctl restart {waagent.UNIT}"
    )


@fault("clock-behind", NETWORK, "network.clock-skew")
def clock_behind(scene: Scene) -> Iterator[None]:
    """The guest's clock is a year behind."""
    yield from _skewed(scene, "-1 year")


@fault("clock-ahead", NETWORK, "network.clock-skew")
def clock_ahead(scene: Scene) -> Iterator[None]:
    """The guest's clock is a year ahead."""
    yield from _skewed(scene, "+1 year")


def _skewed(scene: Scene, by: str) -> Iterator[None]:
    scene.hand.run(f"date -s '{by}'")
    yield
    scene.hand.run(f"systemctl stop {waagent.UNIT}")
    scene.guest.agent_call("guest-set-time", {"time": time.time_ns()})
    # Files from the future would make the agent take its own notes for news.
    scene.hand.run(
        f"find {waagent.FOLDER} /var/log /var/lib/quiesce /run/quiesce -newermt '+1 minute' "
        f"-exec touch {{}} + 2>/dev/null; systemctl start {waagent.UNIT}"
    )


@fault("tls-of-another-authority", NETWORK, "network.tls-untrusted", quick=True)
def tls_of_another_authority(scene: Scene) -> Iterator[None]:
    """DNS leads the guest to a server whose certificate another authority has issued."""
    with tempfile.TemporaryDirectory() as folder, stand_in(scene, Path(folder), 403, "Forbidden"):
        yield


@fault("proxy-down", NETWORK, "network.proxy-unreachable")
def proxy_down(scene: Scene) -> Iterator[None]:
    """The proxy that the guest is told to use does not answer."""
    with told_of_proxy(scene):
        scene.network.cut(Cut.PROXY)
        yield
        scene.network.heal()


@fault("proxy-denies", NETWORK, "network.proxy-denied")
def proxy_denies(scene: Scene) -> Iterator[None]:
    """The proxy does not allow the storage endpoint."""
    with told_of_proxy(scene, ProxyRule.DENY):
        yield


@fault("proxy-wants-a-password", NETWORK, "network.proxy-auth-required")
def proxy_wants_password(scene: Scene) -> Iterator[None]:
    """The proxy wants a user name and password, which the guest was not given."""
    with told_of_proxy(scene, ProxyRule.PASSWORD):
        yield


@fault("proxy-catches-the-host-address", NETWORK, "")
def proxy_catches_host(scene: Scene) -> Iterator[None]:
    """http_proxy in the environment of the Azure Linux agent's service also catches its download
    of the extension from 168.63.129.16, and the proxy refuses it: this agent then asks without."""
    scene.server.call("DELETE", "vms", scene.vm, "extensions")  # there may be none yet
    drop_in = f"/etc/systemd/system/{waagent.UNIT}.d/proxy.conf"
    text = f"[Service]\nEnvironment=http_proxy={_PROXY} https_proxy={_PROXY}\n"
    scene.hand.put(drop_in, text, mode="0644")
    scene.hand.run(
        f"cp -a {waagent.CONFIGURATION} /root/waagent.conf; systemctl daemon-reload; "
        f"systemctl restart {waagent.UNIT}"
    )
    yield
    scene.hand.run(
        f"rm -f {drop_in}; cp -a /root/waagent.conf {waagent.CONFIGURATION}; "
        f"systemctl daemon-reload; systemctl restart {waagent.UNIT}"
    )


@contextlib.contextmanager
def told_of_proxy(scene: Scene, rule: ProxyRule = ProxyRule.OPEN) -> Iterator[None]:
    """The proxy is the only way out, and the VM is set to use it without a password."""
    scene.network.set_proxy(rule)
    scene.network.cut(Cut.PROXY_ONLY)
    scene.set_vm(proxy={"http": _PROXY, "https": _PROXY, "no_proxy": ""})
    try:
        yield
    finally:
        scene.set_vm(server_proxy=True)
        scene.network.heal()
        scene.network.set_proxy(ProxyRule.OPEN)


@contextlib.contextmanager
def stand_in(scene: Scene, folder: Path, status: int, code: str) -> Iterator[None]:
    """DNS leads the guest to a server that answers everything with that status. `folder` holds
    the authority that its certificate is from, or nothing."""
    argv = [sys.executable, "-m", "quiesce.lab.stand_in", str(folder), scene.network.storage_name]
    server = subprocess.Popen(
        scene.network.enter([*argv, STAND_IN_ADDRESS, str(status), code]),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        if server.stdout.readline().strip() != "ready":
            raise LabFailure("lab.daemon-failed", "The stand-in endpoint did not start.")
        scene.network.point(scene.network.storage_name, STAND_IN_ADDRESS)
        yield
    finally:
        scene.network.point(scene.network.storage_name, STORAGE_ADDRESS)
        server.kill()
        server.wait()
