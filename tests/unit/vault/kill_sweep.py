"""A vault in a folder, whose process is killed for real: for every system call by which the work
changes the folder a process is forked, and ended there with SIGKILL: before the call, and halfway
through a write."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

from dated_store import DatedStore
from small_vault import small_packs, small_scene
from store_sweep import Covered, History, LostError, Work, finish, run_again
from vault_scene import FakeClock, Scene

from quiesce.model.failure import Failure
from quiesce.vault import LocalStore

CHANGING = ("open", "write", "fsync", "link", "unlink", "replace", "mkdir", "posix_fallocate")
_KEPT = {"quiesce-store", "reserve", "format"}


@dataclass(frozen=True)
class Start:
    folder: Path
    now: datetime
    history: History


def prepared(work: Work, folder: Path) -> Start:
    clock, history = FakeClock(), History()
    work.prepare(small_scene(DatedStore(LocalStore.create(folder), clock), clock), history)
    return Start(folder, clock.now, history)


def clock_of(start: Start) -> FakeClock:
    clock = FakeClock()
    clock.now = start.now
    return clock


def copied(start: Start, to: Path) -> Path:
    def link(source: str, target: str) -> None:
        os.link(source, target)  # objects never change

    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(start.folder, to, copy_function=link, ignore=shutil.ignore_patterns("reserve"))
    return to


def check(work: Work, start: Start, folder: Path, *, returned: bool) -> None:
    """What another process finds there; `returned`: the work had said that it is done."""
    clock = clock_of(start)
    scene = Scene.at(DatedStore(LocalStore(folder), clock), clock)
    past = start.history
    history = History(past.disks, set(past.sure), set(past.hurt))
    history.sure = (history.sure | (work.jobs if returned else set())) - work.gone
    history.check(scene.reopened())
    run_again(work, scene)
    finish(work, scene, history)
    strays = [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name not in _KEPT
        if path.parent.name in ("tmp", "sessions", "garbage", "deleted") or path.parent == folder
    ]
    if strays:
        raise AssertionError(f"left over: {strays}")


class _Count:
    """Counts system calls; the one with the number `fatal` is never made. `halfway`: counts writes
    alone, and of the fatal one half is written."""

    def __init__(self, fatal: int, *, halfway: bool) -> None:
        self.seen = 0
        self._fatal = fatal
        self._halfway = halfway
        self._lock = threading.Lock()

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name in CHANGING:
                stack.enter_context(mock.patch.object(os, name, self._wrapped(name)))
            yield

    def _wrapped(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **named: Any) -> Any:
            if name == "write" or (not self._halfway and (name != "open" or args[1] & os.O_CREAT)):
                with self._lock:
                    self.seen += 1
                    dies = self.seen == self._fatal
                if dies:
                    if self._halfway:
                        real(args[0], memoryview(args[1])[: len(args[1]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **named)

        return call


def _in_a_process(work: Callable[[], None]) -> int:
    """Its status: 0, or what `os.waitpid` says of the signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def kill_sweep(work: Work, parent: Path) -> Covered:
    """SIGKILL before every system call that changes the folder, and halfway through every write."""
    with small_packs():
        start = prepared(work, parent / "start")
        covered = Covered(work.name, 0, 0)
        for halfway in (False, True):
            fatal = 0
            while True:
                fatal += 1
                folder = copied(start, parent / "victim")
                clock = clock_of(start)
                count = _Count(fatal, halfway=halfway)

                def run(folder: Path = folder, clock: FakeClock = clock) -> None:
                    scene = Scene.at(DatedStore(LocalStore(folder), clock), clock)
                    with count.watching():  # noqa: B023 - called within this round
                        work.run(scene)

                status = _in_a_process(run)
                if status == 0:
                    break
                assert os.WIFSIGNALED(status), f"{work.name} failed in its process: {status}"
                assert os.WTERMSIG(status) == signal.SIGKILL
                covered.points += 1
                covered.outcomes["killed halfway" if halfway else "killed"] += 1
                try:
                    check(work, start, folder, returned=False)
                except (LostError, Failure, AssertionError) as loss:
                    covered.losses.append(f"{work.name}, call {fatal}: {loss}")
            covered.calls = covered.changes = max(covered.calls, fatal - 1)
        return covered
