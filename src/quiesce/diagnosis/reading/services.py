"""Units and processes: are the agents installed, do they run, and how often were they restarted?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from quiesce.diagnosis.reading.observed import observed, text_paper
from quiesce.model.diagnosis import Fact
from quiesce.model.papers import Paper, Papers

_WHOLE_LISTING = 60_000
"""Characters; a longer listing of processes may have lost its beginning."""
_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,6})?")
_WHOLE_JOURNAL = 500
"""Lines; the collector takes the newest 600, and 64 KiB of them."""
_UP_TO = timedelta(hours=1)
_RESTART = re.compile(
    r"^(\S+) \S+ systemd\[1\]: (\S+?)\.service: Scheduled restart job.*", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class _Agent:
    name: str
    units: tuple[str, ...]
    process: re.Pattern[str]
    title: str


_AGENTS = (
    _Agent(
        "waagent",
        ("walinuxagent", "waagent"),
        re.compile(
            r"(?:^|[/ ])waagent (?:-|--)(?:daemon|run-exthandlers|start)"
            r"|WALinuxAgent-[\d.]+.*-run-exthandlers"
        ),
        "Azure Linux agent",
    ),
    _Agent(
        "qga",
        ("qemu-guest-agent", "qemu-ga"),
        re.compile(r"^(?:\S*/)?qemu-ga(?:\s|$)"),
        "QEMU guest agent",
    ),
)
_EXTENSION = re.compile(
    r"^(?:\S*/)?(?:platform-)?python[\d.]*(?: -\S+)* \S*"
    r"(?:/Quiesce\.VmBackup-[\d.]+|/quiesce-extension-[^\s/]+\.zip)(?:[/ ]|$)"
    r"|^(?:(?:\S*/)?(?:da|a|ba)?sh (?:-\w+ )?)?\S*/Quiesce\.VmBackup-[\d.]+/handler\.sh(?: |$)"
)
"""What runs it, and nobody who only reads its files."""
_PROGRAMS = {
    "waagent": re.compile(r"^/\S+/(?:waagent|walinuxagent)$", re.MULTILINE),
    "qga": re.compile(r"^/\S+/qemu-(?:ga|guest-agent)$", re.MULTILINE),
}
_NOT_IN_ETC = re.compile(r"^/(?!etc/)", re.MULTILINE)
_SESSION = re.compile(r" session(?: |$)")
"""The part of the extension that holds the freeze: it outlives the part that gives the orders."""
_NO_SYSTEMD = "not been booted with systemd"


@dataclass(frozen=True, slots=True)
class Process:
    """One line of `ps -eo pid,ppid,stat,etimes,pcpu,rss,args`."""

    pid: int
    state: str
    cpu_percent: float
    rss_kib: int
    command: str
    line: str


def processes(papers: Papers) -> tuple[Process, ...]:
    """None when they were not listed."""
    paper = papers.command("processes")
    return () if paper is None else tuple(_processes(paper))


def _processes(paper: Paper) -> Iterator[Process]:
    for line in paper.text.splitlines():
        fields = line.split(None, 6)
        if len(fields) == 7 and all(map(_NUMBER.fullmatch, (fields[0], fields[4], fields[5]))):
            pid, cpu, rss = int(float(fields[0])), float(fields[4]), int(float(fields[5]))
            yield Process(pid, fields[2][:1], cpu, rss, fields[6], line)


def service_facts(papers: Papers) -> Iterator[Fact]:
    units = _units(papers.command("units"))
    for agent in _AGENTS:
        yield from _unit_facts(papers, agent, units)
        yield from _process_facts(papers, f"{agent.name}.process", agent.process, agent.title)
        yield from _installed(papers, agent, units)
        yield from _restarts(papers, agent, units)
    yield from _process_facts(papers, "extension.process", _EXTENSION, "backup extension")


def _units(paper: Paper | None) -> dict[str, dict[str, str]]:
    """Unit's name without ".service" → its properties; empty where there is no systemd."""
    found: dict[str, dict[str, str]] = {}
    for block in (paper.text if paper else "").split("\n\n"):
        properties = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in properties and "LoadState" in properties:
            found[properties["Id"].removesuffix(".service")] = properties
    return found


