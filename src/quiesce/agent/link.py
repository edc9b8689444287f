"""Calls to a QEMU guest agent: in step with it, each with a deadline, each error kept whole."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from quiesce.agent import framing
from quiesce.agent.channel import Channel, busy, somebody_waits_at
from quiesce.model.failure import AgentFailure, Evidence

SYNC_SECONDS = 3.5
"""How long the agent may take to show that it is there. It answers in milliseconds when idle."""
_PORT_LOOKS_SECONDS = (0.25, 0.55)
"""After how long without an answer it is asked whether the guest has the port open. Twice, since
an agent that is being restarted has it closed for a moment."""


class CommandRefused(AgentFailure):
    """The agent answered with an error. `error_class` and `description` are its own words."""

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(
            "agent.command-failed",
            f"The guest agent refused {command}: {description}",
            evidence=[
                Evidence(
                    fact=f"{command} answered with an error of class {error_class}",
                    source="guest agent",
                    raw=description,
                )
            ],
        )
        self.command = command
        self.error_class = error_class
        self.description = description


class AgentLink:
    """One agent, reached at `path`. Thread-safe: calls of several threads take turns.

    Connects at the first call and stays connected until `disconnect`, since QEMU admits one
    client and every reconnect costs the agent up to 0.1 s. After a time-out, a broken answer or
    a lost connection the next call gets in step again by itself.

    `frontend_open` may say whether the guest has the port open (QMP `query-chardev`). When it does
    not, no answer is waited for; and it is evidence when none comes.
    """

    def __init__(
        self, path: Path, *, frontend_open: Callable[[], bool | None] | None = None
    ) -> None:
        self.path = path
        self._frontend_open = frontend_open
        self._lock = threading.RLock()
        self._channel: Channel | None = None
        self._frames = framing.Frames()
        self._in_step = False

    def call(
        self, command: str, arguments: dict[str, object] | None = None, *, seconds: float = 5.0
    ) -> object:
        """What the agent returns for `command`, within `seconds`.

        :raise CommandRefused: the agent answered with an error
        :raise AgentFailure: agent.channel-missing, .channel-denied, .channel-busy, .channel-lost,
            .not-running, .hung, .answer-invalid, .answer-too-long
        """
        deadline = time.monotonic() + seconds
        with self._lock:
            self._get_in_step(deadline)
            reply = self._exchange(command, arguments, deadline, seconds)
        if "error" in reply:
            raise _refusal(command, reply["error"])
        return reply["return"]

    def sync(self, *, seconds: float = SYNC_SECONDS) -> None:
        """Prove that the agent answers now. Raises as `call` does."""
        with self._lock:
            self._in_step = False
            self._get_in_step(time.monotonic() + seconds)

    def disconnect(self) -> None:
        """Let other programs use the channel. The next call connects again."""
        with self._lock:
            if self._channel is not None:
                self._channel.close()
            self._channel = None
            self._in_step = False

    def _get_in_step(self, deadline: float) -> None:
        deadline = min(deadline, time.monotonic() + SYNC_SECONDS)
        if self._channel is not None:
            arrived = self._channel.peek()
            if arrived == b"":
                self.disconnect()
            elif arrived or self._frames.pending:
                self._in_step = False  # bytes that nobody asked for: a confused agent
        if self._channel is None:
            self._channel = Channel(self.path, deadline)
            self._frames = framing.Frames()
            self._in_step = False
        if self._in_step:
            return
        token = secrets.randbits(62)
        wire = framing.SENTINEL + framing.request("guest-sync-delimited", {"id": token})
        self._frames.forget()
        try:
            self._channel.send(wire, deadline)
            self._await_token(self._channel, token, deadline)
        except TimeoutError as inner:
            raise self._unanswered(self._channel) from inner
        except OSError as inner:
            self.disconnect()
            raise _lost(self.path, inner) from inner
        self._in_step = True

    def _await_token(self, channel: Channel, token: int, deadline: float) -> None:
        """:raise TimeoutError: at the deadline, or earlier when the port was seen closed twice"""
        began = time.monotonic()
        looks = [began + after for after in _PORT_LOOKS_SECONDS] if self._frontend_open else []
        while not self._answered(token):
            try:
                self._frames.feed(channel.receive(min([deadline, *looks])))
            except TimeoutError:
                if not looks or time.monotonic() >= deadline:
                    raise
                looks.pop(0)
                if self._frontend_open is None or self._frontend_open() is not False:
                    looks.clear()
                elif not looks:
                    raise

    def _answered(self, token: int) -> bool:
        """Whether the sync with this token is among what arrived; anything before it is left
        over from earlier calls, whole or broken."""
        while (frame := self._frames.next()) is not None:
            with contextlib.suppress(AgentFailure):
                if framing.answer(frame).get("return") == token:
                    return True
        return False

    def _exchange(
        self, command: str, arguments: dict[str, object] | None, deadline: float, seconds: float
    ) -> dict[str, object]:
        channel = self._channel
        assert channel is not None, "in step means connected"
        self._in_step = False
        try:
            channel.send(framing.request(command, arguments), deadline)
            while (frame := self._frames.next()) is None:
                self._frames.feed(channel.receive(deadline))
            reply = framing.answer(frame)
        except TimeoutError as inner:
            raise AgentFailure(
                "agent.hung",
                f"The guest agent did not answer {command} within {seconds:g} s.",
                evidence=[
                    Evidence(fact="the agent answered a sync before this call", source="quiesce"),
                    Evidence(fact=f"{command} unanswered after {seconds:g} s", source="quiesce"),
                ],
                retryable=True,
            ) from inner
        except AgentFailure:
            self.disconnect()  # whatever still comes belongs to a broken answer
            raise
        except OSError as inner:
            self.disconnect()
            raise _lost(self.path, inner) from inner
        self._in_step = True
        return reply

    def _unanswered(self, channel: Channel) -> AgentFailure:
        unread = channel.unread_bytes()
        waiting = unread > 0 and somebody_waits_at(self.path)
        port_open = self._frontend_open() if self._frontend_open else None
        evidence = [
            Evidence(
                fact="guest-sync-delimited was not answered",
                source=str(self.path),
            ),
            Evidence(
                fact="QEMU has not accepted the connection"
                if waiting
                else "QEMU has accepted the connection",
                source="/proc/net/unix",
            ),
            Evidence(
                fact=f"QEMU has left {unread} bytes unread"
                if unread
                else "QEMU has taken all bytes for the guest",
                source="SIOCOUTQ",
            ),
        ]
        if port_open is not None:
            evidence.append(
                Evidence(
                    fact=f"the guest has {'opened' if port_open else 'not opened'} the port",
                    source="QMP query-chardev frontend-open",
                )
            )
        if waiting:
            failure = busy(self.path, "QEMU has not accepted the connection")
            failure.evidence = tuple(evidence)
            self.disconnect()
            return failure
        if port_open or (port_open is None and not unread):
            return AgentFailure(
                "agent.hung",
                "The guest agent has its port open and does not answer.",
                evidence=evidence,
                retryable=True,
            )
        # Dropping the connection also drops the unread request, which nobody will answer.
        self.disconnect()
        return AgentFailure(
            "agent.not-running",
            "No guest agent runs in the VM: nothing in it has opened the agent's port.",
            evidence=evidence,
            retryable=True,
        )


def _refusal(command: str, error: object) -> AgentFailure:
    if not isinstance(error, dict):
        return framing.invalid("has an error that is no object", repr(error).encode())
    return CommandRefused(
        command,
        framing.printable(str(error.get("class", "GenericError"))),
        framing.printable(str(error.get("desc", ""))),
    )


def _lost(path: Path, inner: OSError) -> AgentFailure:
    return AgentFailure(
        "agent.channel-lost",
        "The connection to the guest agent's channel broke: the VM went away or was reset.",
        evidence=[Evidence(fact="connection broken", source=str(path), raw=str(inner))],
        retryable=True,
    )
