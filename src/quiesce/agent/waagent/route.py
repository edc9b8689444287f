"""The guest route of one VM: its extension is asked through its agent, which polls."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

from quiesce.agent.session_state import SessionState
from quiesce.agent.waagent.deadlines import Deadlines
from quiesce.agent.waagent.following import Following, Log
from quiesce.agent.waagent.goal import Goal, Plugin
from quiesce.agent.waagent.ports import Doors, ProxyOf
from quiesce.agent.waagent.recognition import Stranger
from quiesce.agent.waagent.report import Report
from quiesce.agent.waagent.settings import Command, Settings
from quiesce.agent.waagent.vm_agent import Sight, VmAgent
from quiesce.model.extension import Finish, GuestLog, GuestPoint, Readiness
from quiesce.model.failure import (
    AgentFailure,
    Evidence,
    ExtensionFailure,
    Failure,
    ScriptFailure,
    SnapshotFailure,
)
from quiesce.model.network import Hop
from quiesce.model.policy import SnapshotOptions

_BEGUN_WITHIN = timedelta(minutes=30)
"""By the guest's clock. An attempt that is given up is withdrawn; this is for one whose server
has died."""


class WaagentRoute:
    """Fulfils `quiesce.snapshot.ports.GuestRoute`. Thread-safe: one thing is asked of a VM at a
    time, and who comes second is refused with agent.channel-busy."""

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
            report = self._asked(
                Command.SNAPSHOT, log, task=task_id, disks=disks, options=options, take=taken
            )
            return _point(report, taken)
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
        report = self._asked(Command.PROBE, _quiet)
        if report.failure is not None and not report.hops:
            raise report.failure
        return report.hops

    def collect_logs(self) -> tuple[GuestLog, ...]:
        """The ends of the logs that matter. :raise Failure: as `snapshot`"""
        report = self._asked(Command.LOGS, _quiet)
        if report.failure is not None:
            raise report.failure
        return report.logs

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
    ) -> Report:
        """The report that ends the attempt. Whatever happens, the door is closed then and nothing
        is asked of the guest any more."""
        agent, attempt = self._agent, uuid.uuid4().hex
        options = options or SnapshotOptions()
        with self._turn():
            agent.begin(attempt)
            door = self._doors.open(
                agent.vm,
                attempt,
                disks,
                take=take or _nothing_to_take,
                reported=lambda raw: agent.take_report(attempt, raw),
            )
            try:
                before = agent.sight()
                settings = Settings(
                    command,
                    task=task,
                    attempt=attempt,
                    hold_seconds=options.hold_seconds,
                    skip_mounts=options.skip_mounts,
                    deadline=agent.now() + _BEGUN_WITHIN,
                    endpoint=self._doors.endpoint,
                    door=door,
                    proxy=self._proxy_of(agent.vm),
                )
                goal = agent.ask(self._version, settings)
                sight = self._followed(goal, before, log, options.hold_seconds).until(_ended)
            finally:
                self._end(attempt)
                agent.begin("")
        assert sight.report is not None
        return sight.report

    def _followed(self, goal: Goal, before: Sight, log: Log, hold_seconds: float = 0) -> Following:
        return Following(
            self._agent,
            goal,
            before,
            hold_seconds=hold_seconds,
            deadlines=self._deadlines,
            strangers=self._strangers,
            log=log,
        )

    def _end(self, attempt: str) -> None:
        try:
            self._doors.close(attempt)
        finally:
            self._agent.withdraw(attempt)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._agent.claim():
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


class _Take:
    """Remembers how the one call went: the guest's word for it is not enough."""

    def __init__(self, take: Callable[[], datetime]) -> None:
        self._take = take
        self.at: datetime | None = None
        self.failure: Failure | None = None

    def __call__(self) -> datetime:
        try:
            self.at = self._take()
        except Failure as failure:
            self.failure = failure
            raise
        return self.at


def _point(report: Report, taken: _Take) -> GuestPoint:
    if report.failure is not None:
        raise report.failure
    state = report.session
    if taken.at is None or state is None or state.freeze is None:
        missing = "no snapshot was asked for" if taken.at is None else "no freeze is reported"
        raise ExtensionFailure(
            "extension.output-invalid",
            f"The extension says that it is done, and {missing}.",
            evidence=[Evidence(f"stage {report.stage}", "the extension's report")],
        )
    if state.failure is not None and not isinstance(state.failure, ScriptFailure):
        raise state.failure
    said = (str(state.failure),) if state.failure is not None else ()
    return GuestPoint(
        taken_at=taken.at,
        readiness=_readiness(state),
        freeze=state.freeze,
        finish=Finish(post_script=state.post_script, warnings=said),
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
