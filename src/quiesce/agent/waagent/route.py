"""The guest route of one VM: its extension is asked through its agent, which polls."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

import structlog

from quiesce.agent.inside import checked
from quiesce.agent.session_state import SessionState
from quiesce.agent.waagent.deadlines import Deadlines
from quiesce.agent.waagent.following import Following, Log
from quiesce.agent.waagent.goal import Goal, Plugin
from quiesce.agent.waagent.ports import Doors, ProxyOf
from quiesce.agent.waagent.recognition import Stranger
from quiesce.agent.waagent.report import Report
from quiesce.agent.waagent.settings import Command, Settings
from quiesce.agent.waagent.vm_agent import Sight, VmAgent
from quiesce.model.extension import Finish, GuestPoint, Readiness
from quiesce.model.failure import (
    AgentFailure,
    Evidence,
    ExtensionFailure,
    Failure,
    ScriptFailure,
    SnapshotFailure,
)
from quiesce.model.network import Hop
from quiesce.model.papers import Papers
from quiesce.model.policy import SnapshotOptions

log = structlog.get_logger(__name__)

_REPORT = "the extension's report"
_TURN_LOOK_SECONDS = 1.0
_LOOKS = (Command.EXAMINE, Command.PROBE)
_GIVES_WAY_SECONDS = 15.0
"""A look that is to end sees that within a second, and then withdraws what it has asked for."""
_BEGUN_WITHIN = timedelta(minutes=30)
"""By the guest's clock. An attempt that is given up is withdrawn; this is for one whose server
has died."""


class WaagentRoute:
    """Fulfils `quiesce.snapshot.ports.GuestRoute`. Thread-safe: one thing is asked of a VM at a
    time. Who comes second is refused with agent.channel-busy, a snapshot after some minutes.
    Examinations and network tests give way to everything else after half a minute."""

    def __init__(
        self,
        agent: VmAgent,
        *,
        doors: Doors,
        proxy_of: ProxyOf,
        version: str,
        deadlines: Deadlines,
        strangers: Callable[[], Sequence[Stranger]],
    ) -> None:
        self._agent, self._doors, self._proxy_of = agent, doors, proxy_of
        self._version, self._deadlines, self._strangers = version, deadlines, strangers

    def snapshot(
        self,
        task_id: str,
        disks: Sequence[str],
        options: SnapshotOptions,
        *,
        take: Callable[[], datetime],
        log: Log,
    ) -> GuestPoint:
        taken = _Take(take)
        try:
            sight = self._asked(
                Command.SNAPSHOT, log, task=task_id, disks=disks, options=options, take=taken
            )
            return _point(sight, taken, task_id)
        except Failure as failure:
            if taken.failure is not None:
                # The guest was only told that the snapshot failed; the hypervisor knows why.
                raise taken.failure from failure
            if taken.at is not None:
                fact = "the hypervisor has taken the point that the guest asked for"
                failure.evidence = (*failure.evidence, Evidence(fact, "hypervisor", taken.at))
            raise

    def recover(self, task_id: str) -> None:
        goal = self._agent.dossier.goal
        if goal.task == task_id and goal.command == Command.SNAPSHOT:
            self._end(goal.attempt)

    def probe(self) -> tuple[Hop, ...]:
        """What the guest sees on its way to the storage endpoint.

        :raise Failure: as `snapshot`, when the extension could not even be asked
        """
        report = _report(self._asked(Command.PROBE, _quiet))
        if report.failure is not None and not report.hops:
            raise report.failure
        return report.hops

    def examine(self) -> Papers:
        """What the collector finds inside. :raise Failure: as `snapshot`"""
        report = _report(self._asked(Command.EXAMINE, _quiet))
        if report.papers is None:
            raise report.failure or _empty(report, "no papers")
        return report.papers

    def mend(self, action: str, word: str) -> str:
        """What was done, or found done already, in one sentence.

        :raise InputFailure: extension.usage
        :raise AgentFailure: agent.mend-failed, with the guest's own reason; as `snapshot`
        """
        checked(action, word)
        report = _report(self._asked(Command.MEND, _quiet, action=action, word=word))
        if report.failure is not None or not report.mended:
            raise report.failure or _empty(report, "not what was mended")
        return report.mended

    def install(self) -> None:
        """Returns when the agent says that the extension of the offered version is enabled."""

        def enabled(sight: Sight) -> bool:
            status = sight.status
            ours = status.ours if status is not None else None
            return (
                status is not None
                and ours is not None
                and status.acknowledged >= sight.goal.incarnation
                and (ours.version, ours.status) == (self._version, "Ready")
            )

        with self._turn():
            before = self._agent.sight()
            goal = self._agent.ask(self._version, Settings(Command.IDLE))
            self._followed(goal, before, _quiet).until(enabled)

    def uninstall(self) -> None:
        """Returns when the agent says that the extension is gone.

        :raise ExtensionFailure: extension.uninstall-failed
        """

        def gone(sight: Sight) -> bool:
            status = sight.status
            return (
                status is not None
                and status.acknowledged >= sight.goal.incarnation
                and status.ours is None
            )

        with self._turn():
            before = self._agent.sight()
            if before.goal.plugin is Plugin.UNINSTALL and gone(before):
                return
            version = before.goal.version or self._version
            goal = self._agent.ask_to_uninstall(version)
            try:
                self._followed(goal, before, _quiet).until(gone)
            except ExtensionFailure as failure:
                raise ExtensionFailure(
                    "extension.uninstall-failed",
                    "The agent does not say that the backup extension is gone.",
                    evidence=failure.evidence,
                    retryable=True,
                ) from failure

    def _asked(
        self,
        command: Command,
        log: Log,
        *,
        task: str = "",
        disks: Sequence[str] = (),
        options: SnapshotOptions | None = None,
        take: Callable[[], datetime] | None = None,
        action: str = "",
        word: str = "",
    ) -> Sight:
        """With the report that ends the attempt. Whatever happens, the door is closed then and
        nothing is asked of the guest any more."""
        agent, attempt = self._agent, uuid.uuid4().hex
        options = options or SnapshotOptions()
        with self._turn(command, log):
            agent.begin(attempt)
            try:
                door = self._doors.open(
                    agent.vm,
                    attempt,
                    disks,
                    take=take or _nothing_to_take,
                    reported=lambda raw: agent.take_report(attempt, raw),
                )
                before = agent.sight()
                settings = Settings(
                    command,
                    task=task,
                    attempt=attempt,
                    hold_seconds=options.hold_seconds,
                    skip_mounts=options.skip_mounts,
                    action=action,
                    word=word,
                    deadline=agent.now() + _BEGUN_WITHIN,
                    endpoint=self._doors.endpoint,
                    door=door,
                    proxy=self._proxy_of(agent.vm),
                )
                goal = agent.ask(self._version, settings)
                recovered = command is Command.SNAPSHOT
                return self._followed(
                    goal, before, log, hold_seconds=options.hold_seconds, recovered=recovered
                ).until(_ended)
            finally:
                try:
                    self._doors.close(attempt)
                finally:
                    agent.begin("")
                    self._withdraw(attempt)

    def _followed(
        self,
        goal: Goal,
        before: Sight,
        log: Log,
        *,
        hold_seconds: float = 0,
        recovered: bool = False,
    ) -> Following:
        return Following(
            self._agent,
            goal,
            before,
            hold_seconds=hold_seconds,
            recovered=recovered,
            deadlines=self._deadlines,
            strangers=self._strangers,
            log=log,
        )

    def _end(self, attempt: str) -> None:
        try:
            self._doors.close(attempt)
        finally:
            self._agent.withdraw(attempt)

    def _withdraw(self, attempt: str) -> None:
        """How the attempt went is known by now and is not to be lost: the door is closed, and a
        goal state that stays is one that the guest has begun already."""
        try:
            self._agent.withdraw(attempt)
        except Failure as failure:
            log.warning("an attempt was not withdrawn", vm=self._agent.vm, code=failure.code)

    @contextlib.contextmanager
    def _turn(self, command: Command = Command.IDLE, log: Log | None = None) -> Iterator[None]:
        if not self._claimed(command, log or _quiet):
            raise AgentFailure(
                "agent.channel-busy",
                "Something else is being asked of this VM's agent.",
                evidence=[
                    Evidence(
                        f"goal state {self._agent.dossier.goal.incarnation}: "
                        f"{self._agent.dossier.goal.command}",
                        "wire server",
                    )
                ],
                retryable=True,
            )
        try:
            yield
        finally:
            self._agent.yield_turn()

    def _claimed(self, command: Command, log: Log) -> bool:
        """A network test or an examination costs no backup its freeze, and nobody the mending of
        his guest: whoever asked for it may have given it up long ago."""
        if command in _LOOKS:
            return self._agent.claim(look=True)
        deadlines, began = self._deadlines, time.monotonic()
        said = False
        while not self._agent.claim():
            looks = self._agent.press(deadlines.look)
            patience = deadlines.look + _GIVES_WAY_SECONDS if looks else 0.0
            if command is Command.SNAPSHOT:
                patience = max(patience, deadlines.turn)
            if time.monotonic() - began >= patience:
                return False
            if not said:
                doing = self._agent.dossier.goal.command or "another task"
                log("info", f"Waiting for the VM's agent, which is busy with {doing}.")
                said = True
            self._agent.wait(_TURN_LOOK_SECONDS)
            log("debug", "Still waiting.")
        return True


class _Take:
    """Remembers how the one call went: the guest's word for it is not enough."""

    def __init__(self, take: Callable[[], datetime]) -> None:
        self._take = take
        self.at: datetime | None = None
        self.ended = 0.0
        """By the monotonic clock: before, no honest report could tell of it."""
        self.failure: Failure | None = None

    def __call__(self) -> datetime:
        try:
            at = self._take()
        except Failure as failure:
            self.failure = failure
            raise
        self.ended, self.at = time.monotonic(), at
        return at


