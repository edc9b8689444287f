"""A backup of the VM web through its polling agent, and what its extension does meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from waagent_guest import PaperGuest, session

from quiesce.agent.waagent.host import AgentHost
from quiesce.model.extension import GuestPoint
from quiesce.model.failure import Failure
from quiesce.model.policy import SnapshotOptions

TAKEN = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
OnGoal = Callable[[PaperGuest], None]


def snapshot(
    host: AgentHost,
    take: Callable[[], datetime] = lambda: TAKEN,
    log: Callable[[str, str], None] = lambda level, text: None,
    task: str = "task-1",
) -> GuestPoint:
    return host.route("web").snapshot(
        task, ["vda", "vdb"], SnapshotOptions(hold_seconds=0.5), take=take, log=log
    )


def on(command: str) -> Callable[[OnGoal], OnGoal]:
    """What an extension does when it is asked for this, and for nothing else."""

    def only(do: OnGoal) -> OnGoal:
        return lambda guest: do(guest) if guest.public.get("command") == command else None

    return only


def answers(command: str, stage: str, **said: Any) -> OnGoal:
    return on(command)(lambda guest: guest.says(stage, **said))


def takes_a_point(by: str = "blob", **fields: Any) -> OnGoal:
    """An extension that does all as it should."""

    @on("snapshot")
    def do(guest: PaperGuest) -> None:
        guest.says("preparing", by=by)
        guest.take()
        guest.says("done", by=by, session=session(), **fields)

    return do


def failure_of(host: AgentHost, **how: Any) -> Failure:
    with pytest.raises(Failure) as failed:
        snapshot(host, **how)
    return failed.value
