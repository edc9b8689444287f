"""Through which agent of a VM something is mended, and whether an agent has come back."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from quiesce.model.diagnosis import Mend
from quiesce.model.failure import AgentFailure, Evidence, Failure
from quiesce.model.snapshot import Route
from quiesce.model.vm import VmAddress
from quiesce.service.composition import ExtensionGuest
from quiesce.service.guest_side import Agents
from quiesce.service.job_book import backup_slot
from quiesce.service.patience import Show
from quiesce.service.work import Parts


class AgentsAtHand:
    """For one step on one VM. `route` is the one that failed, None when that is not known; `job`
    and `show` as in `Mending.carry_out`.

    Each time that an agent is asked for, it is made sure that nobody has cancelled the step, and
    that no other job has begun with the VM since: its session must be spared.
    """

    def __init__(
        self,
        parts: Parts,
        address: VmAddress,
        mend: Mend,
        route: Route | None,
        job: str,
        show: Show,
    ) -> None:
        self._parts, self.address, self.mend, self._route = parts, address, mend, route
        self.vm, self.job, self._show = address.name, job, show

    def now(self) -> datetime:
        return self._parts.clock.now()

    def show_for(self, seconds: float, words: str) -> None:
        self._parts.patience.wait(seconds, words, self._show)

    @property
    def broken(self) -> Route:
        """The route whose agent, or whose extension, is to be mended."""
        if self._route is not None:
            return self._route
        agent = self.address.agent
        if not (agent.qga and agent.waagent):
            return Route.GUEST if agent.waagent else Route.HOST
        try:
            self.qga().presence()
        except Failure:
            return Route.HOST
        return Route.GUEST

    @property
    def broken_name(self) -> str:
        return "waagent" if self.broken is Route.GUEST else "qga"

    def qga_if_any(self) -> ExtensionGuest | None:
        return self._parts.composition.guest(self.address)

    def qga(self) -> ExtensionGuest:
        """:raise PolicyFailure: policy.in-progress"""
        guest = self.qga_if_any()
        if guest is None:
            raise _no_channel(self.vm, "the QEMU guest agent")
        self._go_on()
        return guest

    def waagent(self) -> Agents:
        """:raise PolicyFailure: policy.in-progress"""
        self._go_on()
        if not self.address.agent.waagent:
            raise _no_channel(self.vm, "the Azure Linux agent")
        return self._parts.guest_side.agents()

    def by_any_agent(self, action: str, word: str = "") -> str:
        """Through the agent that needs no network, else through the other one.

        :raise Failure: of the agent that was asked last
        """
        if self.qga_if_any() is None:
            return self.waagent().mend(self.vm, action, word)
        try:
            return self.qga().mend(action, word)
        except AgentFailure as failure:
            if not self.address.agent.waagent or is_ours(failure):
                raise
            return self.waagent().mend(self.vm, action, word)

    def _go_on(self) -> None:
        self._show(self.mend.words)
        if self._parts.book.holder(backup_slot(self.vm)) != self.job:
            self._parts.book.check_idle(self.vm)

    def await_waagent(self, since: datetime) -> None:
        """:raise AgentFailure: agent.silent, it has not come since"""
        words = "Waiting for the Azure Linux agent to come"
        for _ in range(round(self._parts.patience.agent)):
            state = self._parts.guest_side.state(self.vm)
            if state is not None and state.last_seen is not None and state.last_seen > since:
                return
            self.show_for(1.0, words)
        raise AgentFailure(
            "agent.silent",
            "The Azure Linux agent was restarted and has not come since.",
            evidence=[Evidence("nothing was heard of it since", "wire server", since)],
            retryable=True,
        )

    def await_qga(self) -> None:
        """:raise AgentFailure: it does not answer yet"""
        # One that was asked to restart itself does so two seconds later (guest/mend.sh).
        self.show_for(3.0, "Waiting for the QEMU guest agent to be restarted")
        for _ in range(round(self._parts.patience.agent / 5)):
            with suppress(AgentFailure):
                self.qga().presence()
                return
            self.show_for(1.0, "Waiting for the QEMU guest agent to answer")
        self.qga().presence()


def is_ours(failure: Failure) -> bool:
    """Whether the agent was refused because of a session of this very server: the guest may be
    frozen, and is not to be asked through its other agent either."""
    return failure.code == "agent.channel-busy" and any(
        each.source == "this server" for each in failure.evidence
    )


def _no_channel(vm: str, agent: str) -> AgentFailure:
    return AgentFailure(
        "agent.channel-missing",
        f"It would take {agent} to mend that from here, and the VM {vm} is not reached by it.",
        remedy=f"Do it in the guest, or give the VM both agents: `quiesce vm set {vm} "
        "--agent both`.",
    )