def _report(sight: Sight) -> Report:
    assert sight.report is not None, "an ended attempt has one"
    return sight.report


def _point(sight: Sight, taken: _Take, task: str) -> GuestPoint:
    """The point that the guest vouches for: the very one that was taken for this attempt, by the
    session that it tells of. The driver's session bears the attempt's name."""
    report = _report(sight)
    if report.failure is not None:
        raise report.failure
    state = report.session
    if taken.at is None:
        raise _unproven(report, "no snapshot was asked for")
    if state is None or state.freeze is None:
        raise _unproven(report, "no freeze is reported")
    if report.task != task or state.task_id != report.attempt:
        raise _unproven(report, "it tells of another task's session")
    if report.taken_at != taken.at or sight.report_at < taken.ended:
        raise _unproven(report, "it tells of another instant than the snapshot's")
    if state.failure is not None and not isinstance(state.failure, ScriptFailure):
        raise state.failure
    said = (str(state.failure),) if state.failure is not None else ()
    return GuestPoint(
        taken_at=taken.at,
        readiness=_readiness(state),
        freeze=state.freeze,
        finish=Finish(post_script=state.post_script, warnings=said),
    )


def _unproven(report: Report, what: str) -> ExtensionFailure:
    told = report.taken_at.isoformat() if report.taken_at else "none"
    session = report.session.task_id if report.session else "none"
    return ExtensionFailure(
        "extension.output-invalid",
        f"The extension says that it is done, and {what}.",
        evidence=[
            Evidence(
                f"stage {report.stage}, task {report.task or 'none'}, session {session or 'none'}, "
                f"taken at {told}",
                _REPORT,
            )
        ],
    )


def _empty(report: Report, what: str) -> ExtensionFailure:
    return ExtensionFailure(
        "extension.output-invalid",
        f"The extension says that it is done, and names {what}.",
        evidence=[Evidence(f"stage {report.stage}, version {report.version}", _REPORT)],
        retryable=True,
    )


def _readiness(state: SessionState) -> Readiness:
    return Readiness(
        extension_version=state.version,
        mounts=state.mounts,
        scripts_configured=state.scripts_configured,
        pre_script=state.pre_script,
        warnings=state.warnings,
    )


def _ended(sight: Sight) -> bool:
    return sight.report is not None and sight.report.stage.ended


def _nothing_to_take() -> datetime:
    raise SnapshotFailure("snapshot.not-prepared", "This attempt takes no snapshot.")


def _quiet(_level: str, _text: str) -> None:
    """Nobody follows these."""
