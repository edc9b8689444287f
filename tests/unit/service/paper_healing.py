"""What tests of self-healing share: an agent that has stopped, and what a job did about it."""

from __future__ import annotations

from dataclasses import replace

from quiesce.model.diagnosis import MendAction, MendStatus
from quiesce.model.job import Job
from quiesce.service.service import Service

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
