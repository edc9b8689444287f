"""The host side of every VM's Azure Linux agent: both servers, and what is asked of the agents."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta

import structlog

from quiesce.agent.package import ExtensionPackage, extension_package
from quiesce.agent.waagent.deadlines import Deadlines
from quiesce.agent.waagent.host_plugin import HostPlugin
from quiesce.agent.waagent.listener import Listener
from quiesce.agent.waagent.packages import Offer
from quiesce.agent.waagent.ports import AgentBook, Doors, Neighbourhood, ProxyOf
from quiesce.agent.waagent.recognition import Recognition, Stranger, Strangers
from quiesce.agent.waagent.route import WaagentRoute
from quiesce.agent.waagent.vm_agent import Clock, VmAgent
from quiesce.agent.waagent.wire_server import WireServer
from quiesce.model.agent import AgentState
from quiesce.model.failure import Failure
from quiesce.model.network import Hop
from quiesce.model.papers import Papers

log = structlog.get_logger(__name__)

_KEEP_SECONDS = 30.0
_KEPT_AGE = timedelta(minutes=5)
"""After a restart an agent asks again within its period, so old times need not be newer."""

_FORGOTTEN_SECONDS = 10.0
"""For that long the guest of a removed VM is a stranger, whatever the neighbourhood says."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class AgentHost:
    """Thread-safe. `wire_port` and `plugin_port` 0 let the system choose, for tests: an agent
    asks on 80 and 32526 only.

    Everything but `start` and `close` works without the servers too; then no agent is heard.
    """

    def __init__(
        self,
        book: AgentBook,
        doors: Doors,
        neighbourhood: Neighbourhood,
        proxy_of: ProxyOf,
        *,
        address: str,
        wire_port: int = 80,
        plugin_port: int = 32526,
        package: ExtensionPackage | None = None,
        deadlines: Deadlines | None = None,
        now: Clock = _utc_now,
    ) -> None:
        self._book, self._doors, self._proxy_of = book, doors, proxy_of
        self._deadlines, self._now = deadlines or Deadlines(), now
        self._offer = Offer.of(package or extension_package(), book)
        self._strangers = Strangers(now)
        self._agents: dict[str, VmAgent] = {}
        self._forgotten: dict[str, float] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._keeper: threading.Thread | None = None
        apps = (
            (wire_port, WireServer(self._offer).app),
            (plugin_port, HostPlugin(self._offer).app),
        )
        self._listener = Listener(
            address,
            [
                (port, Recognition(app, neighbourhood, self._agent_soon, self._strangers))
                for port, app in apps
            ],
        )

    def start(self) -> None:
        """Returns when both servers listen.

        :raise AgentFailure: agent.endpoint-bind-failed
        """
        self._listener.start()
        self._ending.clear()
        self._keeper = threading.Thread(target=self._keep, name="waagent-keeper", daemon=True)
        self._keeper.start()

    def close(self) -> None:
        """End both servers, and save when each agent was last seen. Whoever waits for an agent
        gets job.interrupted at once, but for snapshots: the next server recovers their jobs, as
        after a crash. Idempotent."""
        self._ending.set()
        for agent in self._all():
            agent.close()
        self._listener.close()
        if self._keeper is not None:
            self._keeper.join()
            self._keeper = None
            self._save(timedelta(0))

    @property
    def ports(self) -> tuple[int, ...]:
        """Of wire server and host plugin, once started."""
        return self._listener.ports

    @property
    def offered_version(self) -> str:
        return self._offer.version

    @property
    def strangers(self) -> tuple[Stranger, ...]:
        """Who asked lately and is no VM that is known here; newest first."""
        return self._strangers.recent()

    def route(self, vm: str) -> WaagentRoute:
        return WaagentRoute(
            self._agent(vm),
            doors=self._doors,
            proxy_of=self._proxy_of,
            version=self._offer.version,
            deadlines=self._deadlines,
            strangers=self._strangers.recent,
        )

    def state(self, vm: str) -> AgentState:
        return self._agent(vm).state()

    def taking(self, vm: str) -> str:
        """The task whose snapshot the guest is asked for now; empty when it is asked for none."""
        return self._agent(vm).taking()

    def install(self, vm: str) -> None:
        """:raise Failure: as `WaagentRoute.install`"""
        self.route(vm).install()

    def uninstall(self, vm: str) -> None:
        """:raise Failure: as `WaagentRoute.uninstall`"""
        self.route(vm).uninstall()

    def probe(self, vm: str) -> tuple[Hop, ...]:
        """:raise Failure: as `WaagentRoute.probe`"""
        return self.route(vm).probe()

    def examine(self, vm: str) -> Papers:
        """:raise Failure: as `WaagentRoute.examine`"""
        return self.route(vm).examine()

    def mend(self, vm: str, action: str, word: str = "") -> str:
        """:raise Failure: as `WaagentRoute.mend`"""
        return self.route(vm).mend(action, word)

    def forget(self, vm: str) -> None:
        """Drop all that is kept of it. Nothing is asked of the guest."""
        with self._lock:
            self._agents.pop(vm, None)
            self._forgotten[vm] = time.monotonic()
        self._book.forget(vm)

    def _agent(self, vm: str) -> VmAgent:
        known = self._agents.get(vm)
        if known is not None:
            return known
        with self._lock:
            self._forgotten.pop(vm, None)
            if vm not in self._agents:
                self._agents[vm] = VmAgent(vm, book=self._book, doors=self._doors, now=self._now)
            return self._agents[vm]

    async def _agent_soon(self, vm: str) -> VmAgent | None:
        """The same in the servers' thread, which waits for no database. None for a VM that was
        just forgotten: its guest still asks, and the neighbourhood may not know yet."""
        known = self._agents.get(vm)
        if known is not None:
            return known
        forgotten = self._forgotten.get(vm)
        if forgotten is not None and time.monotonic() - forgotten < _FORGOTTEN_SECONDS:
            return None
        return await asyncio.to_thread(self._agent, vm)

    def _keep(self) -> None:
        while not self._ending.wait(_KEEP_SECONDS):
            self._save(_KEPT_AGE)
            for agent in self._all():
                try:
                    agent.renew()
                except Failure as failure:
                    log.warning("renewing failed", vm=agent.vm, code=failure.code)
                except Exception:
                    log.exception("a defect kept a VM's goal state from being renewed", vm=agent.vm)

    def _save(self, age: timedelta) -> None:
        for agent in self._all():
            try:
                agent.keep(at_least=age)
            except Failure as failure:
                log.warning("the last sign of an agent was not saved", code=failure.code)
            except Exception:
                log.exception("a defect kept the last sign of an agent", vm=agent.vm)

    def _all(self) -> tuple[VmAgent, ...]:
        with self._lock:
            return tuple(self._agents.values())
