"""What tests of self-healing share: an agent that has stopped, and steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from quiesce.model.diagnosis import Mend, MendAction, MendStatus
from quiesce.model.job import Job
from quiesce.model.snapshot import Route
from quiesce.model.vm import AgentKind
from quiesce.service.mending import WORDS
from quiesce.service.service import Service

GUEST, HOST = Route.GUEST, Route.HOST
QGA, WAAGENT, BOTH = AgentKind.QGA, AgentKind.WAAGENT, AgentKind.BOTH
CarryOut = Callable[..., Mend]
STOPPED = {
    "waagent.configured": True,
    "waagent.unit": "inactive",
    "vm.power": "running",
    "qga.configured": True,
    "qga.answers": True,
}


def without(service: Service, *actions: MendAction) -> None:
    """The VM's policy switches these off."""
    view = service.policies.show("daily")
    service.policies.change(replace(view, mends_off=actions))
    service.vms.protect("web", "daily")


def steps(job: Job) -> list[tuple[MendAction, MendStatus]]:
    return [(mend.action, mend.status) for mend in job.mends]


def planned(action: MendAction, because: str = "agent.not-running") -> Mend:
    return Mend(action, because, WORDS[action], MendStatus.PLANNED)
