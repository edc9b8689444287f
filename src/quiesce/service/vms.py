"""The table of VMs and their protection."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from quiesce.model.extension import ExtensionState
from quiesce.model.failure import (
    AgentFailure,
    Evidence,
    Failure,
    InputFailure,
    NotFoundFailure,
    PolicyFailure,
)
from quiesce.model.policy import Policy
from quiesce.model.vm import VmAddress, VmState
from quiesce.service.clock import Clock
from quiesce.service.codec import from_json, to_json
from quiesce.service.composition import Composition, ExtensionGuest
from quiesce.service.database import Database, protection, vms
from quiesce.service.job_book import JobBook, backup_slot
from quiesce.service.names import valid_name
from quiesce.service.points import Points
from quiesce.service.policies import Policies
from quiesce.service.schedule import next_due
from quiesce.service.views import VmView


class Vms:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        composition: Composition,
        book: JobBook,
        policies: Policies,
        points: Points,
    ) -> None:
        self._database = database
        self._clock = clock
        self._composition = composition
        self._book = book
        self._policies = policies
        self._points = points

    # --- what faces call

    def all(self) -> tuple[VmView, ...]:
        """By name, as last seen; no VM is asked."""
        with self._database.read() as connection:
            rows = connection.execute(_with_protection().order_by(vms.c.name)).all()
        return self._views(rows)

    def show(self, name: str) -> VmView:
        """One VM, asked now. That it does not answer is shown, not raised.

        :raise NotFoundFailure: vm.unknown
        """
        name = self._row(name).name
        problem = None
        try:
            self.look(name)
        except Failure as failure:
            problem = failure.report()
        return replace(self._views([self._row(name)])[0], problem=problem)

    def add(self, address: VmAddress) -> VmView:
        """
        :raise InputFailure: input.name-invalid, input.path-invalid
        :raise PolicyFailure: vm.already-known
        """
        name = valid_name("VM", address.name)
        for path in (address.qmp_socket, address.qga_socket, *dict(address.disks).values()):
            _check_path(path)
        with self._database.write() as connection:
            taken = connection.scalar(sa.select(vms.c.name).where(vms.c.name == name))
            if taken is not None:
                raise PolicyFailure(
                    "vm.already-known",
                    f"There is a VM {name} already.",
                    remedy="Choose another name, or remove the old one (its points stay).",
                )
            other = connection.scalar(
                sa.select(vms.c.name).where(vms.c.qmp_socket == str(address.qmp_socket))
            )
            if other is not None:
                # Under two names it would be backed up twice at a time.
                raise PolicyFailure(
                    "vm.already-known",
                    f"The VM {other} has the QMP socket {address.qmp_socket} already.",
                    remedy=f"Use the VM {other}, or give this VM a QMP socket of its own.",
                )
            connection.execute(
                sa.insert(vms).values(
                    name=name,
                    qmp_socket=str(address.qmp_socket),
                    qga_socket=str(address.qga_socket) if address.qga_socket else None,
                    image_files=json.dumps({disk: str(path) for disk, path in address.disks}),
                    added_at=self._clock.now(),
                )
            )
        return self.show(name)

    def remove(self, name: str) -> None:
        """Forget a VM and its protection; its points and jobs stay.

        :raise NotFoundFailure: vm.unknown
        :raise PolicyFailure: policy.in-progress
        """
        name = self._row(name).name
        self._check_idle(name)
        with self._database.write() as connection:
            connection.execute(sa.delete(vms).where(vms.c.name == name))

    def protect(self, name: str, policy: str) -> VmView:
        """Protect by `policy`, in place of any other. The first run is the next one due.

        :raise NotFoundFailure: vm.unknown, policy.not-found
        """
        name = self._row(name).name
        chosen = self._policies.policy(policy)
        with self._database.write() as connection:
            connection.execute(sa.delete(protection).where(protection.c.vm == name))
            connection.execute(
                sa.insert(protection).values(
                    vm=name, policy=chosen.name, served_until=self._clock.now()
                )
            )
        return self._views([self._row(name)])[0]

    def stop_protection(self, name: str) -> None:
        """:raise NotFoundFailure: vm.unknown"""
        name = self._row(name).name
        with self._database.write() as connection:
            connection.execute(sa.delete(protection).where(protection.c.vm == name))

    def extension(self, name: str) -> ExtensionState:
        """
        :raise NotFoundFailure: vm.unknown
        :raise AgentFailure: the agent cannot be reached, and why
        """
        return self._guest(name).status()

    def uninstall_extension(self, name: str) -> None:
        """The next backup installs it again.

        :raise NotFoundFailure: vm.unknown
        :raise PolicyFailure: policy.in-progress
        :raise AgentFailure: the agent cannot be reached, and why
        """
        self._check_idle(self._row(name).name)
        self._guest(name).uninstall()

    # --- what jobs and the schedule need

    def names(self) -> tuple[str, ...]:
        with self._database.read() as connection:
            return tuple(connection.scalars(sa.select(vms.c.name).order_by(vms.c.name)))

    def address(self, name: str) -> VmAddress:
        """How to reach a VM. While it is off, its disks are those given by the operator, else
        those it had when it was last seen; formats are those that were seen of these very files.

        :raise NotFoundFailure: vm.unknown
        """
        row = self._row(name)
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
        )

    def look(self, name: str) -> VmState:
        """Ask the VM for its state now and remember it.

        :raise NotFoundFailure: vm.unknown
        :raise VmFailure: it does not answer
        """
        state = self._composition.hypervisor(self.address(name)).state()
        with self._database.write() as connection:
            connection.execute(
                sa.update(vms)
                .where(vms.c.name == name)
                .values(last_seen=to_json(state), seen_at=self._clock.now())
            )
        return state

    def policy_of(self, name: str) -> Policy | None:
        """The policy that protects a VM, None when none does or the VM is forgotten."""
        with self._database.read() as connection:
            policy = connection.scalar(
                sa.select(protection.c.policy).where(protection.c.vm == name)
            )
        return None if policy is None else self._policies.policy(policy)

    def _guest(self, name: str) -> ExtensionGuest:
        address = self.address(name)
        guest = self._composition.guest(address)
        if guest is None:
            raise AgentFailure(
                "agent.channel-missing",
                f"No guest agent socket is set for the VM {address.name}.",
            )
        return guest

    def _check_idle(self, name: str) -> None:
        holder = self._book.holder(backup_slot(name))
        if holder:
            raise PolicyFailure(
                "policy.in-progress",
                f"A backup of the VM {name} is in progress.",
                evidence=[Evidence(f"the job {holder} is active", "jobs")],
                remedy=f"Wait for it, or cancel it: `quiesce job cancel {holder}`.",
                retryable=True,
            )

    def _row(self, name: str) -> sa.Row[Any]:
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

    def _views(self, rows: Any) -> tuple[VmView, ...]:
        now = self._clock.now()
        points = self._points.by_vm()
        backups = self._book.newest_backups()
        active = {job.vm: job.id for job in self._book.active() if job.kind == "backup"}
        policies = {view.name: self._policies.policy(view.name) for view in self._policies.all()}
        views = []
        for row in rows:
            seen = from_json(VmState, row.last_seen) if row.last_seen else None
            policy = policies.get(row.policy)
            of_vm = points.get(row.name, ())
            views.append(
                VmView(
                    name=row.name,
                    qmp_socket=Path(row.qmp_socket),
                    qga_socket=Path(row.qga_socket) if row.qga_socket else None,
                    image_files={k: Path(v) for k, v in json.loads(row.image_files).items()},
                    added_at=row.added_at,
                    power=seen.power if seen else None,
                    hypervisor=seen.hypervisor if seen else "",
                    disks=seen.disks if seen else (),
                    seen_at=row.seen_at,
                    policy=row.policy,
                    next_run=_next_run(policy, row.served_until, now),
                    point_count=len(of_vm),
                    newest_point=of_vm[0] if of_vm else None,
                    active_job=active.get(row.name, ""),
                    last_job=backups.get(row.name),
                )
            )
        return tuple(views)


def _with_protection() -> sa.Select[Any]:
    return sa.select(vms, protection.c.policy, protection.c.served_until).join(
        protection, protection.c.vm == vms.c.name, isouter=True
    )


def _next_run(
    policy: Policy | None, served_until: datetime | None, now: datetime
) -> datetime | None:
    if policy is None or policy.at is None or served_until is None:
        return None
    return next_due(policy.at, policy.zone, max(now, served_until))


def _check_path(path: Path | None) -> None:
    if path is None:
        return
    problem = ""
    if not path.is_absolute():
        problem = "is not absolute"
    elif "\0" in str(path):
        problem = "contains a zero byte"
    if problem:
        raise InputFailure(
            "input.path-invalid",
            f"The path {str(path)!r} {problem}.",
            evidence=[Evidence(f"path {problem}", "request", raw=ascii(str(path)))],
            remedy="Give the whole path, from / on.",
        )
