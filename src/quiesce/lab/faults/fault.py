"""What one row of the fault table is, and the scene that it happens on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from quiesce.lab.guest import LabGuest
from quiesce.lab.hand import Hand
from quiesce.lab.network import LabNetwork
from quiesce.lab.waagent import Waagent
from quiesce.model.snapshot import Consistency

RANK = {
    Consistency.CRASH: 1,
    Consistency.FILE_SYSTEM: 2,
    Consistency.OFFLINE: 2,
    Consistency.APPLICATION: 3,
}
"""How much a point is worth; nothing can change in a VM that is off."""


class Server(Protocol):
    """The Quiesce server of a scene, in a process of its own. Paths are of this machine."""

    data: Path
    scratch: Path
    environment: dict[str, str]

    def start(self) -> object: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def standing_still(self) -> AbstractContextManager[None]: ...
    def call(self, method: str, *path: str, body: object = None) -> Any: ...
    def get(self, *path: str) -> Any: ...
    def post(self, *path: str, body: object = None) -> Any: ...
    def protect(self, vm: str, **policy: object) -> None: ...
    def begin(self, vm: str) -> str: ...
    def job(self, job_id: str) -> dict[str, Any]: ...
    def end_of(self, job_id: str, *, seconds: float) -> dict[str, Any]: ...
    def stuck_in_transfer(self, guest: LabGuest, vm: str) -> AbstractContextManager[str]: ...


@dataclass
class Scene:
    """A VM with both agents up, known to a server under the name `vm`. `hand` works whatever
    becomes of the agents."""

    vm: str
    guest: LabGuest
    hand: Hand
    network: LabNetwork
    agent: Waagent
    server: Server

    def set_vm(self, **fields: object) -> None:
        """Change what the server is told of the VM, as `quiesce vm set` does."""
        answer = self.server.call("PATCH", "vms", self.vm, body=fields)
        assert answer.is_success, answer.text


class Agents(StrEnum):
    """Through which agents the server may reach the VM: its `agent` in the API."""

    QGA = "qga"
    WAAGENT = "waagent"
    BOTH = "both"


Injector = Callable[[Scene], Iterator[None]]
Act = Callable[[Scene], Mapping[str, Any]]


@dataclass(frozen=True)
class Fault:
    """One row.

    `expected` is the cause's code in the catalogue; `accepted` are codes that are as true, for the
    reason `because`. `beside` are causes that may be proven as well, each with the reason why it
    is true of this fault too; any other one is wrong. `inject` sets the misfortune in and undoes
    it at its end. `backup` does something else than a plain backup while it is in force: it returns
    the job that ended, or a refused call's problem as `{"failure": …, "refused": True}`.

    `agents` and `policy` (fields of a policy's `snapshot`, as the API has them) say how the VM is
    set; `first` wants a good backup before, `spoils` a new guest afterwards. `least` is what a
    point must be worth to count as healed, and `heals` whether one is expected; without `hurts`
    no point is at stake, only the time that it takes, and there is nothing to heal.
    """

    name: str
    family: str
    words: str
    expected: str
    inject: Callable[[Scene], AbstractContextManager[object]]
    accepted: tuple[str, ...] = ()
    because: str = ""
    beside: Mapping[str, str] = field(default_factory=dict)
    agents: Agents = Agents.BOTH
    policy: Mapping[str, object] = field(default_factory=dict)
    backup: Act | None = None
    first: bool = False
    spoils: bool = False
    heals: bool = True
    hurts: bool = True
    least: Consistency = Consistency.FILE_SYSTEM
    quick: bool = False
    """Whether continuous integration has time for it."""


ROWS: list[Fault] = []
"""All that `fault` has made; `quiesce.lab.faults.table` is what to import."""


def fault(
    name: str, family: str, expected: str, *, words: str = "", **more: Any
) -> Callable[[Injector], Fault]:
    """Make a row of a generator that sets the misfortune in, yields, and undoes it; without `words`
    its docstring is the row's. `more` are fields of Fault."""

    def made(injector: Injector) -> Fault:
        said = words or " ".join((injector.__doc__ or "").split())

        @contextmanager
        def inject(scene: Scene) -> Iterator[None]:
            steps = injector(scene)
            next(steps)
            try:
                yield
            finally:
                next(steps, None)

        row = Fault(name, family, said, expected, inject, **more)
        assert all(other.name != name for other in ROWS), f"two rows are called {name}"
        ROWS.append(row)
        return row

    return made
