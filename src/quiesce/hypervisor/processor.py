"""The processor time that a QEMU process takes, as /proc shows it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

_PAUSE_SECONDS = 0.5


def percent(
    process: Path,
    processors: int,
    *,
    seconds: float = _PAUSE_SECONDS,
    pause: Callable[[float], object] = threading.Event().wait,
) -> float | None:
    """What the process takes of the time of `processors`, over that many seconds from now, 0 to
    100. `process` is its folder in /proc. None when it may not be looked at, or has ended."""
    try:
        before = _ticks(process)
        pause(seconds)
        ticks = _ticks(process) - before
    except (OSError, ValueError, IndexError):  # ended, another user's, another PID name space
        return None
    used = ticks / os.sysconf("SC_CLK_TCK") / seconds / max(1, processors)
    return min(100.0, max(0.0, 100.0 * used))


def _ticks(process: Path) -> int:
    """utime and stime of all its threads: fields 14 and 15 of /proc/<pid>/stat, proc(5). The name,
    field 2, may hold anything, brackets too."""
    fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
