"""One session of the extension, spoken with through its two files in the guest.

Nothing here starts a process in the guest: while it is frozen, files on tmpfs are all that is
sure to work. Contract: docs/explanation/guest-extension.md.
"""

from __future__ import annotations

import contextlib
import posixpath
import time
from collections.abc import Callable

from quiesce.agent.installation import RUN_FOLDER
from quiesce.agent.link import CommandRefused
from quiesce.agent.qga import QemuGuestAgent
from quiesce.agent.session_state import SessionState, session_state
from quiesce.model.failure import AgentFailure, Evidence, ExtensionFailure

_FIRST_POLL_SECONDS = 0.005
_LAST_POLL_SECONDS = 0.5
"""The agent logs every file it opens and closes, and waits once the journal takes no more. With a
persistent journal on a frozen file system it stopped after 90 looks (Debian 12), so looks grow
rare quickly: some 30 in a hold of 10 s."""
_CALL_SECONDS = 5.0
"""An agent that takes longer for a few bytes must be given up before the hold is over."""
_STATE_LIMIT_BYTES = 4 << 20
_STATE_SECONDS = 10.0
"""For a whole state, which an honest agent hands over in one or two answers."""
_BIRTH_SECONDS = 10.0
"""From the start of a session to its first state; in an emulated guest some 0.1 s."""


class RemoteSession:
    """The files of session `task_id`. Raises what `QemuGuestAgent` does. Not thread-safe."""

    def __init__(self, agent: QemuGuestAgent, task_id: str) -> None:
        self._agent = agent
        self.task_id = task_id
        self._folder = posixpath.join(RUN_FOLDER, task_id)
        self._control: int | None = None

    def find(self) -> SessionState | None:
        """Its state, or None when the guest has no such session.

        :raise ExtensionFailure: extension.output-invalid, extension.stuck
        """
        deadline = time.monotonic() + _STATE_SECONDS
        try:
            handle = self._agent.open_file(posixpath.join(self._folder, "state.json"))
        except CommandRefused:
            return None
        try:
            content, ended = self._agent.read_chunk(handle, seconds=_CALL_SECONDS)
            while not ended and len(content) < _STATE_LIMIT_BYTES:
                if time.monotonic() > deadline:
                    raise self._drips(len(content))
                more, ended = self._agent.read_chunk(handle, seconds=_CALL_SECONDS)
                content += more
                ended = ended or not more
        finally:
            self._agent.close_file(handle)
        return session_state(content)

    def state(self) -> SessionState:
        """:raise ExtensionFailure: extension.session-lost, extension.output-invalid"""
        state = self.find()
        if state is None:
            raise ExtensionFailure(
                "extension.session-lost",
                f"The guest has no session {self.task_id}: it was reset, or ended by itself.",
                evidence=[Evidence(fact="no state.json", source=self._folder)],
            )
        return state

    def await_birth(self) -> None:
        """The command that starts a session may end before the session's first word.

        :raise ExtensionFailure: extension.session-lost
        """
        deadline = time.monotonic() + _BIRTH_SECONDS
        while self.find() is None:
            if time.monotonic() > deadline:
                self.state()
            time.sleep(_FIRST_POLL_SECONDS)

    def open_control(self) -> None:
        """Done before the freeze, so that ordering the thaw is one write. "r+" never waits for
        a reader, whatever has become of the session.

        :raise ExtensionFailure: extension.session-lost
        """
        if self._control is not None:
            return
        try:
            self._control = self._agent.open_file(posixpath.join(self._folder, "control"), "r+")
        except CommandRefused as refusal:
            raise ExtensionFailure(
                "extension.session-lost",
                f"The guest's session {self.task_id} takes no orders: it has ended.",
                evidence=refusal.evidence,
            ) from refusal

    def order(self, word: str) -> None:
        """Write freeze, thaw, finish or abort. :raise ExtensionFailure: extension.session-lost"""
        line = f"{word}\n".encode()
        if self._control is not None:
            try:
                self._agent.write_chunk(self._control, line, seconds=_CALL_SECONDS)
            except CommandRefused:
                self._control = None  # a handle of an agent that has been restarted since
            else:
                return
        self.open_control()
        assert self._control is not None
        self._agent.write_chunk(self._control, line, seconds=_CALL_SECONDS)

    def close_control(self) -> None:
        handle, self._control = self._control, None
        if handle is not None:
            with contextlib.suppress(AgentFailure):
                self._agent.close_file(handle)

    def wait(
        self,
        reached: Callable[[SessionState], bool],
        *,
        seconds: float,
        first_poll_seconds: float = _FIRST_POLL_SECONDS,
    ) -> SessionState:
        """The first state seen for which `reached` holds.

        :raise ExtensionFailure: extension.stuck at the deadline, extension.session-lost when
            the session's process has died before
        """
        deadline = time.monotonic() + seconds
        pause = first_poll_seconds
        while True:
            time.sleep(pause)
            state = self.state()
            if reached(state):
                return state
            if time.monotonic() >= deadline:
                raise self._stuck(state, seconds)
            if pause >= _LAST_POLL_SECONDS and not self._is_alive(state):
                # Its last words may have been written between the two looks.
                state = self.state()
                if reached(state):
                    return state
                raise self._died(state)
            pause = min(pause * 1.6, _LAST_POLL_SECONDS, max(0.0, deadline - time.monotonic()))

    def _is_alive(self, state: SessionState) -> bool:
        if not state.pid:
            return True
        try:
            self._agent.close_file(self._agent.open_file(f"/proc/{state.pid}/stat"))
        except CommandRefused:
            return False
        return True

    def _drips(self, size_bytes: int) -> ExtensionFailure:
        return ExtensionFailure(
            "extension.stuck",
            f"The guest's agent did not hand over a session's state within {_STATE_SECONDS:g} s.",
            evidence=[
                Evidence(
                    fact=f"{size_bytes} bytes and no end",
                    source=posixpath.join(self._folder, "state.json"),
                )
            ],
            retryable=True,
        )

    def _stuck(self, state: SessionState, seconds: float) -> ExtensionFailure:
        return ExtensionFailure(
            "extension.stuck",
            f"The guest's session stands at “{state.phase}” for more than {seconds:g} s.",
            evidence=[self._seen(state)],
            retryable=True,
        )

    def _died(self, state: SessionState) -> ExtensionFailure:
        return ExtensionFailure(
            "extension.session-lost",
            f"The guest's session died at “{state.phase}”; its watchdog has thawed the guest.",
            evidence=[
                self._seen(state),
                Evidence(fact=f"process {state.pid} is gone", source="/proc in the guest"),
            ],
            retryable=True,
        )

    def _seen(self, state: SessionState) -> Evidence:
        return Evidence(
            fact=f"state {state.phase}, process {state.pid}",
            source=posixpath.join(self._folder, "state.json"),
        )
