"""The one place that builds the lower rooms' parts for a VM and for the vault."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from quiesce.agent.guest import VmGuest
from quiesce.agent.waagent.host import AgentHost
from quiesce.agent.waagent.ports import AgentBook, ProxyOf
from quiesce.block.nbd import NbdSource
from quiesce.hypervisor.neighbours import Neighbours, Sight, sight
from quiesce.hypervisor.qemu import QemuVm
from quiesce.model.door import Endpoint
from quiesce.model.extension import ExtensionState
from quiesce.model.failure import StorageFailure
from quiesce.model.network import Hop, Proxy
from quiesce.model.papers import Papers
from quiesce.model.presence import Presence
from quiesce.model.snapshot import MountFreeze, SessionDisk
from quiesce.model.survey import VmSurvey
from quiesce.model.vm import NetworkCard, VmAddress
from quiesce.service.guest_side import GuestSide, Served
from quiesce.service.settings import Settings
from quiesce.service.vault_key import open_vault
from quiesce.snapshot.ports import Guest, Hypervisor
from quiesce.storage.endpoint import StorageEndpoint
from quiesce.transfer.ports import BlockSource
from quiesce.vault.vault import Vault


class SurveyedHypervisor(Hypervisor, Protocol):
    """One VM on its hypervisor, with what whoever searches for a cause asks of it."""

    def survey(
        self, *, bases: Mapping[str, Sequence[str]], active: Collection[str]
    ) -> VmSurvey: ...

    def processor_percent(self, seen: VmSurvey) -> float | None: ...


class ExtensionGuest(Guest, Protocol):
    """The guest's side, with what people ask of it besides backups."""

    def taking(self) -> str: ...

    def presence(self) -> Presence: ...

    def examine(self) -> Papers: ...

    def status(self) -> ExtensionState: ...

    def preflight(self, skip: tuple[str, ...] = ()) -> tuple[MountFreeze, ...]: ...

    def mend(self, action: str, word: str = "") -> str: ...

    def install(self) -> bool: ...

    def uninstall(self) -> None: ...

    def probe(self, endpoint: Endpoint, proxy: Proxy, host_address: str) -> tuple[Hop, ...]: ...


class Polled:
    """The VMs whose agent comes to us, told by what they cannot forge. All others are looked at
    too, so that none of them is taken for one whose guest address it has, and are strangers."""

    def __init__(
        self,
        vms: Callable[[], Iterable[VmAddress]],
        cards_of: Callable[[VmAddress], tuple[NetworkCard, ...]],
        *,
        sight: Sight = sight,
    ) -> None:
        self._vms = vms
        self._cards_of = cards_of
        self._names: frozenset[str] = frozenset()
        self._neighbours = Neighbours(self._listing, sight=sight)

    def vm_at(self, address: str, port: int) -> str | None:
        name = self._neighbours.vm_at(address, port)
        return name if name in self._names else None

    def look_now(self) -> None:
        """A VM was added, changed or removed."""
        self._neighbours.look_now()

    def _listing(self) -> Iterator[tuple[str, str, Callable[[], tuple[NetworkCard, ...]]]]:
        listed = tuple(self._vms())
        self._names = frozenset(vm.name for vm in listed if vm.agent.waagent)
        for vm in listed:
            yield vm.name, vm.guest_address, partial(self._cards_of, vm)


class Composition:
    """Builds what a job works with. Tests put their own VMs in its place."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._guests: dict[tuple[Path, Path], VmGuest] = {}
        self._lock = threading.Lock()

    def hypervisor(self, address: VmAddress) -> SurveyedHypervisor:
        return self._qemu(address)

    def guest(self, address: VmAddress) -> ExtensionGuest | None:
        """None when the VM is not reached by the QEMU guest agent. One object per channel, since
        QEMU admits one client and the calls take turns inside it."""
        if address.qga_socket is None or not address.agent.qga:
            return None
        with self._lock:
            return self._guests.setdefault(
                (address.qga_socket, address.qmp_socket),
                VmGuest(address.qga_socket, frontend_open=self._qemu(address).agent_port_open),
            )

    def guest_side(
        self, book: AgentBook, vms: Callable[[], Iterable[VmAddress]], proxy_of: ProxyOf
    ) -> GuestSide:
        """`vms` lists all of them, however they are reached; it is called now and then."""
        settings = self._settings
        if not settings.agent_address:
            return GuestSide(None)
        try:
            storage = StorageEndpoint(
                settings.storage_folder,
                address=settings.storage_bind,
                port=settings.storage_port,
                host=settings.storage_name,
            )
        except StorageFailure as unusable:
            return GuestSide(None, problem=unusable)
        neighbourhood = Polled(vms, lambda vm: self._qemu(vm).network_cards())
        agents = AgentHost(
            book,
            storage,
            neighbourhood,
            proxy_of,
            address=settings.agent_address,
            wire_port=settings.agent_port,
            plugin_port=settings.host_plugin_port,
        )
        return GuestSide(Served(storage, agents, neighbourhood.look_now))

    def source(self, disk: SessionDisk) -> BlockSource:
        """:raise Failure: the session cannot be read any more"""
        return NbdSource.of(disk)

    @property
    def index_cache(self) -> Path:
        """Where the indexes of vaults in the cloud are kept."""
        return self._settings.index_cache

    def vault(self) -> Vault:
        """:raise Failure: see `open_vault`"""
        return open_vault(self._settings)

    def _qemu(self, address: VmAddress) -> QemuVm:
        return QemuVm(address, self._settings.scratch)
