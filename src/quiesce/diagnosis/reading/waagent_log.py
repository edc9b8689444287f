"""What /var/log/waagent.log says: versions, where its host is, and the newest trouble that nothing
since has made good."""

from __future__ import annotations

import re
from collections.abc import Iterator

from quiesce.diagnosis.reading.configuration import extensions_enabled
from quiesce.diagnosis.reading.log_lines import LogLine, log_lines
from quiesce.diagnosis.reading.observed import age_seconds, observed, text_paper
from quiesce.diagnosis.reading.waagent_troubles import TROUBLES, Trouble, tells
from quiesce.model.diagnosis import Fact
from quiesce.model.papers import Paper, Papers

PATH = "/var/log/waagent.log"
OLDEST_THAT_WORKS = (2, 2, 53)

_OF_INTEREST = re.compile(r"Quiesce\.VmBackup|VMSnapshot")
"""Other extensions' troubles are none of a backup's."""
_HANDLER = re.compile(r"\[([A-Za-z0-9_.]+)-\d[\d.]*\]|name=([A-Za-z0-9_.]+), op=")
_VERSION = re.compile(
    r"Azure Linux Agent Version: ?([\d.]+\d)|Agent WALinuxAgent-([\d.]+\d) is running as the goal"
    r"|Goal State Agent version ([\d.]+\d)"
)
_ENDPOINT = re.compile(
    r"Wire ?server endpoint:? ?(\d[\d.]+)|WireServer endpoint (\d[\d.]+) read from file"
    r"|Using hardcoded Wireserver endpoint (\d[\d.]+)|endpoint found \[(\d[\d.]+)\]",
    re.IGNORECASE,
)


def waagent_log_facts(papers: Papers) -> Iterator[Fact]:
    paper = text_paper(papers, PATH)
    if paper is None or not paper.text.strip():
        return
    lines = list(log_lines(paper.text))
    if not lines:
        return
    yield from _version(papers, paper, lines)
    yield from _endpoint(papers, paper, lines)
    age = age_seconds(papers, lines[-1].at)
    if age is not None:
        words = f"The agent wrote to its log {age:.0f} s before."
        name = "waagent.log-age-seconds"
        yield observed(papers, paper, name, age, words, raw=lines[-1].raw)
    yield _says(papers, paper, lines)


def _version(papers: Papers, paper: Paper, lines: list[LogLine]) -> Iterator[Fact]:
    for line in reversed(lines):
        if found := _VERSION.search(line.words):
            version = next(filter(None, found.groups()))
            words = f"The Azure Linux agent is version {version}."
            yield observed(
                papers, paper, "waagent.version", version, words, raw=line.raw, at=line.at
            )
            numbers = tuple(int(part) for part in re.findall(r"[0-9]{1,9}", version))
            old = numbers[:3] < OLDEST_THAT_WORKS
            needed = ".".join(map(str, OLDEST_THAT_WORKS))
            words = (
                f"The Azure Linux agent is {'older than' if old else 'not older than'} {needed}."
            )
            yield observed(papers, paper, "waagent.outdated", old, words, raw=line.raw, at=line.at)
            return


def _endpoint(papers: Papers, paper: Paper, lines: list[LogLine]) -> Iterator[Fact]:
    for line in reversed(lines):
        if found := _ENDPOINT.search(line.words):
            address = next(filter(None, found.groups()))
            words = f"The agent takes {address} for its host."
            yield observed(
                papers, paper, "net.host-address", address, words, raw=line.raw, at=line.at
            )
            return


def _says(papers: Papers, paper: Paper, lines: list[LogLine]) -> Fact:
    """The newest trouble; one that something later shows to be over does not count."""
    standing: dict[str, tuple[Trouble, LogLine]] = {}
    concerns_us = True
    enabled = extensions_enabled(papers)
    for line in lines:
        if handler := _HANDLER.search(line.words):
            concerns_us = bool(_OF_INTEREST.search(handler[1] or handler[2]))
        for says, (trouble, _) in list(standing.items()):
            if trouble.ended_by.search(line.words) and (concerns_us or not trouble.of_extension):
                del standing[says]
        for trouble in TROUBLES:
            if trouble.says == "extensions-disabled" and enabled:
                continue  # they were, and somebody has mended that since
            if tells(line, trouble) and (concerns_us or not trouble.of_extension):
                if trouble.says != "crash" or not _follows(line, standing):
                    _, before = standing.pop(trouble.says, (trouble, line))
                    standing[trouble.says] = (trouble, _more_telling(before, line))
                break
    if not standing:
        words = "The agent's log names no trouble that lasts."
        return observed(papers, paper, "waagent.says", "nothing", words, raw=lines[-1].raw)
    trouble, line = list(standing.values())[-1]
    return observed(
        papers, paper, "waagent.says", trouble.says, trouble.words, raw=line.raw, at=line.at
    )


def _more_telling(before: LogLine, now: LogLine) -> LogLine:
    """The newer one; but what a request failed with goes before what came of it."""
    failed = "[HTTP Failed]"
    return before if failed in before.words and failed not in now.words else now


def _follows(line: LogLine, standing: dict[str, tuple[Trouble, LogLine]]) -> bool:
    """Whether a crash is only what another trouble did to the agent, a moment before."""
    others = (before for says, (_, before) in standing.items() if says != "crash")
    return any((line.at - before.at).total_seconds() <= _A_MOMENT_SECONDS for before in others)


_A_MOMENT_SECONDS = 2.0
