"""Azure Linux agents without guests, and a storage endpoint without a socket.

What a paper agent does is in its VM's folder: `agent-condition` and `handler` are what it reports,
`withdrawn` the tasks that were withdrawn from it. `fail-guest-route` holds the code that its
extension fails with, until `mended` has what `mends-guest-route` names.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from quiesce.agent.session_state import failure_of
from quiesce.agent.waagent.recognition import Stranger
from quiesce.model.agent import AgentCondition, AgentState, HandlerState
from quiesce.model.door import Endpoint
from quiesce.model.extension import Finish, GuestPoint, Readiness
from quiesce.model.failure import StorageFailure
from quiesce.model.network import Hop
from quiesce.model.papers import Papers
from quiesce.model.policy import SnapshotOptions
from quiesce.model.snapshot import FreezeReport, MountFreeze
from quiesce.snapshot.ports import Log
from quiesce.storage.journal import Seen

MOUNT = MountFreeze("/", "ext4")


def stage(folder: Path, name: str) -> None:
    while (folder / f"hold-{name}").exists():
        (folder / f"at-{name}").touch()
        time.sleep(0.02)


class PaperRoute:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def snapshot(
        self,
        task_id: str,
        disks: Sequence[str],
        options: SnapshotOptions,
        *,
        take: Callable[[], datetime],
        log: Log,
    ) -> GuestPoint:
        waited = self._folder / "at-guest-route"
        while (self._folder / "hold-guest-route").exists():
            waited.touch()
            log("debug", "The agent has not come yet.")
            time.sleep(0.02)
        failing = self._folder / "fail-guest-route"
        if failing.exists() and not self._mended():
            raise failure_of({"code": failing.read_text(), "message": "The paper guest fails."})
        taken: list[datetime] = []
        asked = threading.Thread(target=lambda: taken.append(take()))
        (self._folder / "frozen").touch()
        asked.start()
        asked.join()
        (self._folder / "frozen").unlink()
        return GuestPoint(
            taken_at=taken[0],
            readiness=Readiness("1", (MOUNT,), scripts_configured=False, pre_script=None),
            freeze=FreezeReport((MOUNT,), held=True, hold_seconds=10.0),
            finish=Finish(post_script=None),
        )

    def _mended(self) -> bool:
        wanted, done = self._folder / "mends-guest-route", self._folder / "mended"
        return wanted.exists() and done.exists() and wanted.read_text() in done.read_text()

    def recover(self, task_id: str) -> None:
        (self._folder / "frozen").unlink(missing_ok=True)
        with (self._folder / "withdrawn").open("a") as file:
            file.write(f"{task_id}\n")


class PaperAgents:
    offered_version = "1.0.7"
    strangers: tuple[Stranger, ...] = ()

    def __init__(self, folder_of: Callable[[str], Path]) -> None:
        self._folder_of = folder_of

    def start(self) -> None:
        return

    def close(self) -> None:
        return

    def route(self, vm: str) -> PaperRoute:
        return PaperRoute(self._folder_of(vm))

    def state(self, vm: str) -> AgentState:
        said = self._folder_of(vm) / "agent-condition"
        if not said.exists():
            return AgentState(AgentCondition.NEVER_SEEN)
        handler = self._folder_of(vm) / "handler"
        handlers = (HandlerState("Other.Handler", "9.9", "Ready"),)
        if handler.exists():
            ours = HandlerState("Quiesce.VmBackup", handler.read_text(), "Ready")
            handlers = (*handlers, ours)
        return AgentState(
            AgentCondition(said.read_text()), "2.7", "paper", datetime.now(UTC), handlers=handlers
        )

    def taking(self, vm: str) -> str:
        return ""

    def install(self, vm: str) -> None:
        (self._folder_of(vm) / "handler").write_text(self.offered_version)

    def uninstall(self, vm: str) -> None:
        (self._folder_of(vm) / "handler").unlink(missing_ok=True)

    def probe(self, vm: str) -> tuple[Hop, ...]:
        return (
            Hop("route", True, "by eth0"),
            Hop("tcp", False, "no answer", code="network.blocked", raw="ETIMEDOUT"),
            Hop("tls", None, "not tried"),
        )

    def examine(self, vm: str) -> Papers:
        return Papers((), f"the guest {vm}, through its Azure Linux agent")

    def mend(self, vm: str, action: str, word: str = "") -> str:
        with (self._folder_of(vm) / "mended").open("a") as notes:
            notes.write(f"{action} {word}\n")
        return f"{action} was done."

    def forget(self, vm: str) -> None:
        return


class PaperStorage:
    endpoint = Endpoint("https://192.0.2.1:443", "pem")

    def start(self) -> None:
        return

    def close(self) -> None:
        return

    def recent(self, vm: str) -> tuple[Seen, ...]:
        return ()

    def forget(self, vm: str) -> None:
        return


class StuckStorage(PaperStorage):
    """Its address is taken, until somebody frees it."""

    def __init__(self) -> None:
        self.free = False
        self.closed = False

    def start(self) -> None:
        if not self.free:
            raise StorageFailure("storage.endpoint-bind-failed", "Somebody listens there.")

    def close(self) -> None:
        self.closed = True
