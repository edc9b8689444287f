"""What is known of a failure beyond its code: typed facts, the cause that they prove, and what was
done about it. `quiesce.diagnosis` turns facts into causes; nobody else does."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from quiesce.model.failure import Evidence, FailureReport
from quiesce.model.snapshot import Route

FactValue = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Fact:
    """One observation that rules can read. `name` is one of `quiesce.diagnosis.vocabulary`, `value`
    of the type that it has there; `words` is a sentence for people, `source` where it was seen
    (UTC `observed_at`), `raw` the observed words themselves."""

    name: str
    value: FactValue
    words: str
    source: str
    observed_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    raw: str = ""

    def evidence(self) -> Evidence:
        return Evidence(self.words, self.source, self.observed_at, self.raw)


class Verdict(StrEnum):
    PROVEN = "proven"
    NOT_PROVEN = "not proven"
    """There is too little evidence, or none of it points to a cause that is known."""


@dataclass(frozen=True, slots=True)
class RuledOut:
    """A cause that would explain the symptom and is not it. `evidence` is the fact that excludes
    it, `why` the same in a sentence."""

    code: str
    why: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cause that the evidence leaves possible. `missing` says what would have to be seen for it
    to be proven, `probe` the one command or look that would decide."""

    code: str
    cause: str
    missing: tuple[str, ...]
    probe: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why something failed.

    `symptom` is the code that was seen first. `code` is the cause's when it is proven, otherwise
    the symptom's, and `cause` the sentence that belongs to it. `candidates` only when nothing is
    proven, the most likely first; `also` are codes of further causes that are proven. `remedy` are
    steps for this guest's operating system, commands in `backticks`. `aliases` are names by which
    users of other products know it. `seconds`: how long finding it took. `route` is the one that
    failed, or would; None where the cause belongs to none. `contradicted`: the facts exclude what
    was raised, and prove nothing in its place; then `code` names a symptom that nothing stands for.
    """

    symptom: str
    code: str
    verdict: Verdict
    cause: str
    evidence: tuple[Evidence, ...] = ()
    ruled_out: tuple[RuledOut, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    also: tuple[str, ...] = ()
    remedy: tuple[str, ...] = ()
    retry_helps: bool = False
    aliases: tuple[str, ...] = ()
    seconds: float = 0.0
    route: Route | None = None
    contradicted: bool = False


class MendAction(StrEnum):
    """What Quiesce does about a cause by itself. Each can be switched off in the policy."""

    THAW = "thaw"
    """End what a lost session left: thaw, release, remove its files."""
    RESTART_AGENT = "restart-agent"
    """Start, or restart, the stopped or hung agent through the other one."""
    AUTO_RESTART = "auto-restart"
    """Let systemd restart the agent whenever it ends: a drop-in for its unit."""
    ENABLE_EXTENSIONS = "enable-extensions"
    """Switch extensions (or the blocked commands) on again in the agent's configuration."""
    SET_ENDPOINT = "set-endpoint"
    """Exempt the host's address from the proxy that the agent is set to."""
    REINSTALL_EXTENSION = "reinstall-extension"
    """End what hangs of it, uninstall and install anew."""
    RENEW_ACCESS = "renew-access"
    """A new SAS or certificate."""
    CLEAN_STALE = "clean-stale"
    """Remove snapshots and bitmaps of ours that belong to no job."""
    WAIT = "wait"
    """Wait for the load to fall, for a migration or another job to end; bounded, with the reason
    shown."""
    OTHER_ROUTE = "other-route"
    """Take the point by the other route."""
    OFFLINE = "offline-backup"
    """Back up the disks of a VM that does not run."""
    SKIP_MOUNT = "skip-mount"
    """Leave a mount that cannot be frozen out of the freeze, and say so in the label."""
    START_PROVIDER = "start-provider"
    """Let Windows' service that provides shadow copies be started again."""
    VSS_COPY = "vss-copy"
    """Let Windows' shadow copies be of the type copy. It changes what SQL Server's own backups are
    based on, so no job does it: only who was shown it first, `doctor --fix`."""
    FULL_READ = "full-read"
    """Read everything where the change tracking cannot be trusted, and start it anew."""


class MendStatus(StrEnum):
    PLANNED = "planned"
    DONE = "done"
    FAILED = "failed"
    SWITCHED_OFF = "switched off"


@dataclass(frozen=True, slots=True)
class Mend:
    """One step of self-healing. `because` is the code of the cause, `words` what it does in one
    sentence; `failure` why it did not work. `route` is the one whose agent or extension it is for,
    None where that makes no difference or is not known."""

    action: MendAction
    because: str
    words: str
    status: MendStatus
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    failure: FailureReport | None = None
    route: Route | None = None


class Light(StrEnum):
    GREEN = "green"
    AMBER = "amber"
    RED = "red"
    UNKNOWN = "unknown"
    """It could not be looked at."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's: `area` groups lines (agent, extension, mounts, network, disks,
    space, load, schedule, windows), `title` says what was looked at, `words` what was found.
    `codes` are the catalogue's codes that it stands for; `remedy` as in `Diagnosis`."""

    area: str
    title: str
    light: Light
    words: str
    evidence: tuple[Evidence, ...] = ()
    codes: tuple[str, ...] = ()
    remedy: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Examination:
    """What the doctor found. `subject` is the VM's name or where the papers came from; `channels`
    through what was looked, with the reason for each that did not answer. `diagnoses` are causes
    that the facts prove, failure or not; `plan` what Quiesce would mend by itself."""

    subject: str
    checks: tuple[Check, ...]
    diagnoses: tuple[Diagnosis, ...] = ()
    plan: tuple[Mend, ...] = ()
    channels: tuple[str, ...] = ()
    problems: tuple[FailureReport, ...] = ()
    seconds: float = 0.0

    @property
    def light(self) -> Light:
        """The worst of all lines."""
        order = (Light.GREEN, Light.UNKNOWN, Light.AMBER, Light.RED)
        return max((check.light for check in self.checks), key=order.index, default=Light.UNKNOWN)
