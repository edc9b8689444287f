"""The guest as a system: what it is, its clock, its load, its space, its certificate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from quiesce.diagnosis.reading.access import knows_absence
from quiesce.diagnosis.reading.mounts import parse as parse_mounts
from quiesce.diagnosis.reading.observed import assignments, observed, text_paper
from quiesce.diagnosis.reading.services import processes
from quiesce.model.diagnosis import Fact
from quiesce.model.papers import Paper, Papers
from quiesce.model.units import size_text

_NEEDED = (
    *("/", "/var", "/var/lib", "/var/lib/waagent", "/var/log", "/run", "/tmp", "/etc"),
    "/sysroot",
)
"""Where the agents and the extension write."""
FULL_BYTES = 1 << 20
"""With less than that left, neither agent gets its work done."""
_RESERVED_BYTES = 17 << 20
"""What a full file system still counts as free and gives nobody: ext4 keeps 4096 clusters back
(Linux, fs/ext4/super.c, ext4_calculate_resv_clusters)."""
_PRESSURE = re.compile(r"^full avg10=([0-9]{1,3}(?:\.[0-9]{1,4})?)", re.MULTILINE)
_DATE = re.compile(r"^not(Before|After)=(.+)$", re.MULTILINE)


def machine_facts(papers: Papers) -> Iterator[Fact]:
    yield from _system(papers)
    yield from clock_facts(papers)
    yield from _load(papers)
    yield from _space(papers)
    yield from _certificate(papers)


def _system(papers: Papers) -> Iterator[Fact]:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        paper = text_paper(papers, path)
        if paper is None:
            continue
        found = assignments(paper.text)
        distribution, line = found.get("ID", ("", ""))
        name = found.get("PRETTY_NAME", (distribution, ""))[0]
        yield observed(papers, paper, "guest.os", "linux", f"The guest runs {name}.", raw=line)
        if distribution:
            words = f"The distribution is {name}."
            yield observed(papers, paper, "guest.distribution", distribution, words, raw=line)
        return
    uname = papers.command("uname")
    if uname is not None and uname.text.strip():
        kind = "linux" if uname.text.startswith("Linux") else "other"
        yield observed(papers, uname, "guest.os", kind, "As uname tells.", raw=uname.text)


def clock_facts(papers: Papers) -> Iterator[Fact]:
    paper = papers.command("date")
    if paper is None or papers.taken_at is None or papers.host_clock_at is None:
        return
    ahead = (papers.taken_at - papers.host_clock_at).total_seconds()
    words = f"The guest's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours."
    name = "guest.clock-ahead-seconds"
    yield observed(papers, paper, name, ahead, words, raw=paper.text)


def _load(papers: Papers) -> Iterator[Fact]:
    cpu = papers.command("cpu")
    used = _cpu_percent(cpu.text) if cpu is not None else None
    if cpu is not None and used is not None:
        words = f"{used:.0f} % of the processors' time is used."
        yield observed(papers, cpu, "guest.cpu-percent", used, words, raw=cpu.text)
    memory = text_paper(papers, "/proc/meminfo")
    if memory is not None:
        found = dict(re.findall(r"^(\w+):\s+([0-9]{1,15}) kB", memory.text, re.MULTILINE))
        total, free = int(found.get("MemTotal", 0)), int(found.get("MemAvailable", 0))
        if total and "MemAvailable" in found:
            percent = 100.0 * (total - min(free, total)) / total
            words = f"{percent:.0f} % of the memory is used."
            raw = f"MemTotal: {total} kB\nMemAvailable: {free} kB"
            yield observed(papers, memory, "guest.memory-percent", percent, words, raw=raw)
    stall = text_paper(papers, "/proc/pressure/io")
    if stall is not None and (match := _PRESSURE.search(stall.text)):
        percent = float(match[1])
        words = f"In {percent:.0f} % of the last 10 s everything waited for disks."
        yield observed(papers, stall, "guest.io-stall-percent", percent, words, raw=match[0])
    listing = papers.command("processes")
    others = (each for each in processes(papers) if "pid,ppid,stat" not in each.command)
    busy = max(others, key=lambda each: each.cpu_percent, default=None)
    if busy is not None and listing is not None and busy.cpu_percent >= 1:
        name = busy.command.split()[0][:60]
        words = f"{name} takes the most: {busy.cpu_percent:.0f} % of a processor."
        yield observed(papers, listing, "guest.busiest", name, words, raw=busy.line)


def _cpu_percent(text: str) -> float | None:
    """From two first lines of /proc/stat (proc(5)): user nice system idle iowait irq softirq steal;
    guest times are in user already."""
    rows = [[int(n) for n in re.findall(r"[0-9]{1,18}", line)][:8] for line in text.splitlines()]
    rows = [row for row in rows if len(row) >= 5]
    if len(rows) < 2:
        return None
    passed = [new - old for old, new in zip(rows[0], rows[-1], strict=False)]
    total = sum(passed)
    return 100.0 * (total - passed[3] - passed[4]) / total if total > 0 else None


def _space(papers: Papers) -> Iterator[Fact]:
    paper, inodes = papers.command("space"), papers.command("inodes")
    full: list[str] = []
    lines: list[str] = []
    sealed = _sealed(papers)
    rows = [row for row in _rows(paper) if row[0] not in sealed and not _is_image(row[-1])]
    points = {point for point, *_ in rows}
    root = next((each for each in ("/", "/var", "/sysroot", "/etc") if each in points), "")
    for point, blocks, used, available, line in rows:
        left = (blocks - used) * 1024
        nothing = available * 1024 < FULL_BYTES and left < _RESERVED_BYTES
        if point == root and paper is not None:
            left = max(0, left - _RESERVED_BYTES) if available * 1024 < FULL_BYTES else left
            words = f"{size_text(left)} are free on {point} for root."
            yield observed(papers, paper, "guest.root-free-bytes", float(left), words, raw=line)
        if point in _NEEDED and blocks and nothing:
            full.append(point)
            lines.append(line)
    for point, total, used, _, line in _rows(inodes):
        if point in _NEEDED and point not in sealed and total and used >= total:
            full.append(f"{point} (no inode is free)")
            lines.append(line)
    if paper is not None and root:
        value = ", ".join(dict.fromkeys(full))
        words = f"Full: {value}." if value else "No file system that the agents need is full."
        yield observed(papers, paper, "guest.disk-full", value, words, raw="\n".join(lines))


def _sealed(papers: Papers) -> set[str]:
    """Mounts that nobody writes to: the root of an image-based system (Fedora CoreOS, bootc) is
    full by its making. One that the kernel made read-only after an error is another matter."""
    paper = text_paper(papers, "/proc/self/mountinfo")
    topmost = {mount.point: mount for mount in parse_mounts(paper.text if paper else "")}
    return {
        point
        for point, mount in topmost.items()
        if "ro" in mount.options or mount.source == "composefs"
    }


def _is_image(line: str) -> bool:
    return line.startswith("composefs ")


def _rows(paper: Paper | None) -> Iterator[tuple[str, int, int, int, str]]:
    """(mount, all, used, available, line) of df, in its own unit. It ends with 1 when one of
    many file systems could not be asked."""
    for line in (paper.text if paper else "").splitlines():
        found = re.match(
            r".*?\s([0-9]{1,15})\s+([0-9]{1,15})\s+(-?[0-9]{1,15})\s+(?:\d+%|-)\s+(/.*)", line
        )
        if found:
            yield found[4], int(found[1]), int(found[2]), int(found[3]), line


def _certificate(papers: Papers) -> Iterator[Fact]:
    """Only of an agent that has run: a new one makes its certificate when it starts."""
    paper, log = papers.command("certificate"), text_paper(papers, "/var/log/waagent.log")
    if paper is None or log is None or not log.text.strip():
        return
    if "No such file" in paper.text:
        if not knows_absence(papers, "/var/lib/waagent"):
            return
        words = "The agent's transport certificate is not there."
        yield observed(papers, paper, "waagent.certificate", "missing", words, raw=paper.text)
        return
    dates = {which: _openssl_date(text) for which, text in _DATE.findall(paper.text)}
    begins, ends, now = dates.get("Before"), dates.get("After"), papers.taken_at
    if begins is None or ends is None or now is None:
        return
    state = "not yet valid" if now < begins else "expired" if now > ends else "good"
    words = f"The agent's transport certificate is {state} ({begins:%Y-%m-%d} to {ends:%Y-%m-%d})."
    yield observed(papers, paper, "waagent.certificate", state, words, raw=paper.text)


def _openssl_date(text: str) -> datetime | None:
    try:
        return datetime.strptime(text.strip(), "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
    except ValueError:
        return None
