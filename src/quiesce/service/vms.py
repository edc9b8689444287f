"""The VMs that the service knows, and their protection."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from quiesce.model.failure import Evidence, Failure, InputFailure, PolicyFailure
from quiesce.model.network import Proxy
from quiesce.model.policy import Policy
from quiesce.model.vm import AgentKind, VmAddress, VmState
from quiesce.service.clock import Clock
from quiesce.service.codec import from_json, to_json
from quiesce.service.composition import Composition
from quiesce.service.database import Database, protection, vms
from quiesce.service.extensions import Extensions
from quiesce.service.guest_side import GuestSide, endpoint_off
from quiesce.service.job_book import JobBook
from quiesce.service.names import valid_name
from quiesce.service.points import Points
from quiesce.service.policies import Policies
from quiesce.service.proxies import checked, redacted
from quiesce.service.schedule import next_due
from quiesce.service.views import ExtensionView, VmChange, VmView
from quiesce.service.vm_table import VmTable


class Vms:
    def __init__(
        self,
        database: Database,
        table: VmTable,
        clock: Clock,
        composition: Composition,
        guest_side: GuestSide,
        book: JobBook,
        policies: Policies,
        points: Points,
    ) -> None:
        self._database = database
        self._table = table
        self._clock = clock
        self._composition = composition
        self._guest_side = guest_side
        self._book = book
        self._policies = policies
        self._points = points
        self._extensions = Extensions(table, composition, guest_side, book)

    # --- what faces call

    def all(self) -> tuple[VmView, ...]:
        """By name, as last seen; no VM is asked."""
        return self._views(self._table.rows())

    def show(self, name: str) -> VmView:
        """One VM, asked now. That it does not answer is shown, not raised.

        :raise NotFoundFailure: vm.unknown
        """
        name = self._table.row(name).name
        problem = None
        try:
            self.look(name)
        except Failure as failure:
            problem = failure.report()
        return replace(self._views([self._table.row(name)])[0], problem=problem)

    def add(self, address: VmAddress) -> VmView:
        """
        :raise InputFailure: input.name-invalid, input.path-invalid, input.address-invalid,
            input.proxy-invalid
        :raise PolicyFailure: vm.already-known, agent.endpoint-off
        """
        name = valid_name("VM", address.name)
        for path in (address.qmp_socket, address.qga_socket, *dict(address.disks).values()):
            _check_path(path)
        self._check_agent(address.agent)
        guest_address = _valid_address(address.guest_address)
        proxy = None if address.proxy is None else to_json(checked(address.proxy))
        with self._database.write() as connection:
            taken = connection.scalar(sa.select(vms.c.name).where(vms.c.name == name))
            if taken is not None:
                raise PolicyFailure(
                    "vm.already-known",
                    f"There is a VM {name} already.",
                    remedy="Choose another name, or remove the old one (its points stay).",
                )
            _check_alone(connection, name, address.qmp_socket, guest_address)
            connection.execute(
                sa.insert(vms).values(
                    name=name,
                    qmp_socket=str(address.qmp_socket),
                    qga_socket=str(address.qga_socket) if address.qga_socket else None,
                    image_files=json.dumps({disk: str(path) for disk, path in address.disks}),
                    added_at=self._clock.now(),
                    agent=address.agent,
                    guest_address=guest_address,
                    proxy=proxy,
                )
            )
        self._guest_side.look_now()
        return self.show(name)

    def change(self, name: str, change: VmChange) -> VmView:
        """Change what `change` names, and nothing else.

        :raise NotFoundFailure: vm.unknown
        :raise InputFailure: input.path-invalid, input.address-invalid, input.proxy-invalid
        :raise PolicyFailure: policy.in-progress, vm.already-known, agent.endpoint-off
        """
        row = self._table.row(name)
        values: dict[str, object] = {}
        if change.agent is not None:
            self._check_agent(change.agent)
            values["agent"] = change.agent
        if change.qga_socket is not None:
            _check_path(change.qga_socket)
            values["qga_socket"] = str(change.qga_socket)
        if change.guest_address is not None:
            values["guest_address"] = _valid_address(change.guest_address)
        if change.proxy is not None:
            values["proxy"] = to_json(checked(change.proxy))
        elif change.server_proxy:
            values["proxy"] = None
        self._book.check_idle(row.name)
        if values:
            with self._database.write() as connection:
                _check_alone(connection, row.name, None, str(values.get("guest_address", "")))
                connection.execute(sa.update(vms).where(vms.c.name == row.name).values(**values))
            self._guest_side.look_now()
        return self.show(row.name)

    def remove(self, name: str) -> None:
        """Forget a VM and its protection; its points and jobs stay.

        :raise NotFoundFailure: vm.unknown
        :raise PolicyFailure: policy.in-progress
        """
        name = self._table.row(name).name
        self._book.check_idle(name)
        with self._database.write() as connection:
            connection.execute(sa.delete(vms).where(vms.c.name == name))
        self._guest_side.forget(name)
        self._guest_side.look_now()

    def protect(self, name: str, policy: str) -> VmView:
        """Protect by `policy`, in place of any other. The first run is the next one due.

        :raise NotFoundFailure: vm.unknown, policy.not-found
        """
        name = self._table.row(name).name
        chosen = self._policies.policy(policy)
        with self._database.write() as connection:
            connection.execute(sa.delete(protection).where(protection.c.vm == name))
            connection.execute(
                sa.insert(protection).values(
                    vm=name, policy=chosen.name, served_until=self._clock.now()
                )
            )
        return self._views([self._table.row(name)])[0]

    def stop_protection(self, name: str) -> None:
        """:raise NotFoundFailure: vm.unknown"""
        name = self._table.row(name).name
        with self._database.write() as connection:
            connection.execute(sa.delete(protection).where(protection.c.vm == name))

    def extensions(self, name: str) -> tuple[ExtensionView, ...]:
        """The extension as each agent of the VM shows it. That one does not answer is shown, not
        raised.

        :raise NotFoundFailure: vm.unknown
        """
        return self._extensions.all(name)

    def uninstall_extension(self, name: str, channel: str | None = None) -> None:
        """Through the agent `channel`, or through each that the VM has. Returns when the guest
        says that it is done. The next backup installs it again.

        :raise NotFoundFailure: vm.unknown
        :raise InputFailure: input.channel-invalid
        :raise PolicyFailure: policy.in-progress
        :raise AgentFailure: the agent cannot be reached, and why
        :raise ExtensionFailure: extension.uninstall-failed
        """
        self._extensions.uninstall(name, channel)

    def reinstall_extension(self, name: str, channel: str | None = None) -> None:
        """Remove it and install what this server offers. Raises as `uninstall_extension`, and:

        :raise ExtensionFailure: extension.install-failed and others of an installation
        """
        self._extensions.reinstall(name, channel)

    # --- what jobs and the schedule need

    def names(self) -> tuple[str, ...]:
        return self._table.names()

    def address(self, name: str) -> VmAddress:
        """:raise NotFoundFailure: vm.unknown"""
        return self._table.address(name)

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

    def _check_agent(self, agent: AgentKind) -> None:
        """:raise PolicyFailure: agent.endpoint-off, when the agent would have nowhere to go"""
        if agent.waagent and not self._guest_side.wanted:
            raise endpoint_off()

    def _views(self, rows: Any) -> tuple[VmView, ...]:
        now = self._clock.now()
        points = self._points.by_vm()
        backups = self._book.newest_backups()
        active = {job.vm: job.id for job in self._book.active() if job.kind == "backup"}
        policies = {view.name: self._policies.policy(view.name) for view in self._policies.all()}
        agent_problem = self._guest_side.problem_report
        views = []
        for row in rows:
            seen = from_json(VmState, row.last_seen) if row.last_seen else None
            policy = policies.get(row.policy)
            agent = AgentKind(row.agent)
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
                    agent=agent,
                    agent_state=self._guest_side.state(row.name) if agent.waagent else None,
                    agent_problem=agent_problem if agent.waagent else None,
                    guest_address=row.guest_address,
                    proxy=redacted(from_json(Proxy, row.proxy)) if row.proxy else None,
                )
            )
        return tuple(views)


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


def _valid_address(text: str) -> str:
    """An IP address in its usual form; empty stays empty."""
    if not text:
        return ""
    try:
        return str(ip_address(text))
    except ValueError as wrong:
        raise InputFailure(
            "input.address-invalid",
            "The guest's address is not an IP address.",
            evidence=[Evidence("not an IP address", "request", raw=ascii(text[:100]))],
        ) from wrong


def _check_alone(
    connection: sa.Connection, name: str, qmp_socket: Path | None, guest_address: str
) -> None:
    """Two entries must not mean one VM: it would be backed up twice at a time, or be given the
    other one's tasks.

    :raise PolicyFailure: vm.already-known
    """
    others = sa.select(vms.c.name).where(vms.c.name != name)
    for what, column, value in (
        ("QMP socket", vms.c.qmp_socket, str(qmp_socket) if qmp_socket else ""),
        ("guest address", vms.c.guest_address, guest_address),
    ):
        other = connection.scalar(others.where(column == value)) if value else None
        if other is not None:
            raise PolicyFailure(
                "vm.already-known",
                f"The VM {other} has the {what} {value} already.",
                remedy=f"Use the VM {other}, or give this VM a {what} of its own.",
            )