def _chosen(agent: _Agent, units: dict[str, dict[str, str]]) -> dict[str, str] | None:
    """The agent's unit: the loaded one, since every distribution has its own name for it."""
    known = [units[name] for name in agent.units if name in units]
    loaded = [each for each in known if each["LoadState"] != "not-found"]
    return next(iter(loaded or known), None)


def _unit_facts(papers: Papers, agent: _Agent, units: dict[str, dict[str, str]]) -> Iterator[Fact]:
    unit = _chosen(agent, units)
    paper = papers.command("units")
    if paper is not None and not units and _is_without_systemd(paper):
        words = f"The {agent.title} has no service of systemd, which does not run here."
        yield observed(papers, paper, f"{agent.name}.unit", "absent", words, raw=paper.text)
    if unit is None or paper is None:
        return
    name = unit["Id"].removesuffix(".service")
    state = "absent" if _is_left_over(papers, agent, unit) else _unit_state(unit)
    words = {
        "absent": f"The {agent.title} has no service.",
        "masked": f"The service {name} is masked.",
        "disabled": f"The service {name} does not run and is not started at boot.",
    }.get(state, f"The service {name} is {state}.")
    raw = "\n".join(
        f"{key}={unit[key]}"
        for key in ("Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "Result")
        if key in unit
    )
    yield observed(papers, paper, f"{agent.name}.unit", state, words, raw=raw)
    if state == "failed" and (result := unit.get("Result", "")):
        words = f"The service {name} ended by {result}."
        yield observed(papers, paper, f"{agent.name}.result", result, words, raw=raw)


def _is_left_over(papers: Papers, agent: _Agent, unit: dict[str, str]) -> bool:
    """The unit is what systemd makes of a script in /etc/init.d, and the program is gone: a package
    that is removed leaves that script, as configuration."""
    programs = papers.command("programs")
    if unit.get("UnitFileState") != "generated" or programs is None:
        return False
    there = [found[0] for found in _PROGRAMS[agent.name].finditer(programs.text)]
    return programs.status in (0, None) and not any(map(_NOT_IN_ETC.match, there))


def _is_without_systemd(paper: Paper) -> bool:
    return paper.status == 127 or (paper.status not in (0, None) and _NO_SYSTEMD in paper.text)


def _unit_state(unit: dict[str, str]) -> str:
    load, active = unit["LoadState"], unit.get("ActiveState", "")
    if load == "masked":
        return "masked"
    if load == "not-found":
        return "absent"
    if active in ("active", "reloading"):
        return "active"
    if active in ("failed", "activating"):
        return active
    return "disabled" if unit.get("UnitFileState") == "disabled" else "inactive"


def _process_facts(
    papers: Papers, name: str, pattern: re.Pattern[str], title: str
) -> Iterator[Fact]:
    paper = papers.command("processes")
    if paper is None or paper.status not in (0, None) or not paper.text.strip():
        return
    found = [
        each for each in _processes(paper) if pattern.search(each.command) and each.state != "Z"
    ]
    if not found:
        if len(paper.text) < _WHOLE_LISTING and "PID" in paper.text[:200]:
            yield observed(papers, paper, name, "absent", f"No process of the {title} runs.")
        return
    if name == "extension.process" and all(
        _SESSION.search(each.command) and each.state not in "TtD" for each in found
    ):
        words = "Of the backup extension only the session runs, and nobody who gives it orders."
        yield observed(papers, paper, name, "absent", words, raw=found[0].line)
        return
    stopped = [each for each in found if each.state in "Tt"]
    # One that waits for a disk at this very moment is no news; all of them are.
    blocked = found if all(each.state == "D" for each in found) else []
    state = "stopped" if stopped else "blocked" if blocked else "running"
    words = {
        "stopped": f"A process of the {title} is stopped (by a signal or a debugger).",
        "blocked": f"The {title} waits in the kernel and cannot be interrupted.",
        "running": f"The {title} runs.",
    }[state]
    lines = "\n".join(each.line for each in (stopped or blocked or found)[:3])
    yield observed(papers, paper, name, state, words, raw=lines)


def _installed(papers: Papers, agent: _Agent, units: dict[str, dict[str, str]]) -> Iterator[Fact]:
    unit, listing = _chosen(agent, units), papers.command("units")
    running = [each for each in processes(papers) if agent.process.search(each.command)]
    shown = papers.command("processes")
    name = f"{agent.name}.installed"
    left_over = unit is not None and _is_left_over(papers, agent, unit)
    if unit is not None and listing is not None and unit["LoadState"] == "loaded" and not left_over:
        words = f"The {agent.title} is installed."
        yield observed(papers, listing, name, True, words, raw=f"Id={unit['Id']}")
    elif running and shown is not None:
        words = f"The {agent.title} is installed: it runs."
        yield observed(papers, shown, name, True, words, raw=running[0].line)
    elif unit is None and (program := _program(papers, agent)):
        where, raw = program
        words = f"The {agent.title} is installed: {raw} is there."
        yield observed(papers, where, name, True, words, raw=raw)
    elif unit is None and (programs := papers.command("programs")) is not None:
        if programs.status in (0, None) and any(
            _process_facts(papers, name, agent.process, agent.title)
        ):
            words = f"The {agent.title} is not installed: it has neither a program nor a process."
            yield observed(papers, programs, name, False, words, raw=programs.text)
    elif (
        unit is not None and listing is not None and (unit["LoadState"] == "not-found" or left_over)
    ):
        if not any(_process_facts(papers, name, agent.process, agent.title)):
            return  # nobody has seen that no process runs
        # Its configuration may still lie there: packages leave that when they are removed.
        lacks = "a program" if left_over else "a service"
        words = f"The {agent.title} is not installed: it has neither {lacks} nor a process."
        raw = f"LoadState={unit['LoadState']} ({unit['Id']})"
        if left_over:
            raw += "\nUnitFileState=generated, from a script in /etc/init.d"
        yield observed(papers, listing, name, False, words, raw=raw)


def _program(papers: Papers, agent: _Agent) -> tuple[Paper, str] | None:
    """Where it lies; of papers that do not tell, the configuration speaks for the agent."""
    programs = papers.command("programs")
    if programs is not None:
        found = _PROGRAMS[agent.name].search(programs.text)
        return (programs, found[0]) if found else None
    paper = text_paper(papers, "/etc/waagent.conf") if agent.name == "waagent" else None
    return (paper, paper.path) if paper is not None else None


def _restarts(papers: Papers, agent: _Agent, units: dict[str, dict[str, str]]) -> Iterator[Fact]:
    """systemd's own restarts of the last hour; what a person restarts is no trouble. The journal
    tells when; systemd's counter begins with the boot at the earliest, so of a guest that is up
    for less than an hour it counts too. An empty journal tells nothing: there may be none."""
    journal, listing = papers.command("journal"), papers.command("units")
    told: list[tuple[float, Paper, str]] = []
    if journal is not None and journal.status in (0, None) and "systemd[1]" in journal.text:
        found = [
            match
            for match in _RESTART.finditer(journal.text)
            if match[2] in agent.units and _recent(papers, match[1])
        ]
        # Of a cut one only what it still shows is known: a talkative agent fills it.
        if found or len(journal.text.splitlines()) < _WHOLE_JOURNAL:
            raw = "\n".join(match[0] for match in found[-3:])
            told.append((float(len(found)), journal, raw))
    counter = (_chosen(agent, units) or {}).get("NRestarts", "")
    if listing is not None and _NUMBER.fullmatch(counter) and _is_young(papers):
        told.append((float(counter), listing, f"NRestarts={counter}"))
    if told:
        count, paper, raw = max(told, key=lambda each: each[0])
        words = f"systemd started the {agent.title} anew {count:.0f} times in the last hour."
        yield observed(papers, paper, f"{agent.name}.restarts", count, words, raw=raw)


def _is_young(papers: Papers) -> bool:
    paper = text_paper(papers, "/proc/uptime")
    up = _NUMBER.match(paper.text) if paper is not None else None
    return up is not None and float(up[0]) <= _UP_TO.total_seconds()


def _recent(papers: Papers, stamp: str) -> bool:
    try:
        at = datetime.fromisoformat(stamp)
    except ValueError:
        return True  # the collector asked for the last hour alone
    if papers.taken_at is None or at.tzinfo is None:
        return True
    return papers.taken_at - at <= _UP_TO


def unit_environment(papers: Papers) -> Iterator[tuple[Paper, str, str]]:
    """(paper, unit's name, its Environment= as one line) of the agents' units."""
    paper = text_paper(papers, "command:units")
    if paper is not None:
        for name, unit in _units(paper).items():
            if unit.get("Environment"):
                yield paper, name, unit["Environment"]
