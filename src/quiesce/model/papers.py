"""Files and command outputs of a guest, as they were found: the one form in which a guest's inside
reaches the diagnosis, whether through an agent, from a log bundle or from this very machine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

COMMAND = "command:"
"""Prefix of the `path` of a paper that is a command's output, followed by the command's name
(docs/explanation/diagnosis.md lists them)."""


@dataclass(frozen=True, slots=True)
class Paper:
    """One file, or what one command printed. `text` is made of printable characters, tabs and line
    ends only; `cut` when it is only the end of a longer one. `size_bytes` is the whole file's.
    `mode` are the permission bits, `owner` the uid, None when unknown. `status` is a command's exit
    status; `problem` why there is no text (the operating system's words)."""

    path: str
    text: str = ""
    size_bytes: int = 0
    modified_at: datetime | None = None
    mode: int | None = None
    owner: int | None = None
    cut: bool = False
    status: int | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Papers:
    """`source` says where they are from, for people: "the guest, through qga", a file's name.
    `taken_at` (UTC) is the instant of the collection, which is now unless they are from a bundle
    (None: not known); `host_clock_at` is when the guest's `taken_at` was received, by our clock."""

    papers: tuple[Paper, ...]
    source: str
    taken_at: datetime | None = None
    host_clock_at: datetime | None = None
    warnings: tuple[str, ...] = ()
    """What was left out of a hostile or damaged bundle, and why."""

    def get(self, path: str) -> Paper | None:
        return next((paper for paper in self.papers if paper.path == path), None)

    def command(self, name: str) -> Paper | None:
        return self.get(COMMAND + name)

    def under(self, *prefixes: str) -> tuple[Paper, ...]:
        return tuple(paper for paper in self.papers if paper.path.startswith(prefixes))
