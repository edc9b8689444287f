"""The table of VMs as addresses: how each is reached, by what agent and through which proxy."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from quiesce.model.failure import NotFoundFailure
from quiesce.model.network import Proxy
from quiesce.model.vm import AgentKind, VmAddress, VmState
from quiesce.service.codec import from_json
from quiesce.service.database import Database, protection, vms


class VmTable:
    """Reads it; `Vms` writes it. Thread-safe. `proxy` is for VMs without a setting of their own."""

    def __init__(self, database: Database, proxy: Proxy) -> None:
        self._database = database
        self._proxy = proxy

    def names(self) -> tuple[str, ...]:
        with self._database.read() as connection:
            return tuple(connection.scalars(sa.select(vms.c.name).order_by(vms.c.name)))

    def rows(self) -> tuple[sa.Row[Any], ...]:
        """All, with their protection, by name."""
        with self._database.read() as connection:
            return tuple(connection.execute(_with_protection().order_by(vms.c.name)))

    def row(self, name: str) -> sa.Row[Any]:
        """One VM with its protection.

        :raise NotFoundFailure: vm.unknown
        """
        composed = unicodedata.normalize("NFC", name)
        with self._database.read() as connection:
            row = connection.execute(_with_protection().where(vms.c.name == composed)).one_or_none()
        if row is None:
            raise NotFoundFailure(
                "vm.unknown",
                f"There is no VM {name!r}.",
                remedy="See `quiesce vm list`; add one with `quiesce vm add`.",
            )
        return row

    def address(self, name: str) -> VmAddress:
        """How to reach a VM. While it is off, its disks are those given by the operator, else
        those it had when it was last seen; formats are those that were seen of these very files.

        :raise NotFoundFailure: vm.unknown
        """
        row = self.row(name)
        disks = {disk: Path(path) for disk, path in json.loads(row.image_files).items()}
        seen = from_json(VmState, row.last_seen).disks if row.last_seen else ()
        if not disks:
            disks = {disk.name: disk.path for disk in seen if disk.path is not None}
        return VmAddress(
            name=row.name,
            qmp_socket=Path(row.qmp_socket),
            qga_socket=Path(row.qga_socket) if row.qga_socket else None,
            disks=tuple(disks.items()),
            formats=tuple(
                (disk.name, disk.format)
                for disk in seen
                if disk.path is not None and disks.get(disk.name) == disk.path
            ),
            agent=AgentKind(row.agent),
            guest_address=row.guest_address,
            proxy=from_json(Proxy, row.proxy) if row.proxy else None,
        )

    def recognisable(self) -> tuple[VmAddress, ...]:
        """All VMs, without their disks: all that is needed to recognise them, in one query."""
        columns = (vms.c.name, vms.c.qmp_socket, vms.c.guest_address, vms.c.agent)
        with self._database.read() as connection:
            rows = connection.execute(sa.select(*columns).order_by(vms.c.name))
            return tuple(
                VmAddress(
                    name=row.name,
                    qmp_socket=Path(row.qmp_socket),
                    agent=AgentKind(row.agent),
                    guest_address=row.guest_address,
                )
                for row in rows
            )

    def proxy_of(self, vm: str) -> Proxy:
        """The setting in force for a VM: its own, else the server's. May hold a password."""
        with self._database.read() as connection:
            text = connection.scalar(sa.select(vms.c.proxy).where(vms.c.name == vm))
        return from_json(Proxy, text) if text else self._proxy


def _with_protection() -> sa.Select[Any]:
    return sa.select(vms, protection.c.policy, protection.c.served_until).join(
        protection, protection.c.vm == vms.c.name, isouter=True
    )
