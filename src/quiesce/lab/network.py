"""A network for lab guests: bridge, DHCP with option 245, DNS, a proxy, and ways to cut them.

    guest 1 ─ tap1 ┐        10.77.0.1       gateway: DHCP, DNS, proxy (3128)
    guest 2 ─ tap2 ┴ br0 ─┤ 168.63.129.16   host address: wire server (80), host plugin (32526)
                            198.51.100.10   storage endpoint, `storage.quiesce.test`

All addresses belong to one network namespace, where the Quiesce server runs too (`enter`). It has
no way out: no packet of a guest leaves the machine or reaches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from quiesce.lab.cuts import Addresses, Cut, ruleset
from quiesce.lab.daemons import (
    PROXY_PORT,
    ProxyRule,
    dnsmasq,
    dnsmasq_configuration,
    squid,
    squid_configuration,
    squid_password_file,
)
from quiesce.lab.machine import Card
from quiesce.lab.namespace import Namespace, remove_leftovers
from quiesce.model.failure import LabFailure

BRIDGE = "br0"
GATEWAY = "10.77.0.1"
HOST_ADDRESS = "168.63.129.16"
"""Where Azure's agent looks for its host when nobody tells it otherwise."""
OTHER_HOST_ADDRESS = "10.77.0.245"
"""A host address that an agent can only know from DHCP option 245."""
STORAGE_ADDRESS = "198.51.100.10"
STAND_IN_ADDRESS = "198.51.100.11"
"""Free for a server in the storage endpoint's place (`point`)."""
METADATA_ADDRESS = "169.254.169.254"
"""Where the Azure agent looks for instance metadata. Nobody listens, which it hears at once; where
packets to it vanish, the agent comes up 90 s later (2.7.3)."""
STORAGE_NAME = "storage.quiesce.test"
PROXY_USER, PROXY_PASSWORD = "backup", "open sesame"
MOST_CARDS = 8


def card(number: int) -> Card:
    """The network card of the first, second, … guest. From 1."""
    return Card(f"tap{number}", f"52:54:00:77:00:{number:02x}", f"10.77.0.{100 + number}")


