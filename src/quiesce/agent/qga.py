"""The QEMU guest agent's commands, typed.

Source of names and fields: qemu-ga-ref (docs/interop of QEMU 7.2). Every answer comes from inside
the guest and is checked before it is believed.
"""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from quiesce.agent.framing import invalid, printable
from quiesce.agent.link import AgentLink, CommandRefused
from quiesce.model.failure import AgentFailure, Evidence, FreezeFailure

WRITE_CHUNK_BYTES = 1 << 20
READ_CHUNK_BYTES = 1 << 20
_FIRST_POLL_SECONDS = 0.005
_LAST_POLL_SECONDS = 0.25
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class AgentInfo:
    version: str
    commands: frozenset[str]
    """Names of the commands that the agent knows and has enabled."""
    disabled: frozenset[str]
    """Names of the commands that it knows and has disabled, by configuration or while frozen."""


@dataclass(frozen=True, slots=True)
class OperatingSystem:
    """Empty strings for what the guest does not say."""

    id: str
    name: str
    version: str
    kernel: str
    machine: str


@dataclass(frozen=True, slots=True)
class ExecResult:
    """A program that has ended: by `exit_code`, or by `signal` when that is not None."""

    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    truncated: bool

    @property
    def succeeded(self) -> bool:
        return self.exit_code == 0

    def evidence(self, program: str) -> Evidence:
        """How it ended, with its own words."""
        end = f"signal {self.signal}" if self.signal is not None else f"status {self.exit_code}"
        words = (self.stderr or self.stdout).decode("utf-8", "backslashreplace")
        return Evidence(
            fact=f"{program} ended with {end}", source="guest-exec", raw=printable(words[-4000:])
        )


@dataclass(frozen=True, slots=True)
class FileSystem:
    name: str
    mount: str
    type: str


class FreezeStatus(StrEnum):
    THAWED = "thawed"
    FROZEN = "frozen"


