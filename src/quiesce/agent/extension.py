"""The backup extension of one VM, reached through its QEMU guest agent and no network at all."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from quiesce.agent import inside
from quiesce.agent.framing import printable
from quiesce.agent.installation import Installation
from quiesce.agent.package import ExtensionPackage, extension_package
from quiesce.agent.presence import presence
from quiesce.agent.qga import QemuGuestAgent
from quiesce.agent.remote_session import RemoteSession
from quiesce.agent.session_state import Phase, SessionState, mount_plan
from quiesce.agent.waagent.report import read_hops
from quiesce.model.door import Endpoint
from quiesce.model.extension import ExtensionState, Finish, GuestSession, Readiness
from quiesce.model.failure import (
    AgentFailure,
    Evidence,
    ExtensionFailure,
    Failure,
    FreezeFailure,
    InputFailure,
    ScriptFailure,
)
from quiesce.model.network import Hop, Proxy
from quiesce.model.papers import Papers
from quiesce.model.policy import SnapshotOptions
from quiesce.model.presence import Presence
from quiesce.model.snapshot import FreezeReport, MountFreeze

_COMMAND_SECONDS = 60.0
"""For one extension command. Python alone takes 1.5 s to start in an emulated guest."""
_PROBE_SECONDS = 120.0
"""The probe bounds each of its hops itself."""
_FREEZE_HOLDS = 1.7
"""Bound of the freeze in holds: one for the write-back that precedes it and freezes nothing, and
0.7 for the freeze itself, which leaves 0.3 for the snapshot. The guest bounds both itself."""
_THAW_SECONDS = 10.0
_SCRIPT_SECONDS = 7200.0
"""The extension bounds the operator's scripts by their own configuration (at most 1800 s a try);
this is for an extension that does not."""
_TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
"""What the extension accepts, less what could be taken for an option."""


class QgaGuest:
    """Fulfils `quiesce.snapshot.ports.Guest`. Thread-safe: operations take turns. Keep one per VM:
    QEMU admits one client to an agent's channel. The channel is held from `prepare` to `finish` or
    `recover`, and otherwise only during a call.
    """

    def __init__(
        self,
        qga_socket: Path,
        *,
        frontend_open: Callable[[], bool | None] | None = None,
        package: ExtensionPackage | None = None,
        script_seconds: float = _SCRIPT_SECONDS,
    ) -> None:
        self._agent = QemuGuestAgent(qga_socket, frontend_open=frontend_open)
        self._installation = Installation(self._agent, package or extension_package())
        self._script_seconds = script_seconds
        self._lock = threading.RLock()
        self._sessions: dict[str, RemoteSession] = {}
        self._holds: dict[str, float] = {}
        self._preparing = ""

    def taking(self) -> str:
        """The task whose session is being prepared or is open, in which the guest may be frozen;
        empty when there is none. Asks nothing of the guest, and waits for nobody."""
        return self._preparing or next(iter(self._occupied()), "")

    def prepare(self, task_id: str, options: SnapshotOptions) -> Readiness:
        with self._turn(), self._prepared(task_id):
            session = self._session(task_id)
            self._agent.sync()
            self._installation.ensure()
            if session.find() is not None:  # left by a lost process that had the same task
                self._end(session)
            self._start(task_id, options)
            session.await_birth()
            state = session.wait(
                lambda seen: seen.phase is not Phase.PREPARING, seconds=self._script_seconds
            )
            if state.phase is not Phase.READY:
                raise _failure(state, "The guest's session ended before it was ready.")
            session.open_control()
            self._sessions[task_id] = session
            self._holds[task_id] = options.hold_seconds
            return Readiness(
                extension_version=state.version,
                mounts=state.mounts,
                scripts_configured=state.scripts_configured,
                pre_script=state.pre_script,
                warnings=state.warnings,
            )

    def freeze(self, task_id: str) -> None:
        with self._turn():
            session = self._session(task_id)
            hold = self._holds.get(task_id, SnapshotOptions().hold_seconds)
            try:
                session.order("freeze")
                state = session.wait(
                    lambda seen: seen.phase not in (Phase.READY, Phase.FREEZING),
                    seconds=hold * _FREEZE_HOLDS,
                )
            except (AgentFailure, ExtensionFailure) as inner:
                raise self._unfrozen(session, hold, inner) from inner
            if state.phase is not Phase.FROZEN:
                failure = _failure(state, "The guest's session ended instead of freezing.")
                if isinstance(failure, FreezeFailure | AgentFailure):
                    raise failure
                raise FreezeFailure(
                    "extension.session-lost",
                    "The guest's session ended before the guest was frozen.",
                ) from failure

    def thaw(self, task_id: str) -> FreezeReport:
        with self._turn():
            session = self._session(task_id)
            try:
                state = self._thawed(session)
            except ExtensionFailure as inner:
                raise AgentFailure(
                    "agent.thaw-unconfirmed",
                    "The guest did not confirm that it has thawed; its watchdog sees to it.",
                ) from inner
            hold = self._holds.get(task_id, 0.0)
            return state.freeze or FreezeReport(mounts=state.mounts, held=False, hold_seconds=hold)

    def finish(self, task_id: str) -> Finish:
        """:raise Failure: what the session failed with. Its post-script has run all the same."""
        with self._turn():
            session = self._session(task_id)
            try:
                state = session.state()
                if not state.phase.ended:
                    session.order("finish")
                    state = session.wait(
                        lambda seen: seen.phase.ended, seconds=self._script_seconds
                    )
                self._installation.forget_session(task_id)
            finally:
                self._forget(session)  # else the channel would be held for good
            if state.failure is not None and not isinstance(state.failure, ScriptFailure):
                raise state.failure
            said = (str(state.failure),) if state.failure is not None else ()
            return Finish(post_script=state.post_script, warnings=(*state.warnings, *said))

    def recover(self, task_id: str) -> None:
        with self._turn():
            session = self._session(task_id)
            try:
                found = session.find()
            except ExtensionFailure:
                self._installation.run("recover", "--task", task_id, seconds=_COMMAND_SECONDS)
                found = None
            if found is not None:
                self._end(session)
            self._forget(session)

    def status(self) -> ExtensionState:
        """The agent, the extension and its sessions, now; installs nothing.

        :raise AgentFailure: the agent cannot be reached
        """
        with self._idle_turn():
            agent = self._agent.info()
            system = self._agent.operating_system()
            found = self._installation.found()
            answered: dict[str, object] = {}
            offered = self._installation.package
            if found.packages:
                current = offered.file_name in found.packages
                name = offered.file_name if current else found.packages[-1]
                answered = self._installation.run_found(name, "version", seconds=_COMMAND_SECONDS)
            return ExtensionState(
                installed=bool(answered),
                version=_version_of(name) if answered else "",
                offered_version=offered.full_version,
                python=printable(str(answered.get("python", ""))),
                agent_version=agent.version,
                operating_system=system.name,
                sessions=tuple(self._seen(task) for task in found.tasks),
            )

    def presence(self) -> Presence:
        """Whether the agent is there and lets us work; starts nothing in the guest.

        :raise AgentFailure: it does not answer, and why; agent.channel-busy during a session
        """
        with self._idle_turn():
            return presence(self._agent)

    def install(self) -> bool:
        """Install or update now, instead of with the next backup; whether that was needed."""
        with self._idle_turn():
            return self._installation.ensure()

    def uninstall(self) -> None:
        """End the guest's sessions and remove everything of ours. The next backup installs it
        again.

        :raise ExtensionFailure: extension.uninstall-failed when something is still there
        """
        with self._idle_turn():
            self._installation.remove(_COMMAND_SECONDS)
            self._sessions.clear()

    def preflight(self, skip: tuple[str, ...] = ()) -> tuple[MountFreeze, ...]:
        """What a freeze would touch and what it would leave out, with reasons; freezes nothing.
        Installs the extension if need be."""
        with self._idle_turn():
            self._installation.ensure()
            answer = self._installation.run("preflight", *_skips(skip), seconds=_COMMAND_SECONDS)
            try:
                return mount_plan(answer.get("mounts"))
            except (KeyError, TypeError) as inner:
                raise ExtensionFailure(
                    "extension.output-invalid", "The extension's preflight names no mounts."
                ) from inner

    def probe(self, endpoint: Endpoint, proxy: Proxy, host_address: str = "") -> tuple[Hop, ...]:
        """The guest's way to the storage endpoint and, unless it is empty, to the host address,
        tried from inside, hop by hop. Installs the extension if need be. What it is told goes by
        standard input, for the proxy may have a password."""
        settings = {
            "endpoint": asdict(endpoint),
            "proxy": asdict(proxy) if proxy else None,
            "host_address": host_address,
        }
        with self._idle_turn():
            self._installation.ensure()
            answer = self._installation.run(
                "probe",
                "--settings",
                "-",
                input=json.dumps(settings).encode(),
                seconds=_PROBE_SECONDS,
            )
            return read_hops(answer.get("hops"))

    def examine(self) -> Papers:
        """The guest's inside as `guest/collect.sh` finds it. Installs nothing.

        :raise Failure: as `quiesce.agent.inside.examined`
        """
        with self._idle_turn():
            return inside.examined(self._agent)

    def mend(self, action: str, word: str = "") -> str:
        """What `guest/mend.sh` did, in one sentence. Installs nothing.

        :raise Failure: as `quiesce.agent.inside.mended`
        """
        with self._idle_turn():
            return inside.mended(self._agent, action, word)

    def _occupied(self) -> tuple[str, ...]:
        return tuple(self._sessions)

    @contextlib.contextmanager
    def _prepared(self, task_id: str) -> Iterator[None]:
        self._preparing = task_id
        try:
            yield
        finally:
            self._preparing = ""

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            finally:
                if not self._occupied():
                    self._agent.disconnect()

    @contextlib.contextmanager
    def _idle_turn(self) -> Iterator[None]:
        """A turn that starts programs, which a frozen guest must be spared.

        :raise AgentFailure: agent.channel-busy during a session
        """
        with self._turn():
            if open_tasks := self._occupied():
                raise AgentFailure(
                    "agent.channel-busy",
                    "A backup is taking its snapshot of this VM.",
                    evidence=[
                        Evidence(fact=f"session {task} is open", source="this server")
                        for task in open_tasks
                    ],
                    retryable=True,
                )
            yield

    def _session(self, task_id: str) -> RemoteSession:
        if not _TASK_ID.fullmatch(task_id):
            raise InputFailure(
                "extension.task-id-invalid",
                f"{task_id!r} cannot name a session in a guest: 1 to 64 letters, digits, hyphens.",
            )
        return self._sessions.get(task_id) or RemoteSession(self._agent, task_id)

    def _start(self, task_id: str, options: SnapshotOptions) -> None:
        self._installation.run(
            "session",
            "--task",
            task_id,
            "--hold",
            f"{options.hold_seconds:g}",
            *_skips(options.skip_mounts),
            seconds=_COMMAND_SECONDS,
        )

    def _thawed(self, session: RemoteSession) -> SessionState:
        with contextlib.suppress(ExtensionFailure):  # ended by itself: nothing to order
            session.order("thaw")
        return session.wait(lambda seen: seen.phase.thawed, seconds=_THAW_SECONDS)

    def _unfrozen(
        self, session: RemoteSession, hold: float, inner: AgentFailure | ExtensionFailure
    ) -> FreezeFailure | AgentFailure:
        """Undo a freeze that was not seen to succeed, and say what came of it."""
        try:
            state = self._thawed(session)
        except AgentFailure as silent:  # hung or gone; the watchdog thaws at its deadline
            return silent
        except ExtensionFailure as silent:
            return FreezeFailure(
                "extension.session-lost",
                "The guest's session was lost during the freeze; its watchdog thaws the guest "
                f"within {hold:g} s.",
                evidence=[*inner.evidence, *silent.evidence],
                retryable=True,
            )
        slow = [mount.mount for mount in state.mounts if not mount.skipped]
        return FreezeFailure(
            "freeze.timeout",
            f"The guest was not frozen within {hold * _FREEZE_HOLDS:g} s and is thawed again.",
            evidence=[
                *inner.evidence,
                Evidence(fact="mounts to freeze: " + ", ".join(slow), source="extension"),
            ],
            retryable=True,
        )

    def _end(self, session: RemoteSession) -> None:
        """Abort a session; with a process of the extension's own when nobody obeys."""
        try:
            state = session.state()
            if not state.phase.ended:
                session.order("abort")
                session.wait(lambda seen: seen.phase.ended, seconds=self._script_seconds)
        except ExtensionFailure:
            self._installation.run(
                "recover", "--task", session.task_id, seconds=self._script_seconds
            )
        self._installation.forget_session(session.task_id)

    def _forget(self, session: RemoteSession) -> None:
        session.close_control()
        self._sessions.pop(session.task_id, None)
        self._holds.pop(session.task_id, None)

    def _seen(self, task_id: str) -> GuestSession:
        try:
            state = RemoteSession(self._agent, task_id).find()
        except ExtensionFailure:
            state = None
        return GuestSession(task_id, state.phase.value if state else "")


def _failure(state: SessionState, otherwise: str) -> Failure:
    return state.failure or ExtensionFailure(
        "extension.session-lost",
        otherwise,
        evidence=[Evidence(fact=f"state {state.phase} without a failure", source="state.json")],
        retryable=True,
    )


def _skips(mounts: tuple[str, ...]) -> list[str]:
    return [word for mount in mounts for word in ("--skip", mount)]


def _version_of(file_name: str) -> str:
    return file_name.removeprefix("quiesce-extension-").removesuffix(".zip")