class LabNetwork:
    """A network that guests are plugged into. Needs root. Not thread-safe.

    It is there once constructed; as a context manager it is removed at the end. `host_address` is
    where the server listens for agents; another than 168.63.129.16 leaves that one unreachable.
    `announced` says whether DHCP sends it as option 245. `tied`: its servers die with the thread
    that made it; else it stays as long as an untied guest in it lives.

    Raises LabFailure as Namespace does, and `lab.daemon-failed`.
    """

    def __init__(
        self,
        *,
        host_address: str = HOST_ADDRESS,
        announced: bool = True,
        proxy: ProxyRule = ProxyRule.OPEN,
        tied: bool = True,
    ) -> None:
        self.host_address = host_address
        self.storage_address = STORAGE_ADDRESS
        self.storage_name = STORAGE_NAME
        self._rule = proxy
        self._cards: list[Card] = []
        self._cuts: set[Cut] = set()
        self._names = {STORAGE_NAME: STORAGE_ADDRESS, "proxy.quiesce.test": GATEWAY}
        self._announced: str | None = None
        remove_leftovers()
        self.namespace = Namespace()
        try:
            self._make_links()
            self._apply_cuts()
            self._dnsmasq = dnsmasq(self.namespace, tied=tied)
            self._squid = squid(self.namespace, tied=tied)
            self.announce(host_address if announced else None)
            self.set_proxy(proxy)
        except BaseException:
            self.namespace.remove()
            raise

    @property
    def proxy_url(self) -> str:
        """The proxy as a guest is told of it, with a password where one is asked for."""
        word = f"{PROXY_USER}:{PROXY_PASSWORD.replace(' ', '%20')}@"
        return f"http://{word if self._rule is ProxyRule.PASSWORD else ''}{GATEWAY}:{PROXY_PORT}"

    def remove(self) -> None:
        """End all processes in it, guests included, and remove it. Idempotent."""
        self._dnsmasq.stop()
        self._squid.stop()
        self.namespace.remove()

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` in this network, such as the Quiesce server."""
        return self.namespace.enter(argv)

    def run(self, argv: Sequence[str], *, seconds: float = 60.0) -> str:
        """Run a program in this network to its end and return its standard output.

        Raises LabFailure `lab.tool-missing`, `lab.tool-failed`.
        """
        return self.namespace.run(argv, seconds=seconds)

    def plug(self) -> Card:
        """A new card, with a tap on the bridge and a lease that waits for it.

        Raises LabFailure `lab.network-full`.
        """
        if len(self._cards) == MOST_CARDS:
            raise LabFailure("lab.network-full", f"The lab network has {MOST_CARDS} cards already.")
        new = card(len(self._cards) + 1)
        self.run(["ip", "tuntap", "add", new.tap, "mode", "tap"])
        self.run(["ip", "link", "set", new.tap, "master", BRIDGE, "up"])
        self._cards.append(new)
        return new

    def cut(self, *cuts: Cut) -> None:
        """Cut the guests' way, in addition to what is cut already. In force at the return."""
        self._cuts |= set(cuts)
        self._apply_cuts()

    def heal(self, *cuts: Cut) -> None:
        """Undo some cuts; all when none is named."""
        self._cuts -= set(cuts or Cut)
        self._apply_cuts()

    def announce(self, host_address: str | None) -> None:
        """What DHCP says in option 245 from now on (None: nothing). Leases keep what they said."""
        self._announced = host_address
        self._serve_names()

    def point(self, name: str, address: str) -> None:
        """DNS says that address for that name from now on; guests may believe the old one for a
        second longer."""
        self._names[name] = address
        self._serve_names()

    def _serve_names(self) -> None:
        self._dnsmasq.configure(
            dnsmasq_configuration(
                self._dnsmasq.folder,
                bridge=BRIDGE,
                gateway=GATEWAY,
                leases={
                    each.hardware_address: each.address
                    for each in map(card, range(1, MOST_CARDS + 1))
                },
                names=self._names,
                announced=self._announced,
            )
        )
        self._dnsmasq.start()

    def set_proxy(self, rule: ProxyRule) -> None:
        """Start the proxy anew with another rule, also after `stop_proxy`."""
        self._rule = rule
        folder = self._squid.folder
        (folder / "passwords").write_text(squid_password_file(PROXY_USER, PROXY_PASSWORD))
        self._squid.configure(
            squid_configuration(folder, gateway=GATEWAY, storage=STORAGE_ADDRESS, rule=rule)
        )
        self._squid.start()

    def stop_proxy(self) -> None:
        """Its port is closed from now on."""
        self._squid.stop()

    def proxy_requests(self) -> list[str]:
        """One line for each request that the proxy has answered, in squid's own log format."""
        log = self._squid.folder / "access.log"
        return log.read_text(errors="replace").splitlines() if log.exists() else []

    def dhcp_log(self) -> str:
        """What dnsmasq has logged: each DHCP message with its options, each DNS query."""
        return self._dnsmasq.log

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def _make_links(self) -> None:
        self.run(["ip", "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0"])
        for address in (f"{GATEWAY}/24", f"{self.host_address}/32"):
            self.run(["ip", "address", "add", address, "dev", BRIDGE])
        self.run(["ip", "link", "set", BRIDGE, "up"])
        for address in (STORAGE_ADDRESS, STAND_IN_ADDRESS, METADATA_ADDRESS):
            self.run(["ip", "address", "add", f"{address}/32", "dev", "lo"])

    def _apply_cuts(self) -> None:
        at = Addresses(BRIDGE, GATEWAY, self.host_address, STORAGE_ADDRESS, PROXY_PORT)
        self.namespace.run(["nft", "-f", "-"], stdin=ruleset(self._cuts, at))
