"""What the service shows of its VMs and of the vault: plain values for CLI, REST and portal.

Jobs and recovery points are shown as `quiesce.model` has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from quiesce.model.agent import AgentState
from quiesce.model.diagnosis import MendAction
from quiesce.model.extension import GuestSession
from quiesce.model.failure import FailureReport
from quiesce.model.job import Job
from quiesce.model.network import Proxy
from quiesce.model.point import RecoveryPoint
from quiesce.model.policy import SnapshotOptions
from quiesce.model.vm import AgentKind, Disk, PowerState


@dataclass(frozen=True, slots=True)
class VmView:
    """One VM that the service knows.

    `power`, `hypervisor` and `disks` are what was last seen, at `seen_at` (UTC); None and empty
    when the VM was never reached. `problem` says why it could not be asked just now; it is only
    filled where one VM is asked for. `next_run` is UTC. `active_job` is the id of the backup that
    runs or waits, empty when there is none; `last_job` is the newest backup that has ended.
    `image_files` are the disk images given by the operator, for backing the VM up while it is off.

    `agent_state` is what the Azure Linux agent has last said of itself, None when that is not this
    VM's agent; `agent_problem` says why this server cannot be reached by it at all, None when it
    can. `proxy` is the VM's own setting, passwords replaced by "***"; None: the server's counts.
    """

    name: str
    qmp_socket: Path
    qga_socket: Path | None
    image_files: dict[str, Path]
    added_at: datetime
    power: PowerState | None = None
    hypervisor: str = ""
    disks: tuple[Disk, ...] = ()
    seen_at: datetime | None = None
    problem: FailureReport | None = None
    policy: str | None = None
    next_run: datetime | None = None
    point_count: int = 0
    newest_point: RecoveryPoint | None = None
    active_job: str = ""
    last_job: Job | None = None
    agent: AgentKind = AgentKind.QGA
    agent_state: AgentState | None = None
    agent_problem: FailureReport | None = None
    guest_address: str = ""
    proxy: Proxy | None = None


@dataclass(frozen=True, slots=True)
class VmChange:
    """What to change of a VM; None leaves a thing as it is. `guest_address` "" forgets it.
    `server_proxy` drops the VM's own proxy setting, so that the server's counts again; a `proxy`
    without any URL is a setting of its own: no proxy."""

    agent: AgentKind | None = None
    qga_socket: Path | None = None
    guest_address: str | None = None
    proxy: Proxy | None = None
    server_proxy: bool = False


@dataclass(frozen=True, slots=True)
class ExtensionView:
    """The extension in a VM, as one of the VM's agents shows it. `channel` is that agent: qga or
    waagent; each keeps a package of its own.

    `offered_version` is what the next backup would install. `status` and `message` are the
    agent's words, for people. Empty: not known. `problem` says why the agent could not be asked,
    or why what is shown may be old.
    """

    channel: str
    name: str
    version: str = ""
    offered_version: str = ""
    installed: bool = False
    status: str = ""
    message: str = ""
    agent_version: str = ""
    operating_system: str = ""
    python: str = ""
    sessions: tuple[GuestSession, ...] = ()
    problem: FailureReport | None = None

    @property
    def update_pending(self) -> bool:
        return self.installed and self.version != self.offered_version


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that a guest must be able to reach: an address or a name, or "" for the guest's own
    DNS server, and a TCP or UDP port; `why` in a few words."""

    address: str
    port: int
    protocol: str
    why: str


@dataclass(frozen=True, slots=True)
class PolicyView:
    """One policy. `at` is the local time of day ("HH:MM") in the IANA time zone `zone`, or None:
    only on demand. `vms` are the VMs protected by it. `mends_off` is what Quiesce must not do by
    itself about a failure. `bandwidth` is in bytes per second, 0 for no limit; `audit` says whether
    increments are checked for what their change tracking has missed."""

    name: str
    at: str | None
    zone: str
    keep_last: int
    keep_daily: int
    snapshot: SnapshotOptions
    compression_level: int
    vms: tuple[str, ...] = ()
    mends_off: tuple[MendAction, ...] = ()
    bandwidth: int = 0
    audit: bool = True


@dataclass(frozen=True, slots=True)
class KeptPoint:
    """A point that a retention plan keeps, and every rule that wants it."""

    point_id: str
    taken_at: datetime
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeletionPlan:
    """What a deletion removes. Nothing has happened yet when `executed` is false.

    `freed_bytes` are occupied by packs that only the removed points need; they leave the disk
    when the vault's garbage collection has passed its safety margins, not at once.
    """

    removed: tuple[RecoveryPoint, ...]
    kept: tuple[KeptPoint, ...] = ()
    freed_bytes: int = 0
    executed: bool = False


@dataclass(frozen=True, slots=True)
class VaultView:
    """The vault's figures. `protected_bytes` is the sum of all points' disks, `stored_bytes`
    what the vault occupies, `free_bytes` what is left at its folder (None: not known).
    `missing_packs`, `damaged_packs`
    and `unreadable_points` are damage that was noticed without looking for it."""

    location: str
    id: str
    points: int
    vms: int
    protected_bytes: int
    stored_bytes: int
    packs: int
    chunks: int
    free_bytes: int | None
    missing_packs: int = 0
    damaged_packs: int = 0
    unreadable_points: tuple[str, ...] = ()
