"""Examples of answers for the OpenAPI description, made from real values so that they stay true."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from quiesce.api.answers import Examined
from quiesce.diagnosis.allowlist import AllowlistFormat, allowlist
from quiesce.model.agent import AgentCondition, AgentState, HandlerState
from quiesce.model.damage import DamageReport, DiskHealth, PointHealth
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
from quiesce.model.failure import Evidence, FailureReport
from quiesce.model.job import Job, JobKind, JobStatus, LogLine, Task, TaskName, TaskStatus
from quiesce.model.network import Hop, NetworkReport, Proxy
from quiesce.model.point import PointDisk, RecoveryPoint
from quiesce.model.progress import Progress
from quiesce.model.snapshot import (
    Consistency,
    ConsistencyLabel,
    FreezeReport,
    MountFreeze,
    Route,
)
from quiesce.model.vm import AgentKind, Disk, PowerState
from quiesce.service.vault_views import CollectView, CopyView, SlotChange, SlotView
from quiesce.service.views import ExtensionView, Need, VaultView, VmView
from quiesce.vault.upkeep.collect_plan import Waiting

_TAKEN = datetime(2026, 3, 1, 1, 0, 4, tzinfo=UTC)
_FREEZE = FreezeReport((MountFreeze("/", "ext4", 21.4, 180.0),), held=True, hold_seconds=10.0)
_LABEL = ConsistencyLabel(
    Consistency.FILE_SYSTEM, "no pre- and post-scripts are configured in the guest"
)

_POINT = RecoveryPoint(
    id="9c1d8a30f5b24e17",
    vm="web1",
    job_id="3f9a0c51d2e7",
    taken_at=_TAKEN,
    committed_at=_TAKEN + timedelta(seconds=40),
    route=Route.HOST,
    consistency=_LABEL,
    freeze=_FREEZE,
    disks=(
        PointDisk(
            name="vda",
            size_bytes=8 * 1024**3,
            format="qcow2",
            generation="quiesce-3f9a0c51d2e7-200000000",
            incremental=True,
            read_bytes=67_108_864,
            stored_bytes=21_500_000,
        ),
    ),
)

_JOB = Job(
    id="3f9a0c51d2e7",
    kind=JobKind.BACKUP,
    vm="web1",
    status=JobStatus.IN_PROGRESS,
    created_at=_TAKEN - timedelta(seconds=4),
    started_at=_TAKEN - timedelta(seconds=4),
    tasks=(
        Task(
            TaskName.TAKE_SNAPSHOT,
            TaskStatus.COMPLETED,
            _TAKEN - timedelta(seconds=4),
            _TAKEN + timedelta(seconds=1),
        ),
        Task(
            TaskName.TRANSFER,
            TaskStatus.IN_PROGRESS,
            _TAKEN + timedelta(seconds=1),
            progress=Progress(33_554_432, 67_108_864, 9_000_000, 8_400_000.0, "Reading disk vda"),
        ),
    ),
    consistency=_LABEL,
    freeze=_FREEZE,
    log=(LogLine(_TAKEN, "info", "/ (ext4) froze in 21.4 ms and was held for 180 ms."),),
)

_HANDLER = HandlerState("Quiesce.VmBackup", "0.1.0.3", "Ready", "", "success")

_AGENT = AgentState(
    condition=AgentCondition.READY,
    version="WALinuxAgent-2.7.3.0",
    operating_system="debian 12",
    last_seen=_TAKEN,
    goal_incarnation=7,
    acknowledged_incarnation=7,
    endpoint="168.63.129.16",
    handlers=(_HANDLER,),
)

_EXTENSIONS = (
    ExtensionView(
        channel="waagent",
        name=_HANDLER.name,
        version=_HANDLER.version,
        offered_version=_HANDLER.version,
        installed=True,
        status=_HANDLER.status,
        agent_version=_AGENT.version,
        operating_system=_AGENT.operating_system,
    ),
)

_NEEDS = (
    Need("168.63.129.16", 80, "tcp", "wire server: what the agent is to do"),
    Need("168.63.129.16", 443, "tcp", "storage endpoint: the snapshot command"),
)

_NETWORK = NetworkReport(
    vm="web1",
    channel="qga",
    endpoint="https://168.63.129.16:443",
    hops=(
        Hop("address", True, "eth0 has 10.0.0.7/24", 0.4),
        Hop(
            "tcp", False, "168.63.129.16:443 did not answer", 5000.0, "network.blocked", "timed out"
        ),
    ),
    failure=FailureReport(
        "network.blocked",
        "The way from the VM web1 to this server breaks at tcp: 168.63.129.16:443 did not answer",
        (Evidence("tcp: 168.63.129.16:443 did not answer", "probe in the guest", _TAKEN),),
    ),
)

_VM = VmView(
    name="web1",
    qmp_socket=Path("/run/vms/web1/qmp.sock"),
    qga_socket=Path("/run/vms/web1/qga.sock"),
    image_files={},
    added_at=_TAKEN - timedelta(days=3),
    power=PowerState.RUNNING,
    hypervisor="QEMU 7.2.22",
    disks=(Disk("vda", 8 * 1024**3, Path("/var/lib/vms/web1.qcow2"), "qcow2", node="drive0"),),
    seen_at=_TAKEN,
    policy="daily",
    next_run=_TAKEN + timedelta(days=1),
    point_count=3,
    newest_point=_POINT,
    agent=AgentKind.BOTH,
    agent_state=_AGENT,
    proxy=Proxy(https="http://web1:***@10.0.0.3:3128", no_proxy="168.63.129.16"),
)

_STOPPED = Evidence(
    "the agent's service is inactive", "the guest, through waagent", _TAKEN, "ActiveState=inactive"
)
_START = "Start it: `systemctl start qemu-guest-agent`"

_DIAGNOSIS = Diagnosis(
    symptom="agent.silent",
    code="agent.not-running",
    verdict=Verdict.PROVEN,
    cause="The agent's service is stopped in the guest.",
    evidence=(_STOPPED,),
    ruled_out=(
        RuledOut(
            "agent.disk-full",
            "The root file system has room.",
            Evidence("3 GiB free on /", "the guest, through waagent", _TAKEN),
        ),
    ),
    remedy=(_START,),
    aliases=("GuestAgentSnapshotTaskStatusError",),
    seconds=1.8,
)

_MEND = Mend(
    MendAction.RESTART_AGENT,
    "agent.not-running",
    "Restart the agent through the other one.",
    MendStatus.PLANNED,
    _TAKEN,
)

_EXAMINATION = Examination(
    subject="web1",
    checks=(
        Check(
            "agent",
            "QEMU guest agent",
            Light.RED,
            "its service is inactive",
            (_STOPPED,),
            ("agent.not-running",),
            (_START,),
        ),
        Check("space", "root file system", Light.GREEN, "3 GiB free"),
    ),
    diagnoses=(_DIAGNOSIS,),
    plan=(_MEND,),
    channels=("waagent",),
    seconds=6.2,
)

_RESTORE = Job(
    id="7be2915c04aa",
    kind=JobKind.RESTORE,
    vm="web1",
    status=JobStatus.QUEUED,
    created_at=_TAKEN,
    tasks=(Task(TaskName.RESTORE),),
)

_VAULT = VaultView(
    location="/var/lib/quiesce/vault",
    id="b4f0…",
    points=3,
    vms=1,
    protected_bytes=3 * 8 * 1024**3,
    stored_bytes=1_730_000_000,
    packs=52,
    chunks=30_500,
    free_bytes=400 * 1024**3,
)

_COPY_PLAN = CopyView(
    source="/var/lib/quiesce/vault",
    target="s3://backups/quiesce",
    makes_vault=False,
    points=("9c1d8a30f5b24e17",),
    points_there=2,
    packs=1,
    size_bytes=21_500_000,
    keys=0,
    unfit=(),
    notes=(),
)

_SLOTS = SlotChange(
    added=(SlotView("5b0c9a7f1d2e3c48", "recovery", _TAKEN),), left=2, executed=True
)

_GARBAGE = CollectView(
    delete_packs=3,
    delete_bytes=98_000_000,
    mark_packs=1,
    mark_bytes=31_000_000,
    repack_packs=0,
    repack_copy_bytes=0,
    repack_frees_bytes=0,
    waiting_bytes=64_000_000,
    planned_at=_TAKEN,
    waiting=(Waiting(_TAKEN + timedelta(hours=17), packs=2, size_bytes=64_000_000),),
)

_DAMAGE = DamageReport.of(
    [
        PointHealth(
            _POINT.id,
            _POINT.vm,
            _TAKEN,
            (DiskHealth.of("vda", [(4_194_304, 131_072, True), (9_961_472, 262_144, False)]),),
        )
    ],
    _TAKEN + timedelta(hours=9),
)

_EXAMPLES: dict[str, object] = {
    "copy-plan": _COPY_PLAN,
    "slots": _SLOTS,
    "garbage": _GARBAGE,
    "damage": _DAMAGE,
    "vm": _VM,
    "job": _JOB,
    "restore": _RESTORE,
    "point": _POINT,
    "vault": _VAULT,
    "extensions": _EXTENSIONS,
    "network": _NETWORK,
    "examination": Examined.of(_EXAMINATION),
    "needs": _NEEDS,
    "allowlist": {"format": "nft", "text": allowlist(_NEEDS, AllowlistFormat.NFT)},
}


def example(status: int, name: str) -> dict[int | str, dict[str, Any]]:
    """The `responses=` entry of a route whose answer looks like the named example."""
    value = _EXAMPLES[name]
    shown = TypeAdapter(type(value)).dump_python(value, mode="json")
    return {status: {"content": {"application/json": {"example": shown}}}}
