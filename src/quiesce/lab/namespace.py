"""A network of its own for the lab: a namespace that no packet leaves.

    /run/quiesce-lab/<name>/   owner   and what its tenants put there

A namespace outlives all processes, so each has an owner: whoever holds the lock on the file
`owner`. The lock goes with the file descriptor, to a QEMU that outlives its starter too; where
nobody holds it any more, the next user of the lab removes what was left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from quiesce.lab.cache import locked
from quiesce.lab.tool import run_tool
from quiesce.model.failure import LabFailure

NAMESPACES = Path("/run/quiesce-lab")


class Namespace:
    """One network namespace, made when constructed. Needs root.

    Raises LabFailure `lab.network-needs-root`, `lab.tool-missing`, `lab.tool-failed`.
    """

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise LabFailure(
                "lab.network-needs-root",
                "A lab network needs root.",
                remedy="Run it as root, or use guests without a network.",
            )
        self.name = f"quiesce-{secrets.token_hex(4)}"
        self.folder = NAMESPACES / self.name
        with _registry():
            self.folder.mkdir()
            self._owner = (self.folder / "owner").open("ab")
            fcntl.flock(self._owner, fcntl.LOCK_EX)
        try:
            run_tool(["ip", "netns", "add", self.name])
            self.run(["ip", "link", "set", "lo", "up"])
            self.run(["sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1"])
            self.run(["sysctl", "-q", "-w", "net.ipv6.conf.default.disable_ipv6=1"])
        except BaseException:
            self.remove()
            raise

    @property
    def owner(self) -> int:
        """The file descriptor that keeps the namespace; a child that gets it keeps it too."""
        return self._owner.fileno()

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` with this network and everything else unchanged."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *argv]

    def run(self, argv: Sequence[str], *, seconds: float = 60.0, stdin: str = "") -> str:
        """Run a program in the namespace to its end and return its standard output.

        Raises LabFailure `lab.tool-missing`, `lab.tool-failed`.
        """
        return run_tool(self.enter(argv), timeout_seconds=seconds, stdin=stdin)

    def remove(self) -> None:
        """End what still runs in it and remove it. Idempotent."""
        if not self._owner.closed:
            _remove(self.folder)
            self._owner.close()


def remove_leftovers() -> tuple[str, ...]:
    """Remove the namespaces whose owners are dead, and what runs in them. Returns their names.

    None by others than root, who has made none.
    """
    removed: list[str] = []
    if os.geteuid() != 0:
        return ()
    with _registry():
        for folder in sorted(NAMESPACES.glob("quiesce-*")):
            with (folder / "owner").open("ab") as owner:
                if _takes(owner):
                    _remove(folder)
                    removed.append(folder.name)
    return tuple(removed)


@contextlib.contextmanager
def _registry() -> Iterator[None]:
    """Without it a namespace could be taken for a leftover before its owner has the lock."""
    NAMESPACES.mkdir(mode=0o755, exist_ok=True)
    with locked(NAMESPACES / ".lock"):
        yield


def _takes(owner: BinaryIO) -> bool:
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(folder: Path) -> None:
    if Path("/run/netns", folder.name).exists():
        for pid in run_tool(["ip", "netns", "pids", folder.name]).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        run_tool(["ip", "netns", "delete", folder.name])
    shutil.rmtree(folder)
