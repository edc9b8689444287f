"""Lines of the logs that agents and extensions write, with their times in UTC.

    2026-11-22T23:01:02.123456Z INFO ExtHandler ExtHandler words     waagent 2.2.46 and newer
    2018/03/05 14:31:57.742721 INFO words                            older
    2024-01-14 22:16:48.792020 [Microsoft…VMSnapshotLinux-1.0]words  Azure's backup extension
    2016/12/16 17:18:09 [Microsoft…-1.0]2016-12-16 17:18:09.739891  Info  words
    2026-11-23T02:00:00Z task words                                  ours

Older ones tell no zone: Azure's guests run on UTC, and so they are read. A line that begins with
no time belongs to the one before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_LINE = re.compile(
    r"(?P<year>\d{4})[-/](?P<month>\d\d)[-/](?P<day>\d\d)[T ](?P<time>\d\d:\d\d:\d\d)(?:[.,]\d+)?"
    r"(?P<zone>Z?)\s*(?P<rest>.*)"
)
_LEVEL = re.compile(r"(?P<level>VERBOSE|INFO|WARNING|ERROR|CRITICAL)\s+(?P<words>.*)", re.DOTALL)
_MOST_FOLLOWING = 30
_LONGEST = 4000


@dataclass(frozen=True, slots=True)
class LogLine:
    """`level` is empty where the log has none. `words` holds the lines that follow, too."""

    at: datetime
    level: str
    words: str
    raw: str


def log_lines(text: str) -> Iterator[LogLine]:
    first: re.Match[str] | None = None
    raw: list[str] = []
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            if first is not None and len(raw) < _MOST_FOLLOWING:
                raw.append(line)
            continue
        if first is not None:
            yield from _made(first, raw)
        first, raw = found, [line]
    if first is not None:
        yield from _made(first, raw)


def _made(first: re.Match[str], raw: list[str]) -> Iterator[LogLine]:
    try:
        stamp = f"{first['year']}-{first['month']}-{first['day']}T{first['time']}"
        at = datetime.fromisoformat(stamp).replace(tzinfo=UTC)
    except ValueError:
        return
    words = "\n".join((first["rest"], *raw[1:]))[:_LONGEST]
    level = _LEVEL.match(words)
    if level is not None:
        yield LogLine(at, level["level"], level["words"], "\n".join(raw))
    else:
        yield LogLine(at, "", words, "\n".join(raw))
