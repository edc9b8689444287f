"""One command as a process of its own: how long, how much processor time, how much memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
MANY_FILES = 1000
_CTIME_LATE_SECONDS = 0.1
"""A file's time of change is that of the kernel's last tick."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a command with all processes it waited for. `peak_bytes` is of the largest of them.
    `said` is what it printed."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    said: str = ""


class CommandError(Exception):
    """A tool ended with a failure; says what it said."""


def measure(
    command: Iterable[str | Path],
    *,
    results: Iterable[Path] = (),
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> Cost:
    """Run it, and end when what it changed at and below `results` is on stable storage.

    :raise CommandError: with what it said
    """
    words = [str(word) for word in command]
    changes_from = time.time() - _CTIME_LATE_SECONDS
    reading, writing = os.pipe()
    with open(reading, "rb") as figures:
        done = subprocess.run(
            [sys.executable, "-I", "-S", HERE / "one_process.py", str(writing), *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=os.environ | (env or {}), cwd=cwd, pass_fds=[writing], check=False,
        )  # fmt: skip
        os.close(writing)
        code, *told = figures.read().split() or [b"?"]
    said = done.stdout.decode(errors="replace")
    if code != b"0":
        raise CommandError(f"{' '.join(words)} ended with {code!r}: {said[-2000:]}")
    seconds, cpu_seconds, peak_kib = map(float, told)
    began = time.perf_counter()
    make_durable([path for path in files_at(results) if path.stat().st_ctime >= changes_from])
    seconds += time.perf_counter() - began
    return Cost(seconds, cpu_seconds, int(peak_kib) * 1024, said)


def files_at(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        if path.is_dir():
            yield from (found for found in path.rglob("*") if found.is_file())
        elif path.exists():
            yield path


def make_durable(paths: Sequence[Path]) -> None:
    """File by file, so that what others write is not waited for; many, by one call for all."""
    if len(paths) > MANY_FILES:
        descriptor = os.open(paths[0], os.O_RDONLY)
        ctypes.CDLL(None).syncfs(descriptor)
        os.close(descriptor)
        return
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def evict(paths: Iterable[Path]) -> None:
    """Take these files, and those below, out of the page cache, whoever brought them in. Needs no
    rights and hurts no other work on the machine, unlike dropping all caches."""
    found = list(files_at(paths))
    make_durable(found)  # what is not written yet would stay
    for path in found:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def occupied(path: Path) -> int:
    """Bytes of the file, or of all files below the folder."""
    return sum(found.stat().st_size for found in files_at([path]))
