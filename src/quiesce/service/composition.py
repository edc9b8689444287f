"""The one place that builds the lower rooms' parts for a VM and for the vault."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

from quiesce.agent.extension import QgaGuest
from quiesce.block.nbd import NbdSource
from quiesce.hypervisor.qemu import QemuVm
from quiesce.model.extension import ExtensionState
from quiesce.model.snapshot import SessionDisk
from quiesce.model.vm import VmAddress
from quiesce.service.settings import Settings
from quiesce.service.vault_key import open_vault
from quiesce.snapshot.ports import Guest, Hypervisor
from quiesce.transfer.ports import BlockSource
from quiesce.vault.vault import Vault


class ExtensionGuest(Guest, Protocol):
    """The guest's side, with what the portal's Extensions page needs besides backups."""

    def status(self) -> ExtensionState: ...

    def uninstall(self) -> None: ...


class Composition:
    """Builds what a job works with. Tests put their own VMs in its place."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._guests: dict[tuple[Path, Path], QgaGuest] = {}
        self._lock = threading.Lock()

    def hypervisor(self, address: VmAddress) -> Hypervisor:
        return self._qemu(address)

    def guest(self, address: VmAddress) -> ExtensionGuest | None:
        """None when the VM has no agent socket. One object per channel, since QEMU admits one
        client and the calls take turns inside it."""
        if address.qga_socket is None:
            return None
        with self._lock:
            return self._guests.setdefault(
                (address.qga_socket, address.qmp_socket),
                QgaGuest(address.qga_socket, frontend_open=self._qemu(address).agent_port_open),
            )

    def source(self, disk: SessionDisk) -> BlockSource:
        """:raise Failure: the session cannot be read any more"""
        return NbdSource.of(disk)

    def vault(self) -> Vault:
        """:raise Failure: see `open_vault`"""
        return open_vault(self._settings)

    def _qemu(self, address: VmAddress) -> QemuVm:
        return QemuVm(address, self._settings.scratch)
