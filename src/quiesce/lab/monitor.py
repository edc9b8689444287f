"""The lab's own QMP connection, one short conversation at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

from qemu.qmp import QMPClient
from qemu.qmp.error import QMPError
from qemu.qmp.protocol import ConnectError

from quiesce.model.failure import Evidence, LabFailure


def qmp(
    socket: Path,
    command: str,
    arguments: Mapping[str, object] | None = None,
    *,
    timeout_seconds: float = 30.0,
) -> object:
    """Execute one command at `socket` and return its answer.

    Raises LabFailure `lab.monitor-gone` when nobody answers at the socket and
    `lab.monitor-refused` when QEMU answers with an error.
    """
    try:
        return asyncio.run(
            asyncio.wait_for(_execute(socket, command, dict(arguments or {})), timeout_seconds)
        )
    except (ConnectError, EOFError, OSError, TimeoutError) as inner:
        raise LabFailure(
            "lab.monitor-gone",
            f"No QEMU answers at {socket}.",
            evidence=[Evidence(fact="QMP connection failed", source=str(socket), raw=repr(inner))],
        ) from inner
    except QMPError as inner:
        raise LabFailure(
            "lab.monitor-refused",
            f"QEMU refused {command}.",
            evidence=[Evidence(fact="QMP error", source=command, raw=str(inner))],
        ) from inner


async def _execute(socket: Path, command: str, arguments: dict[str, object]) -> object:
    client = QMPClient("lab")
    await client.connect(str(socket))
    try:
        return await client.execute(command, arguments)
    finally:
        with contextlib.suppress(EOFError):  # QEMU may hang up first, as it does after `quit`
            await client.disconnect()
