"""The doctor's lines: what was looked at, and a light for each."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

from quiesce.diagnosis.catalogue import catalogue
from quiesce.diagnosis.check_lines import AREAS, LINES, Line
from quiesce.diagnosis.conditions import Seen
from quiesce.diagnosis.remedies import remedy_for
from quiesce.diagnosis.vocabulary import FACTS
from quiesce.model.diagnosis import Check, Diagnosis, Fact, Light, Verdict

_HARMLESS = (
    *("bitmap.", "disk.unsupported", "extension.outdated", "extension.not-", "guest."),
    "snapshot.sql-server-full",
)
"""Causes in spite of which backups go on: amber."""
_BAD = (False, "stopped", "blocked", "absent", "inactive", "failed", "masked", "disabled")
"""Of several facts of a line that is not green, one with such a value decides."""
_AREA_OF_FAMILY = {
    "network": "network",
    "storage": "space",
    "agent": "agent",
    "extension": "extension",
    "script": "extension",
    "session": "extension",
    "freeze": "mounts",
    "vss": "windows",
    "vm": "disks",
    "disk": "disks",
    "bitmap": "disks",
    "snapshot": "disks",
    "guest": "load",
    "schedule": "schedule",
}


def checks(facts: Iterable[Fact], diagnoses: Iterable[Diagnosis] = ()) -> tuple[Check, ...]:
    """A line for each thing that was looked at, by area. `diagnoses` are causes that are proven:
    a line that stands for one of them is red, or amber when backups go on in spite of it, and
    every one of them has a line."""
    known = tuple(facts)
    seen = Seen(known)
    proven = [each for each in diagnoses if each.verdict is Verdict.PROVEN]
    found: list[Check] = []
    told: set[str] = set()
    for line in LINES:
        cause = next((each for each in proven if each.code in line.codes), None)
        check = _check(line, seen, known)
        # A line that nobody has looked at is about something else, such as the other agent.
        if cause is not None and check is not None and check.light is not Light.GREEN:
            check = _of_cause(line.area, line.title, cause)
            told.add(cause.code)
        if check is not None:
            found.append(check)
    for each in proven:
        if each.code not in told:
            entry = catalogue().entries.get(each.code)
            title = entry.title if entry is not None else each.code
            area = _AREA_OF_FAMILY.get(each.code.partition(".")[0], "agent")
            found.append(_of_cause(area, title, each))
    return tuple(sorted(found, key=lambda check: AREAS.index(check.area)))


def _check(line: Line, seen: Seen, facts: Sequence[Fact]) -> Check | None:
    known = [fact for name in line.facts if (fact := seen.fact(name)) is not None]
    light = line.judge(seen)
    if light is None or not known:
        return _not_seen(line) if line.always and not known else None
    codes = _codes(line, seen) if light in (Light.AMBER, Light.RED) else ()
    return Check(
        area=line.area,
        title=line.title,
        light=light,
        words=_words(line, known, light),
        evidence=tuple(fact.evidence() for fact in known),
        codes=codes,
        remedy=tuple(_remedy(line, known[0], codes, facts)),
    )


def _codes(line: Line, seen: Seen) -> tuple[str, ...]:
    """Of an agent's line, the one that fits."""
    if "agent.not-installed" not in line.codes:
        return line.codes if len(line.codes) == 1 else ()
    agent = line.facts[0].partition(".")[0]
    if seen.value(f"{agent}.installed") is False:
        return ("agent.not-installed",)
    hangs = seen.value(f"{agent}.process") in ("stopped", "blocked")
    return ("agent.hung",) if hangs else ("agent.not-running",)


def _words(line: Line, known: Sequence[Fact], light: Light) -> str:
    """What the deciding fact says, without its full stop; a busy machine's busiest program too."""
    if line.says and light is not Light.GREEN:
        return line.says
    bad = next((fact for fact in known if fact.value in _BAD), known[0])
    first = (known[0] if light is Light.GREEN else bad).words
    if line.facts[-1] == "guest.busiest" and light is not Light.GREEN and len(known) > 1:
        first = f"{first} {known[-1].words}"
    if known[0].name == "extension.installed" and known[0].value is False:
        first = "not yet; the next backup installs it"
    return first.rstrip(".")


def _remedy(line: Line, fact: Fact, codes: Sequence[str], facts: Sequence[Fact]) -> Iterator[str]:
    if fact.name == "guest.hazards" and fact.value:
        yield from skip_lines(str(fact.value))
    for code in codes:
        if (entry := catalogue().entries.get(code)) is not None:
            yield from remedy_for(entry.steps, facts)


def skip_lines(hazards: str) -> Iterator[str]:
    """The exact lines that leave the mounts of `guest.hazards` out of the freeze on purpose."""
    mounts = [each.partition(": ")[0] for each in hazards.split("; ")]
    options = " ".join(f"--skip-mount {shlex.quote(mount)}" for mount in mounts)
    yield (
        "What need not be consistent is left out on purpose: "
        f"`quiesce policy update POLICY {options}`."
    )
    yield (
        "Or in the guest, in the section [SnapshotThread] of /etc/azure/vmbackup.conf: "
        f"`MountsToSkip = {', '.join(mounts)}`."
    )


def _not_seen(line: Line) -> Check:
    look = FACTS[line.facts[0]].look
    return Check(
        line.area, line.title, Light.UNKNOWN, "it could not be looked at", remedy=(look.how,)
    )


def _of_cause(area: str, title: str, cause: Diagnosis) -> Check:
    return Check(
        area=area,
        title=title,
        light=Light.AMBER if cause.code.startswith(_HARMLESS) else Light.RED,
        words=cause.cause.rstrip("."),
        evidence=cause.evidence,
        codes=(cause.code,),
        remedy=cause.remedy,
    )
