"""The backup extension inside a VM, as the host sees it through the VM's agent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from quiesce.model.snapshot import FreezeReport, MountFreeze


@dataclass(frozen=True, slots=True)
class ScriptRun:
    """One pre- or post-script that ran. `seconds` is its wall time.

    `exit_code` is None when the script was ended by a signal or never came to its end. `code` is
    the failure's, when it did not end with 0; empty from an older extension.
    """

    path: str
    exit_code: int | None
    seconds: float
    stderr: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Readiness:
    """The guest is ready to be frozen: scripts ran, the watchdog stands.

    `scripts_configured` is whether the operator configured any; `pre_script` is None when there
    was none to run. `mounts` is the freeze plan, skipped ones with their reason.
    """

    extension_version: str
    mounts: tuple[MountFreeze, ...]
    scripts_configured: bool
    pre_script: ScriptRun | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """How the guest's side of the session ended."""

    post_script: ScriptRun | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GuestPoint:
    """A point that the extension itself has asked for while it held the guest frozen. `taken_at`
    (UTC) is the instant that the storage endpoint answered with."""

    taken_at: datetime
    readiness: Readiness
    freeze: FreezeReport
    finish: Finish


@dataclass(frozen=True, slots=True)
class GuestSession:
    """A session that the guest still holds files of. `state` is the extension's own word for it
    (ready, frozen, done, …), empty when its state file could not be read."""

    task_id: str
    state: str


@dataclass(frozen=True, slots=True)
class ExtensionState:
    """What the VM's agent says about itself and about the extension, now.

    Versions are empty when unknown. `installed` is true only when the extension has answered;
    `version` is what answered, `offered_version` what the next backup would install.
    """

    installed: bool
    version: str
    offered_version: str
    python: str
    agent_version: str
    operating_system: str
    sessions: tuple[GuestSession, ...] = ()

    @property
    def update_pending(self) -> bool:
        return self.version != self.offered_version
