"""How readers make facts: a paper, its words, and when that was true."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from quiesce.model.diagnosis import Fact, FactValue
from quiesce.model.papers import COMMAND, Paper, Papers

_LONGEST_RAW = 1000
_SECRETS = (
    (re.compile(r"([?&;]sig=)[^&\s\"'<>]+"), r"\1***"),
    (re.compile(r"(://[^/@:\s\"]*):[^/@\s\"]+@"), r"\1:***@"),
)


def observed(
    papers: Papers,
    paper: Paper,
    name: str,
    value: FactValue,
    words: str,
    *,
    raw: str = "",
    at: datetime | None = None,
) -> Fact:
    """A fact that `paper` shows. `at` is the time of the very line; without, it is that of the
    collection, by our clock if it is known, since the guest's may be wrong; in a bundle that does
    not tell it, when the file was last written."""
    collected = papers.host_clock_at or papers.taken_at
    when = at or collected or paper.modified_at or datetime.now(UTC)
    return Fact(name, value, words, place(paper), when, shown(raw))


def place(paper: Paper) -> str:
    """Where that was seen, for people: a path, or the command."""
    if paper.path.startswith(COMMAND):
        return f"collected command “{paper.path.removeprefix(COMMAND)}”"
    return paper.path


def shown(raw: str) -> str:
    """The words themselves without what must not be shown, at most 1000 characters."""
    raw = raw[: 4 * _LONGEST_RAW]
    for pattern, to in _SECRETS:
        raw = pattern.sub(to, raw)
    raw = raw.strip()
    return raw if len(raw) <= _LONGEST_RAW else raw[:_LONGEST_RAW] + " …"


def age_seconds(papers: Papers, at: datetime | None) -> float | None:
    """How old something was when the papers were taken; None when either is not known, or when it
    lies ahead by more than a clock's jitter."""
    if papers.taken_at is None or at is None:
        return None
    age = (papers.taken_at - at).total_seconds()
    return max(age, 0.0) if age > -60 else None


def text_paper(papers: Papers, path: str) -> Paper | None:
    """The paper, when its text could be had."""
    paper = papers.get(path)
    return paper if paper is not None and not paper.problem else None


def assignments(text: str) -> dict[str, tuple[str, str]]:
    """`KEY=VALUE` lines: KEY → (VALUE without quotes, the line). Comments begin with `#`; the last
    of two counts."""
    found: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        if separator and not key.startswith("#"):
            key = key.strip().removeprefix("export ").strip()
            found[key] = (value.strip().strip("\"'"), line)
    return found
