"""`python portal_on_paper.py DATA_FOLDER PORT`: a real server and portal whose one VM, with both
agents, is of paper: what its guest would say is written here."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from told_diagnoses import PROVEN, STOPPED, a_backup

from quiesce.api.serve import serve
from quiesce.model.agent import AgentCondition, AgentState, HandlerState
from quiesce.model.diagnosis import (
    Check,
    Diagnosis,
    Examination,
    Light,
    Mend,
    MendAction,
    MendStatus,
    RuledOut,
    Verdict,
)
from quiesce.model.failure import AgentFailure, Evidence, FailureReport
from quiesce.model.job import JobStatus, Task, TaskName, TaskStatus
from quiesce.model.network import Hop, NetworkReport
from quiesce.model.snapshot import Route
from quiesce.model.vm import AgentKind, VmAddress
from quiesce.portal.mount import mount
from quiesce.service.service import Service
from quiesce.service.settings import Settings
from quiesce.service.views import ExtensionView, VmView

NOW = datetime.now(UTC)
HANDLER = "Quiesce.VmBackup"
BLOCKED = FailureReport(
    "network.blocked",
    "Connections from the guest to 198.51.100.10:443 are dropped on the way.",
    (Evidence("connecting to 198.51.100.10:443: no answer", "guest", raw="<i>timed out</i>"),),
)
HOPS = (
    Hop("address", True, "eth0 10.77.0.101/24; default gateway: 10.77.0.1", 21.0),
    Hop("dhcp-245", True, "option 245 says 168.63.129.16", 1.0),
    Hop("proxy", None, "no proxy for storage.quiesce.test:443"),
    Hop("tcp", False, BLOCKED.message, 5013.0, BLOCKED.code, "no answer"),
    Hop("tls", None, "not tried, since an earlier hop failed"),
)
AGENT = AgentState(
    AgentCondition.READY,
    version="2.7.3.0",
    operating_system="debian 12",
    last_seen=NOW,
    goal_incarnation=8,
    acknowledged_incarnation=7,
    handlers=(HandlerState(HANDLER, "0.2.0.1", "Ready"),),
)
CAUSE = Diagnosis(
    symptom="network.blocked",
    code="network.blocked",
    verdict=Verdict.PROVEN,
    cause="A firewall between the guest and the storage endpoint drops its connections.",
    evidence=(STOPPED,),
    ruled_out=(RuledOut("network.no-route", "There is a route to it.", STOPPED),),
    remedy=("Let it through: `nft add rule inet filter forward ip daddr 198.51.100.10 accept`.",),
    aliases=("ExtensionSnapshotFailedNoNetwork",),
)
ROUTED = Mend(
    MendAction.OTHER_ROUTE,
    "network.blocked",
    "The host route took the point.",
    MendStatus.DONE,
    NOW,
)
RESTART = Mend(
    MendAction.RESTART_AGENT,
    "agent.not-running",
    "Restart the agent through the other one.",
    MendStatus.PLANNED,
    NOW,
)
JOB = a_backup(
    id="2872b897b881",
    vm="paper",
    status=JobStatus.COMPLETED_WITH_WARNING,
    created_at=NOW,
    started_at=NOW,
    ended_at=NOW,
    tasks=(
        Task(TaskName.TAKE_SNAPSHOT, TaskStatus.COMPLETED),
        Task(TaskName.TRANSFER, TaskStatus.COMPLETED),
    ),
    route=Route.HOST,
    setbacks=(BLOCKED,),
    diagnoses=(CAUSE,),
    mends=(ROUTED,),
)


class PaperVms:
    """The VMs of the service, with a guest's answers in place of a guest."""

    def __init__(self, service: Service) -> None:
        self._real = service.vms
        self._installed = {"qga": "0.2.0+old", "waagent": "0.2.0.1"}

    def all(self) -> tuple[VmView, ...]:
        views = self._real.all()
        return tuple(replace(view, agent=AgentKind.BOTH, agent_state=AGENT) for view in views)

    def show(self, name: str) -> VmView:
        return self.all()[0]

    def protect(self, name: str, policy: str) -> VmView:
        return self._real.protect(name, policy)

    def extensions(self, name: str) -> tuple[ExtensionView, ...]:
        offered = {"qga": "0.2.0+new", "waagent": "0.2.0.1"}
        return tuple(
            ExtensionView(
                channel=channel,
                name=HANDLER,
                version=self._installed.get(channel, ""),
                offered_version=offered[channel],
                installed=channel in self._installed,
                status="Ready",
                agent_version="2.7.3.0",
            )
            for channel in offered
        )

    def uninstall_extension(self, name: str, channel: str | None = None) -> None:
        self._installed.pop(str(channel))

    def reinstall_extension(self, name: str, channel: str | None = None) -> None:
        if channel == "waagent":
            raise AgentFailure("agent.stale", "The agent has fallen silent.")
        self._installed[str(channel)] = "0.2.0+new"


class PaperDoctor:
    """A VM whose guest agent is stopped until it is mended."""

    def __init__(self) -> None:
        self._plan = (RESTART,)

    def examine(self, name: str) -> Examination:
        sick = bool(self._plan)
        light = Light.RED if sick else Light.GREEN
        words = "its service is inactive" if sick else "it answers"
        return Examination(
            name,
            (
                Check(
                    "agent", "QEMU guest agent", light, words, (STOPPED,), ("agent.not-running",)
                ),
                Check("space", "root file system", Light.GREEN, "3.0 GiB are free"),
                Check("mounts", "/mnt/<i>loop", Light.UNKNOWN, "it could not be looked at"),
            ),
            diagnoses=(PROVEN,) if sick else (),
            plan=self._plan,
            channels=("Azure Linux agent",),
        )

    def fix(self, name: str, actions: Collection[MendAction]) -> Examination:
        done = tuple(
            replace(mend, status=MendStatus.DONE, words="qemu-guest-agent.service is active.")
            for mend in self._plan
            if mend.action in actions
        )
        self._plan = ()
        return replace(self.examine(name), plan=done)


def main(data: Path, port: int) -> None:
    service = Service(Settings(data_folder=data, port=port))
    service.vms.add(VmAddress("paper", Path("/nowhere/paper.qmp")))
    service.vms = PaperVms(service)  # type: ignore[assignment]
    service.doctor = PaperDoctor()  # type: ignore[assignment]
    service.jobs.get = lambda _: JOB  # type: ignore[method-assign]
    service.network.test = lambda vm, channel=None: NetworkReport(  # type: ignore[method-assign]
        vm, "waagent", "https://storage.quiesce.test:443", HOPS, BLOCKED
    )
    serve(service, mount_portal=mount)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
