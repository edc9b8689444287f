"""Where a session stands, which moves are legal, and the document the host reads."""

import enum
from typing import Any, Dict, FrozenSet, List, Optional, Sequence

from .failure import Failure
from .ledger import By, Ledger, Phase, Thaw
from .mounts import printable
from .plan import Decision
from .scripts import Run
from .version import VERSION


class State(enum.Enum):
    PREPARING = "preparing"
    READY = "ready"
    FREEZING = "freezing"
    FROZEN = "frozen"
    THAWED = "thawed"
    FINISHING = "finishing"
    DONE = "done"
    FAILED = "failed"


# Every session passes through FINISHING, where the post-script runs, before it ends.
LEGAL: Dict[State, FrozenSet[State]] = {
    State.PREPARING: frozenset([State.READY, State.FINISHING]),
    State.READY: frozenset([State.FREEZING, State.FINISHING]),
    State.FREEZING: frozenset([State.FROZEN, State.FINISHING]),
    State.FROZEN: frozenset([State.THAWED, State.FINISHING]),
    State.THAWED: frozenset([State.FINISHING]),
    State.FINISHING: frozenset([State.DONE, State.FAILED]),
    State.DONE: frozenset(),
    State.FAILED: frozenset(),
}


def require_legal(old: State, new: State) -> None:
    if new not in LEGAL[old]:
        raise ValueError("a session cannot go from {} to {}".format(old.value, new.value))


class Document:
    """state.json as it grows; contract: docs/explanation/guest-extension.md."""

    def __init__(self, task: str, pid: int) -> None:
        self.task = task
        self.pid = pid
        self.state = State.PREPARING
        self.decisions: Sequence[Decision] = []
        self.configured = False
        self.runs: Dict[str, Optional[Run]] = {}
        self.freeze: Optional[Dict[str, Any]] = None
        self.warnings: List[str] = []
        self.failure: Optional[Failure] = None

    def move(self, new: State) -> None:
        require_legal(self.state, new)
        self.state = new

    def as_json(self) -> Dict[str, Any]:
        runs = {
            kind: ran._replace(path=printable(ran.path))._asdict() if ran else None
            for kind, ran in (("pre", self.runs.get("pre")), ("post", self.runs.get("post")))
        }
        return {
            "task": self.task,
            "state": self.state.value,
            "version": VERSION,
            "pid": self.pid,
            "mounts": [one.as_json() for one in self.decisions],
            "scripts": dict(runs, configured=self.configured),
            "freeze": self.freeze,
            "warnings": self.warnings,
            "failure": self.failure.as_json() if self.failure else None,
        }


def freeze_report(
    decisions: Sequence[Decision], ledger: Ledger, hold_seconds: float, now: float
) -> Dict[str, Any]:
    """What was frozen for how long. `frozen_ms` counts from the beginning of the freeze call,
    when writes begin to wait, to the thaw; of a mount that is not thawed, to `now`."""
    mounts = []
    for index, one in enumerate(one for one in decisions if one.freeze):
        entry: Dict[str, Any] = {
            "mount": printable(one.mount.point),
            "file_system": printable(one.mount.file_system),
            "freeze_ms": 0.0,
            "frozen_ms": 0.0,
            "skipped": "",
            "downgrades": False,
        }
        began, ended = ledger.freeze_began(index), ledger.freeze_ended(index)
        if ledger.phase(index) in (Phase.FROZEN, Phase.FREEZING):
            until = now if ledger.thaw(index) is Thaw.NOT_YET else ledger.thaw_ended(index)
            entry["freeze_ms"] = round(((ended or until) - began) * 1000, 3)
            entry["frozen_ms"] = round((until - began) * 1000, 3)
        else:
            entry.update(skipped="it was not frozen", downgrades=True)
        mounts.append(entry)
    closed_by = ledger.closed_by
    return {
        "mounts": mounts,
        "held": ledger.held(),
        "hold_seconds": hold_seconds,
        "thawed_by": closed_by.word if closed_by is not By.NOBODY else None,
    }
