"""One VM's guest through its QEMU guest agent, whatever system it runs: the backup extension where
it can run, and the agent's own shadow copies on Windows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from quiesce.agent import inside
from quiesce.agent.collection import WINDOWS
from quiesce.agent.extension import QgaGuest
from quiesce.agent.package import ExtensionPackage
from quiesce.agent.qga import FreezeStatus
from quiesce.agent.windows import VssFreeze, is_for_windows
from quiesce.model.door import Endpoint
from quiesce.model.extension import ExtensionState, Finish, GuestSession, Readiness
from quiesce.model.failure import Evidence, ExtensionFailure, FreezeFailure
from quiesce.model.network import Hop, Proxy
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import FreezeReport, MountFreeze

_OWN_FREEZE = GuestSession("vss", "frozen")
"""A freeze that the agent itself still holds, whoever asked for it; `recover` thaws it."""


class VmGuest(QgaGuest):
    """As `QgaGuest`, which it is for every system but Windows. There the extension cannot run:
    what needs it raises ExtensionFailure extension.not-for-windows."""

    def __init__(
        self,
        qga_socket: Path,
        *,
        frontend_open: Callable[[], bool | None] | None = None,
        package: ExtensionPackage | None = None,
    ) -> None:
        super().__init__(qga_socket, frontend_open=frontend_open, package=package)
        self._vss = VssFreeze(self._agent)

    def prepare(self, task_id: str, options: SnapshotOptions) -> Readiness:
        with self._turn():
            self._session(task_id)  # refuses a name that is none
            self._agent.sync()
            if self._is_windows():
                return self._vss.prepare(task_id, options)
            return super().prepare(task_id, options)

    def freeze(self, task_id: str) -> None:
        with self._turn():
            if task_id in self._vss.tasks:
                self._vss.freeze(task_id)
            else:
                super().freeze(task_id)

    def thaw(self, task_id: str) -> FreezeReport:
        with self._turn():
            if task_id in self._vss.tasks:
                return self._vss.thaw(task_id)
            return super().thaw(task_id)

    def finish(self, task_id: str) -> Finish:
        with self._turn():
            if task_id in self._vss.tasks:
                return self._vss.finish(task_id)
            return super().finish(task_id)

    def recover(self, task_id: str) -> None:
        with self._turn():
            if task_id in self._vss.tasks or self._is_windows():
                self._vss.recover(task_id)
            else:
                super().recover(task_id)

    def status(self) -> ExtensionState:
        with self._idle_turn():
            if not self._is_windows():
                return super().status()
            frozen = self._agent.freeze_status() is FreezeStatus.FROZEN
            return ExtensionState(
                installed=False,
                version="",
                offered_version="",
                python="",
                agent_version=self._agent.info().version,
                operating_system="Windows" if frozen else self._agent.operating_system().name,
                sessions=(_OWN_FREEZE,) if frozen else (),
            )

    def install(self) -> bool:
        with self._idle_turn():
            self._need_extension("installed")
            return super().install()

    def uninstall(self) -> None:
        with self._idle_turn():
            self._need_extension("uninstalled")
            super().uninstall()

    def preflight(self, skip: tuple[str, ...] = ()) -> tuple[MountFreeze, ...]:
        with self._idle_turn():
            return self._vss.mounts() if self._is_windows() else super().preflight(skip)

    def probe(self, endpoint: Endpoint, proxy: Proxy, host_address: str = "") -> tuple[Hop, ...]:
        with self._idle_turn():
            self._need_extension("asked for its network")
            return super().probe(endpoint, proxy, host_address)

    def _occupied(self) -> tuple[str, ...]:
        return (*super()._occupied(), *self._vss.tasks)

    def _is_windows(self) -> bool:
        try:
            return inside.system_of(self._agent) == WINDOWS
        except FreezeFailure:  # frozen by itself, it does not say
            return is_for_windows(self._agent.info())

    def _need_extension(self, what: str) -> None:
        if self._is_windows():
            raise ExtensionFailure(
                "extension.not-for-windows",
                f"The backup extension cannot be {what}: this guest runs Windows.",
                evidence=[Evidence(f"its id is {WINDOWS}", "guest-get-osinfo")],
            )