class QemuGuestAgent(AgentLink):
    """One VM's QEMU guest agent. Raises what `AgentLink.call` does, and:

    :raise AgentFailure: agent.extensions-disabled, agent.outdated when a command cannot be had
    :raise FreezeFailure: freeze.busy when the agent itself has frozen the guest and therefore
        refuses most commands
    """

    def call(
        self, command: str, arguments: dict[str, object] | None = None, *, seconds: float = 5.0
    ) -> object:
        try:
            return super().call(command, arguments, seconds=seconds)
        except CommandRefused as refusal:
            if refusal.error_class != "CommandNotFound":
                raise
            raise self._why_unavailable(refusal) from refusal

    def ping(self, *, seconds: float = 3.0) -> None:
        self.call("guest-ping", seconds=seconds)

    def info(self) -> AgentInfo:
        answer = _object(self.call("guest-info"), "guest-info")
        listed = _field(answer, "supported_commands", list, "guest-info")
        known = [_object(entry, "guest-info") for entry in listed]
        enabled = {
            _field(entry, "name", str, "guest-info"): _field(entry, "enabled", bool, "guest-info")
            for entry in known
        }
        return AgentInfo(
            version=printable(_field(answer, "version", str, "guest-info"), 100),
            commands=frozenset(name for name, on in enabled.items() if on),
            disabled=frozenset(name for name, on in enabled.items() if not on),
        )

    def operating_system(self) -> OperatingSystem:
        answer = _object(self.call("guest-get-osinfo"), "guest-get-osinfo")

        def text(key: str) -> str:
            value = answer.get(key, "")
            return printable(value, 200) if isinstance(value, str) else ""

        return OperatingSystem(
            id=text("id"),
            name=text("pretty-name") or text("name"),
            version=text("version-id"),
            kernel=text("kernel-release"),
            machine=text("machine"),
        )

    def execute(
        self,
        path: str,
        arguments: Sequence[str] = (),
        *,
        input: bytes | None = None,  # noqa: A002 - as in subprocess.run
        seconds: float = 30.0,
    ) -> ExecResult:
        """Run a program to its end. The agent keeps at most 16 MiB of each output.

        :raise AgentFailure: agent.exec-timeout when it has not ended after `seconds`; it has been
            sent SIGKILL then, as far as the guest obeys; agent.restarted
        :raise CommandRefused: it could not be started
        """
        deadline = time.monotonic() + seconds
        order: dict[str, object] = {"path": path, "arg": list(arguments), "capture-output": True}
        if input is not None:
            order["input-data"] = base64.b64encode(input).decode()
        started = _object(self.call("guest-exec", order, seconds=seconds), "guest-exec")
        pid = _field(started, "pid", int, "guest-exec")
        pause = _FIRST_POLL_SECONDS
        while True:
            try:
                said = self.call("guest-exec-status", {"pid": pid})
            except CommandRefused as forgotten:
                raise AgentFailure(
                    "agent.restarted",
                    f"The guest agent has forgotten {path}, which it ran: it was started anew.",
                    evidence=forgotten.evidence,
                    retryable=True,
                ) from forgotten
            answer = _object(said, "guest-exec-status")
            if _field(answer, "exited", bool, "guest-exec-status"):
                return _exec_result(answer)
            if time.monotonic() + pause > deadline:
                break
            time.sleep(pause)
            pause = min(pause * 1.5, _LAST_POLL_SECONDS)
        with contextlib.suppress(AgentFailure):
            self.call("guest-exec", {"path": "kill", "arg": ["-KILL", str(pid)]})
        raise AgentFailure(
            "agent.exec-timeout",
            f"{path} has not ended inside the guest within {seconds:g} s.",
            evidence=[
                Evidence(
                    fact=f"process {pid} still ran after {seconds:g} s",
                    source="guest-exec-status",
                    raw=" ".join([path, *arguments]),
                )
            ],
            retryable=True,
        )

    def open_file(self, path: str, mode: str = "r") -> int:
        """A handle, valid until `close_file` or until the agent ends. `mode` as in C's fopen.

        The agent opens without O_NONBLOCK: a FIFO must be opened "r+", which never waits.
        """
        return _integer(
            self.call("guest-file-open", {"path": path, "mode": mode}), "guest-file-open"
        )

    def close_file(self, handle: int) -> None:
        self.call("guest-file-close", {"handle": handle})

    def read_chunk(
        self, handle: int, count: int = READ_CHUNK_BYTES, *, seconds: float = 30.0
    ) -> tuple[bytes, bool]:
        """At most `count` bytes from where the handle stands, and whether the end was met."""
        name = "guest-file-read"
        answer = _object(self.call(name, {"handle": handle, "count": count}, seconds=seconds), name)
        data = _decoded(_field(answer, "buf-b64", str, name), name)
        if len(data) > count:
            raise invalid(f"holds more than the {count} bytes that were asked for", data[:64])
        return data, _field(answer, "eof", bool, name)

    def write_chunk(self, handle: int, data: bytes, *, seconds: float = 30.0) -> None:
        """Write and flush, so that a reader in the guest sees it now."""
        name = "guest-file-write"
        order: dict[str, object] = {"handle": handle, "buf-b64": base64.b64encode(data).decode()}
        answer = _object(self.call(name, order, seconds=seconds), name)
        written = _field(answer, "count", int, name)
        self.call("guest-file-flush", {"handle": handle})
        if written != len(data):
            raise AgentFailure(
                "agent.write-short",
                f"The guest agent wrote {written} of {len(data)} bytes.",
                evidence=[Evidence(fact="short write", source=name, raw=repr(answer))],
            )

    def file_size(self, path: str) -> int:
        """Size of a file in bytes. :raise CommandRefused: it cannot be opened"""
        handle = self.open_file(path)
        try:
            return self._seek(handle, 0, "end")
        finally:
            self.close_file(handle)

    def read_file(self, path: str, *, limit_bytes: int = 16 << 20) -> bytes:
        """A whole file, or its first `limit_bytes`. :raise CommandRefused: it cannot be opened"""
        handle = self.open_file(path)
        content = bytearray()
        try:
            while len(content) < limit_bytes:
                wanted = min(READ_CHUNK_BYTES, limit_bytes - len(content))
                data, ended = self.read_chunk(handle, wanted)
                content += data
                if ended or not data:
                    break
        finally:
            self.close_file(handle)
        return bytes(content)

    def read_tail(self, path: str, most_bytes: int, mode: str = "r") -> tuple[bytes, int]:
        """The file's last bytes, and its size; 0 for those of /proc, of which it is the first.
        :raise CommandRefused: it cannot be opened"""
        handle = self.open_file(path, mode)
        try:
            size = self._seek(handle, 0, "end")
            self._seek(handle, max(0, size - most_bytes), "set")
            content = bytearray()
            while len(content) < most_bytes:
                data, ended = self.read_chunk(handle, most_bytes - len(content))
                content += data
                if ended or not data:
                    break
        finally:
            self.close_file(handle)
        return bytes(content), size

    def write_file(self, path: str, content: bytes) -> None:
        """Create or replace a file. :raise CommandRefused: it cannot be opened or written"""
        handle = self.open_file(path, "w")
        try:
            for start in range(0, len(content), WRITE_CHUNK_BYTES):
                self.write_chunk(handle, content[start : start + WRITE_CHUNK_BYTES])
        finally:
            self.close_file(handle)

    def set_time(self) -> None:
        """Set the guest's clock to the host's, after it stood still."""
        self.call("guest-set-time", {"time": time.time_ns()}, seconds=10.0)

    def freeze_status(self) -> FreezeStatus:
        """Whether the agent itself holds the guest frozen; it knows of no other freeze."""
        answer = self.call("guest-fsfreeze-status")
        if answer not in ("frozen", "thawed"):
            raise invalid("is no freeze status", repr(answer).encode())
        return FreezeStatus(str(answer))

    def thaw(self) -> int:
        """End the agent's own freeze; number of file systems thawed."""
        return _integer(self.call("guest-fsfreeze-thaw", seconds=30.0), "guest-fsfreeze-thaw")

    def file_systems(self) -> tuple[FileSystem, ...]:
        name = "guest-get-fsinfo"
        answer = self.call(name, seconds=15.0)
        if not isinstance(answer, list):
            raise invalid("is no list of file systems", repr(answer).encode())
        return tuple(
            FileSystem(
                name=printable(_field(entry, "name", str, name)),
                mount=printable(_field(entry, "mountpoint", str, name)),
                type=printable(_field(entry, "type", str, name)),
            )
            for entry in (_object(item, name) for item in answer)
        )

    def _seek(self, handle: int, offset: int, whence: str) -> int:
        name = "guest-file-seek"
        order: dict[str, object] = {"handle": handle, "offset": offset, "whence": whence}
        return _field(_object(self.call(name, order), name), "position", int, name)

    def _why_unavailable(self, refusal: CommandRefused) -> AgentFailure | FreezeFailure:
        evidence = list(refusal.evidence)
        command = refusal.command
        with contextlib.suppress(AgentFailure):
            status = AgentLink.call(self, "guest-fsfreeze-status")
            evidence.append(
                Evidence(
                    fact=f"the agent's own freeze status is {status}",
                    source="guest-fsfreeze-status",
                )
            )
            if status == "frozen" and "freeze" not in command:
                return FreezeFailure(
                    "freeze.busy",
                    "The guest is already frozen through its agent, by another program.",
                    evidence=evidence,
                    retryable=True,
                )
        known: frozenset[str] = frozenset()
        if command != "guest-info":
            with contextlib.suppress(AgentFailure):
                known = self.info().disabled
        if command in known:
            return AgentFailure(
                "agent.extensions-disabled",
                f"The guest agent's configuration forbids {command}.",
                evidence=[
                    *evidence,
                    Evidence(fact=f"{command} is listed as disabled", source="guest-info"),
                ],
            )
        return AgentFailure(
            "agent.outdated",
            f"The guest agent does not know {command}.",
            evidence=[
                *evidence,
                Evidence(fact=f"{command} is not listed", source="guest-info"),
            ],
        )


def _exec_result(answer: dict[str, object]) -> ExecResult:
    name = "guest-exec-status"

    def output(key: str) -> bytes:
        return _decoded(_field(answer, key, str, name), name) if key in answer else b""

    return ExecResult(
        exit_code=_field(answer, "exitcode", int, name) if "exitcode" in answer else None,
        signal=_field(answer, "signal", int, name) if "signal" in answer else None,
        stdout=output("out-data"),
        stderr=output("err-data"),
        truncated=answer.get("out-truncated") is True or answer.get("err-truncated") is True,
    )


def _object(value: object, command: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise invalid(f"to {command} is no object", repr(value).encode())
    return value


def _integer(value: object, command: str) -> int:
    if type(value) is not int:
        raise invalid(f"to {command} is no number", repr(value).encode())
    return value


def _field(answer: dict[str, object], key: str, kind: type[_Value], command: str) -> _Value:
    value = answer.get(key)
    if type(value) is not kind:
        raise invalid(f"to {command} has no {kind.__name__} “{key}”", repr(answer).encode())
    return value


def _decoded(text: str, command: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as inner:
        raise invalid(f"to {command} is no base64", text.encode()) from inner
