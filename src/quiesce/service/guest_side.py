"""What the server offers to guests over their network: wire server, host plugin and storage
endpoint, as one thing that is there or is not, and then with the reason."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn, Protocol

import structlog

from quiesce.agent.waagent.recognition import Stranger
from quiesce.model.agent import AgentState
from quiesce.model.door import Endpoint
from quiesce.model.failure import AgentFailure, Evidence, Failure, FailureReport, PolicyFailure
from quiesce.model.network import Hop
from quiesce.model.papers import Papers
from quiesce.model.policy import SnapshotOptions
from quiesce.service.settings import config_file
from quiesce.snapshot.ports import GuestRoute, Log
from quiesce.storage.journal import Seen

log = structlog.get_logger(__name__)


class Agents(Protocol):
    """The Azure Linux agents of all VMs, as `quiesce.agent.waagent` keeps them. `start` may be
    called again after it has raised."""

    @property
    def offered_version(self) -> str: ...
    @property
    def strangers(self) -> tuple[Stranger, ...]: ...
    def start(self) -> None: ...
    def close(self) -> None: ...
    def route(self, vm: str) -> GuestRoute: ...
    def state(self, vm: str) -> AgentState: ...
    def taking(self, vm: str) -> str: ...
    def install(self, vm: str) -> None: ...
    def uninstall(self, vm: str) -> None: ...
    def probe(self, vm: str) -> tuple[Hop, ...]: ...
    def examine(self, vm: str) -> Papers: ...
    def mend(self, vm: str, action: str, word: str = "") -> str: ...
    def forget(self, vm: str) -> None: ...


class Storage(Protocol):
    """The storage endpoint, as `quiesce.storage` has it. `start` may be called again after it has
    raised."""

    @property
    def endpoint(self) -> Endpoint: ...
    def start(self) -> None: ...
    def close(self) -> None: ...
    def recent(self, vm: str) -> tuple[Seen, ...]: ...
    def forget(self, vm: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Served:
    """The parts of a guest side that is wanted."""

    storage: Storage
    agents: Agents
    look_now: Callable[[], None] = lambda: None
    """Has those who ask recognised by the table of VMs as it is now."""


class GuestSide:
    """Thread-safe. `served` None: it could not be made, and `problem` says why; without one, the
    settings do not ask for it.

    An address that cannot be bound costs guests their route and nobody else anything: it is kept
    as `problem`, and tried again by `mend`.
    """

    def __init__(self, served: Served | None, problem: Failure | None = None) -> None:
        self.wanted = served is not None or problem is not None
        """Whether the settings ask for it."""
        self._served = served
        self._lock = threading.Lock()
        self._waiting: list[Storage | Agents] = [served.storage, served.agents] if served else []
        self._problem = problem if self.wanted else endpoint_off()

    @property
    def problem(self) -> Failure | None:
        """Why guests cannot reach this server; None when they can."""
        return self._problem

    @property
    def problem_report(self) -> FailureReport | None:
        problem = self._problem
        return None if problem is None else problem.report()

    def start(self) -> None:
        """Begin to listen. What cannot be bound is kept and logged, not raised."""
        if self._served is None:
            if self.wanted:
                log.error("guests cannot reach this server", reason=str(self._problem))
            return
        with self._lock:
            before, self._problem = self._problem, self._bound()
        if self._problem is not None and before is None:
            log.error("guests cannot reach this server", reason=str(self._problem))
        elif self._problem is None:
            log.info("guests can reach this server", url=self._served.storage.endpoint.url)

    def mend(self) -> None:
        """Try again what could not be bound; a bridge may come up later than the server."""
        if self._problem is not None and self._served is not None:
            self.start()

    def close(self) -> None:
        if self._served is None:
            return
        for part in (self._served.agents, self._served.storage):
            if part not in self._waiting:
                part.close()

    def agents(self) -> Agents:
        """:raise AgentFailure: agent.endpoint-off, agent.endpoint-bind-failed"""
        return self._reachable().agents

    def storage(self) -> Storage:
        """:raise AgentFailure: as `agents`"""
        return self._reachable().storage

    def route(self, vm: str) -> GuestRoute:
        """The guest route of a VM whose agent is the Azure Linux agent. Where this server cannot
        be reached, one that says so when it is used."""
        try:
            return self.agents().route(vm)
        except AgentFailure as failure:
            known = None if self._served is None else self._served.agents.route(vm)
            return _ClosedRoute(failure, known)

    def state(self, vm: str) -> AgentState | None:
        """What is known of a VM's agent, even while it cannot reach us."""
        return None if self._served is None else self._served.agents.state(vm)

    def taking(self, vm: str) -> str:
        """The task whose snapshot the guest is asked for now; empty when it is asked for none."""
        return "" if self._served is None else self._served.agents.taking(vm)

    def strangers(self) -> tuple[Stranger, ...]:
        """Who asked lately and is no VM that is known here; newest first."""
        return () if self._served is None else self._served.agents.strangers

    def recent(self, vm: str) -> tuple[Seen, ...]:
        """What the storage endpoint saw of a VM's guest lately, oldest first; lost with a
        restart."""
        return () if self._served is None else self._served.storage.recent(vm)

    def offered_version(self) -> str:
        """Of the extension, to agents; empty when nothing is served."""
        return "" if self._served is None else self._served.agents.offered_version

    def look_now(self) -> None:
        """The table of VMs has changed."""
        if self._served is not None:
            self._served.look_now()

    def forget(self, vm: str) -> None:
        """The VM is removed."""
        if self._served is not None:
            self._served.agents.forget(vm)
            self._served.storage.forget(vm)

    def _reachable(self) -> Served:
        problem = self._problem
        if problem is not None:
            # A new one for each: an exception that is raised twice carries two stories.
            raise AgentFailure(
                problem.code, problem.message, evidence=problem.evidence, remedy=problem.remedy
            )
        assert self._served is not None, "without parts there is a problem"
        return self._served

    def _bound(self) -> Failure | None:
        while self._waiting:
            try:
                self._waiting[0].start()
            except Failure as failure:
                return failure
            self._waiting.pop(0)
        return None


class _ClosedRoute:
    """The guest route while this server cannot be reached. `known`: the real one, which can
    withdraw a task without being reached; None when its parts could not be made."""

    def __init__(self, failure: AgentFailure, known: GuestRoute | None) -> None:
        self._failure = failure
        self._known = known

    def snapshot(
        self,
        task_id: str,
        disks: Sequence[str],
        options: SnapshotOptions,
        *,
        take: Callable[[], datetime],
        log: Log,
    ) -> NoReturn:
        raise self._failure

    def recover(self, task_id: str) -> None:
        """Once the server can be reached again, no agent may find a task here whose job is over."""
        if self._known is not None:
            self._known.recover(task_id)


def endpoint_off() -> PolicyFailure:
    """Why a VM cannot be reached through the Azure Linux agent, and the settings that change it."""
    return PolicyFailure(
        "agent.endpoint-off",
        "This server offers nothing to guests over their network: `agent_address` is not set.",
        evidence=[Evidence("agent_address is empty", f"{config_file()}, QUIESCE_AGENT_ADDRESS")],
        remedy=f'Put the line `agent_address = "168.63.129.16"` into {config_file()}, give the '
        "host that address on the guests' bridge (`ip address add 168.63.129.16/32 dev BRIDGE`), "
        "and start the server again. With another address, let DHCP option 245 tell it.",
    )
