"""The agent behind a socket of a guest, and programs that it runs there."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from quiesce.agent.qga import QemuGuestAgent
from quiesce.model.failure import LabFailure

_SHOWN_CHARS = 400


@contextmanager
def agent_at(socket: Path) -> Iterator[QemuGuestAgent]:
    """The agent, whose channel is free for others afterwards. Raises as its calls do."""
    agent = QemuGuestAgent(socket)
    try:
        yield agent
    finally:
        agent.disconnect()


def output_of(socket: Path, command: str | Sequence[str], *, seconds: float) -> str:
    """Run a program (a string: by sh) in the guest and return its standard output.

    Raises LabFailure `lab.command-failed` with both outputs when it ends otherwise than 0, and
    AgentFailure when the agent does not answer.
    """
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    with agent_at(socket) as agent:
        result = agent.execute(argv[0], argv[1:], seconds=seconds)
    if not result.succeeded:
        raise LabFailure(
            "lab.command-failed",
            f"A command in the guest failed: {shlex.join(argv)[:_SHOWN_CHARS]}",
            evidence=[result.evidence(argv[0])],
        )
    return result.stdout.decode(errors="replace")
