"""A vault in a folder whose machine loses power at any moment.

The system calls by which the work changes the folder are written down once. From every beginning
of them those folders are made that a file system may show after a power cut: what was synced is
there; of the rest, file contents and names alike, nothing, everything, or any part.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from dated_store import DatedStore
from kill_sweep import Start, check, clock_of, copied, prepared
from small_vault import small_packs
from store_sweep import Covered, LostError, Work
from vault_scene import Scene

from quiesce.model.failure import Failure
from quiesce.vault import LocalStore

PARTS = 3
"""How many folders that show a part of what was not synced are looked at, for each beginning."""


@dataclass(frozen=True)
class _Step:
    """One call: `create`, `link`, `unlink`, `write`, `sync` (of a file) or `sync folder`. Files are
    told apart by `file`, since their names come and go."""

    kind: str
    path: str = ""
    file: int = -1
    data: bytes = b""


class _Journal:
    """What a run does to the files below a folder, call by call."""

    def __init__(self, root: Path) -> None:
        self.steps: list[_Step] = []
        self._root = root
        self._named: dict[str, int] = {}
        self._opened: dict[int, tuple[str, int]] = {}
        self._real = {n: getattr(os, n) for n in ("open", "write", "fsync", "link", "unlink")}

    @contextmanager
    def watching(self) -> Iterator[None]:
        wrapped: dict[str, Callable[..., Any]] = {
            "open": self.open,
            "write": self.write,
            "fsync": self.fsync,
            "link": self.link,
            "unlink": self.unlink,
        }
        with ExitStack() as stack:
            for name, call in wrapped.items():
                stack.enter_context(mock.patch.object(os, name, call))
            yield

    def _key(self, path: Any) -> str:
        return str(Path(path).relative_to(self._root)) if path != self._root else "."

    def open(self, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        number: int = self._real["open"](path, flags, *rest, **named)
        try:
            key = self._key(path)
        except ValueError:
            return number
        if flags & os.O_CREAT:
            self._named[key] = len(self.steps)
            self.steps.append(_Step("create", key, len(self.steps)))
        self._opened[number] = key, self._named.get(key, -1)
        return number

    def write(self, number: int, data: Any) -> int:
        done: int = self._real["write"](number, data)
        file = self._opened[number][1]
        self.steps.append(_Step("write", file=file, data=bytes(data[:done])))
        return done

    def fsync(self, number: int) -> None:
        self._real["fsync"](number)
        key, file = self._opened[number]
        self.steps.append(_Step("sync", file=file) if file >= 0 else _Step("sync folder", key))

    def link(self, source: Any, target: Any) -> None:
        self._real["link"](source, target)
        key = self._key(target)
        self._named[key] = self._named[self._key(source)]
        self.steps.append(_Step("link", key, self._named[key]))

    def unlink(self, path: Any, **named: Any) -> None:
        self._real["unlink"](path, **named)
        self._named.pop(self._key(path), None)
        self.steps.append(_Step("unlink", self._key(path)))


Fate = Callable[[], float]
"""From 0, lost, to 1, kept: what becomes of the next thing that was not synced."""


def _after_power_cut(start: Start, steps: list[_Step], fate: Fate, to: Path) -> Path:
    """The folder as it may be when power fails right after these steps."""
    folder = copied(start, to)
    contents: dict[int, bytes] = {}
    for at, step in enumerate(steps):
        if step.kind == "write":
            synced = any(s.kind == "sync" and s.file == step.file for s in steps[at:])
            kept = len(step.data) if synced else int(fate() * len(step.data))
            contents[step.file] = contents.get(step.file, b"") + step.data[:kept]
    for at, step in enumerate(steps):
        if step.kind in ("create", "link", "unlink"):
            place = str(Path(step.path).parent)
            synced = any(s.kind == "sync folder" and s.path == place for s in steps[at:])
            if not synced and fate() < 0.5:
                continue
            (folder / step.path).unlink(missing_ok=True)
            if step.kind != "unlink":
                (folder / step.path).write_bytes(contents.get(step.file, b""))
    return folder


def power_sweep(
    work: Work, parent: Path, *, parts: int = PARTS, only_after_the_end: bool = False
) -> Covered:
    """A power cut after every call: nothing of what was not synced is kept, all, and some."""
    with small_packs():
        start = prepared(work, parent / "start")
        folder = copied(start, parent / "run")
        clock = clock_of(start)
        scene = Scene.at(DatedStore(LocalStore(folder), clock), clock)
        journal = _Journal(folder)
        with journal.watching():
            work.run(scene)
        steps = [step for step in journal.steps if step.path != "reserve"]
        covered = Covered(work.name, len(steps), len(steps))
        dice = random.Random(len(steps))
        for cut in range(len(steps) if only_after_the_end else 0, len(steps) + 1):
            fates: list[tuple[str, Fate]] = [
                ("nothing kept", lambda: 0.0),
                ("all kept", lambda: 1.0),
            ]
            fates += [("a part kept", dice.random)] * parts
            for name, fate in fates:
                covered.points += 1
                covered.outcomes[name] += 1
                victim = _after_power_cut(start, steps[:cut], fate, parent / "victim")
                try:
                    check(work, start, victim, returned=cut == len(steps))
                except (LostError, Failure, AssertionError) as loss:
                    covered.losses.append(f"{work.name}, cut after {cut}, {name}: {loss}")
        return covered
