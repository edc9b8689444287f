"""The backup extension in VMs, through each agent that a VM has."""

from __future__ import annotations

from quiesce.agent.waagent.settings import HANDLER
from quiesce.model.agent import AgentCondition, AgentState
from quiesce.model.failure import AgentFailure, Failure, InputFailure
from quiesce.model.vm import VmAddress
from quiesce.service.composition import Composition, ExtensionGuest
from quiesce.service.guest_side import GuestSide
from quiesce.service.job_book import JobBook
from quiesce.service.views import ExtensionView
from quiesce.service.vm_table import VmTable

QGA = "qga"
WAAGENT = "waagent"
_BY_FILE = "quiesce-extension"


def channels(address: VmAddress, wanted: str | None = None) -> tuple[str, ...]:
    """The agents of a VM by which its extension can be reached, or the `wanted` one of them. The
    one that needs no network comes first.

    :raise InputFailure: input.channel-invalid
    """
    there = (*((QGA,) if address.agent.qga else ()), *((WAAGENT,) if address.agent.waagent else ()))
    if wanted is None:
        return there
    if wanted not in there:
        raise InputFailure(
            "input.channel-invalid",
            f"The VM {address.name} cannot be reached through {wanted!r}.",
            remedy=f"Its agent is set to {address.agent}: choose {' or '.join(there)}.",
        )
    return (wanted,)


class Extensions:
    def __init__(
        self, table: VmTable, composition: Composition, guest_side: GuestSide, book: JobBook
    ) -> None:
        self._table = table
        self._composition = composition
        self._guest_side = guest_side
        self._book = book

    def all(self, name: str) -> tuple[ExtensionView, ...]:
        """See `Vms.extensions`."""
        address = self._table.address(name)
        views = {QGA: self._view_by_qga, WAAGENT: self._view_by_waagent}
        return tuple(views[channel](address) for channel in channels(address))

    def uninstall(self, name: str, channel: str | None) -> None:
        """See `Vms.uninstall_extension`."""
        address = self._idle(name)
        for way in channels(address, channel):
            if way == QGA:
                self._guest(address).uninstall()
            else:
                self._guest_side.agents().uninstall(address.name)

    def reinstall(self, name: str, channel: str | None) -> None:
        """See `Vms.reinstall_extension`."""
        address = self._idle(name)
        for way in channels(address, channel):
            if way == QGA:
                guest = self._guest(address)
                guest.uninstall()
                guest.install()
            else:
                agents = self._guest_side.agents()
                agents.uninstall(address.name)
                agents.install(address.name)

    def _view_by_qga(self, address: VmAddress) -> ExtensionView:
        try:
            state = self._guest(address).status()
        except Failure as failure:
            return ExtensionView(QGA, _BY_FILE, problem=failure.report())
        return ExtensionView(
            channel=QGA,
            name=_BY_FILE,
            version=state.version,
            offered_version=state.offered_version,
            installed=state.installed,
            status="installed" if state.installed else "not installed",
            agent_version=state.agent_version,
            operating_system=state.operating_system,
            python=state.python,
            sessions=state.sessions,
        )

    def _view_by_waagent(self, address: VmAddress) -> ExtensionView:
        state = self._guest_side.state(address.name) or AgentState(AgentCondition.NEVER_SEEN)
        problem = self._guest_side.problem or _silence(address.name, state)
        try:
            offered = self._guest_side.agents().offered_version
        except Failure:
            offered = ""
        handler = next((found for found in state.handlers if found.name == HANDLER), None)
        return ExtensionView(
            channel=WAAGENT,
            name=HANDLER,
            version=handler.version if handler else "",
            offered_version=offered,
            installed=handler is not None,
            status=handler.status if handler else "not installed",
            message=(handler.message if handler else "") or state.message,
            agent_version=state.version,
            operating_system=state.operating_system,
            problem=None if problem is None else problem.report(),
        )

    def _guest(self, address: VmAddress) -> ExtensionGuest:
        guest = self._composition.guest(address)
        if guest is None:
            raise AgentFailure(
                "agent.channel-missing",
                f"No guest agent socket is set for the VM {address.name}.",
            )
        return guest

    def _idle(self, name: str) -> VmAddress:
        """:raise PolicyFailure: policy.in-progress"""
        address = self._table.address(name)
        self._book.check_idle(address.name)
        return address


def _silence(vm: str, state: AgentState) -> AgentFailure | None:
    """Why what is shown may be old: the agent is not heard of."""
    if state.condition is AgentCondition.NEVER_SEEN:
        return AgentFailure(
            "agent.never-seen",
            f"The Azure Linux agent of the VM {vm} has never come to this server.",
        )
    if state.condition is AgentCondition.STALE and state.last_seen is not None:
        return AgentFailure(
            "agent.stale",
            f"The Azure Linux agent of the VM {vm} is silent; it was last heard of at "
            f"{state.last_seen:%Y-%m-%d %H:%M:%S} UTC.",
            retryable=True,
        )
    return None
