"""Outputs of Windows' own commands, read by their structure: numbers, GUIDs and names that no
language of Windows translates. Forms: `guest/collect.ps1`, whose table holds the commands.

`sc`, `reg`, `vssadmin`, `netsh` and `wmic` print labels in the system's language, so no label is
looked for. `parts` splits a paper into what each command line of it printed.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from quiesce.model.papers import Paper

_PART = re.compile(r"^> (-?\d{1,10}) (.+)$", re.MULTILINE)
_SERVICE_LINE = re.compile(r'sc(?:\.exe)? (query|qc) "?([^"\n]+?)"?$')
_NUMBERED = re.compile(r"^[^:\n]+: +([0-9a-fA-F]{1,8}) +\S", re.MULTILINE)
_VALUE = re.compile(r"^ {4}(\S.*?) {4}(REG_[A-Z_]+)(?: {4}(.*))?$", re.MULTILINE)
_GUID = r"\{([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})\}"
_WRITER_ID = re.compile(rf":\s*{_GUID}\s*$")
_STATE = re.compile(r":\s*\[(\d{1,3})\]\s*(.*?)\s*$")
_QUOTED = re.compile(r":\s*(['\"„“«])(.+?)['\"“”»]\s*$")
_PROPERTY = re.compile(r"^ *(\w+) *[=:] ?(.*)$", re.MULTILINE)
_EVENT_END = "</Event>"
_PROVIDER = re.compile(r"<Provider Name=['\"]([^'\"]{1,200})['\"]")
_EVENT_ID = re.compile(r"<EventID[^>]*>(\d{1,6})</EventID>")
_CREATED = re.compile(r"<TimeCreated SystemTime=['\"]([0-9T:-]{19})")
_MESSAGE = re.compile(r"<Message>(.*?)</Message>", re.DOTALL)
_DATA = re.compile(r"<Data(?: Name=['\"]([^'\"]*)['\"])?>(.*?)</Data>", re.DOTALL)

_MOST_PARTS = 64
_MOST_CHARS = 128 * 1024
_LINE_CHARS = 500
"""Bounds of what is read of one part and of one line, which a hostile guest may make as long as it
likes: the collector keeps 64 KiB of a part."""
_EVENT_CHARS = 16 * 1024

NO_SERVICE = 1060
"""ERROR_SERVICE_DOES_NOT_EXIST (winerror.h): what sc.exe ends with."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one command line printed, and the status that it ended with."""

    status: int
    line: str
    text: str


@dataclass(frozen=True, slots=True)
class Service:
    """`state` as in SERVICE_STATUS.dwCurrentState, `start` as in QUERY_SERVICE_CONFIG.dwStartType
    (winsvc.h); None: not known. `present` is false when Windows says that there is none."""

    name: str
    present: bool
    state: int | None
    start: int | None
    raw: str


@dataclass(frozen=True, slots=True)
class Writer:
    """One VSS writer. `state` is the number in brackets (VSS_WRITER_STATE of vss.h), `words` the
    rest of that line, `error` the last error in the system's language."""

    name: str
    guid: str
    state: int
    words: str
    error: str
    raw: str


@dataclass(frozen=True, slots=True)
class RegistryValue:
    kind: str
    data: str


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the log. `at` is UTC, None when it cannot be read."""

    provider: str
    id: int
    at: datetime | None
    message: str
    data: tuple[str, ...]
    raw: str


def parts(paper: Paper | None) -> tuple[Part, ...]:
    """What each line of a command printed; nothing for a paper that is not there."""
    if paper is None:
        return ()
    heads = list(islice(_PART.finditer(paper.text), _MOST_PARTS))
    ends = [head.start() for head in heads] + [len(paper.text)]
    return tuple(
        Part(int(head[1]), head[2].strip(), _bounded(paper.text[head.end() : end]))
        for head, end in zip(heads, ends[1:], strict=True)
    )


def _bounded(text: str) -> str:
    return text.strip("\r\n")[:_MOST_CHARS]


def _lines(text: str) -> list[str]:
    clean = text.replace("\0", "").replace("\\x0d", "")  # as `readable` shows it
    return [line[:_LINE_CHARS].rstrip() for line in clean.splitlines()]


def part_of(paper: Paper | None, word: str) -> Part | None:
    """The part of the first command line that has this word in it."""
    return next((part for part in parts(paper) if word in part.line), None)


def dword(value: RegistryValue | None) -> int | None:
    """A REG_DWORD's number; `reg query` shows it in hexadecimal."""
    if value is None or value.kind != "REG_DWORD":
        return None
    try:
        return int(value.data, 16)
    except ValueError:
        return None


def services(paper: Paper | None) -> dict[str, Service]:
    """The services that were asked for, by lower-case name. Windows minds no case there."""
    found: dict[str, Service] = {}
    for part in parts(paper):
        asked = _SERVICE_LINE.search(part.line)
        if asked is None:
            continue
        name = asked[2]
        known = found.get(name.lower(), Service(name, False, None, None, ""))
        # sc prints "label : number WORD": the type comes first, then the state or the start type.
        numbers = _NUMBERED.findall("\n".join(_lines(part.text))) if part.status == 0 else []
        second = int(numbers[1], 16) if len(numbers) > 1 else None
        raw = "\n".join(filter(None, (known.raw, part.text)))
        if asked[1] == "query":
            known = Service(name, second is not None, second, known.start, raw)
        else:
            known = Service(name, known.present, known.state, second, raw)
        if part.status in (0, NO_SERVICE):
            found[name.lower()] = known
    return found


def registry(part: Part) -> dict[str, RegistryValue]:
    """The values of one key by their upper-case names. `reg query` ends with 1 for a missing key,
    which is the same as a key without values."""
    if part.status != 0:
        return {}
    return {
        name.upper(): RegistryValue(kind, data.strip()) for name, kind, data in _values(part.text)
    }


def _values(text: str) -> Iterator[tuple[str, str, str]]:
    for found in _VALUE.finditer("\n".join(_lines(text))):
        yield found[1], found[2], found[3] or ""


def writers(paper: Paper | None) -> tuple[Writer, ...]:
    """The VSS writers of `vssadmin list writers`. A block is: the name in quotes, two GUIDs (the
    writer's, its instance's), a number in brackets, and the last error."""
    found: list[Writer] = []
    for part in parts(paper):
        name, state = "", None
        guids: list[str] = []
        block: list[str] = []
        for line in _lines(part.text):
            if not line:
                continue
            block.append(line)
            if (quoted := _QUOTED.search(line)) and not line.startswith((" ", "\t")):
                name, guids, state, block = quoted[2], [], None, [line]
            elif name and (guid := _WRITER_ID.search(line)):
                guids.append(guid[1].lower())
            elif name and guids and state is None and (stated := _STATE.search(line)):
                state = (int(stated[1]), stated[2])
            elif name and guids and state is not None:
                error = line.partition(":")[2].strip()
                raw = "\n".join(block)
                found.append(Writer(name, guids[0], state[0], state[1], error, raw))
                name, guids, state = "", [], None
    return tuple(found)


def properties(text: str) -> list[tuple[str, str]]:
    """Names and values of `wmic … /value` and of PowerShell's Format-List, in their order."""
    return [pair for pair in _PROPERTY.findall("\n".join(_lines(text))) if pair[1]]


def events(paper: Paper | None) -> tuple[Event, ...]:
    """The events of `wevtutil … /f:RenderedXml`, as they stand there. No XML parser: what a guest
    sends as XML is not to be believed to be any."""
    found: list[Event] = []
    for part in parts(paper):
        for raw in _raw_events(part.text):
            provider, number = _PROVIDER.search(raw), _EVENT_ID.search(raw)
            if provider is None or number is None:
                continue
            message = _MESSAGE.search(raw)
            found.append(
                Event(
                    provider=html.unescape(provider[1]),
                    id=int(number[1]),
                    at=_instant(raw),
                    message=_flat(message[1]) if message else "",
                    data=tuple(_flat(value) for _, value in _DATA.findall(raw) if value.strip()),
                    raw=raw,
                )
            )
    return tuple(found)


def _raw_events(text: str) -> Iterator[str]:
    for chunk in text.split(_EVENT_END)[:-1]:
        start = chunk.rfind("<Event ")
        if start >= 0 and len(chunk) - start <= _EVENT_CHARS:
            yield chunk[start:] + _EVENT_END


def _instant(raw: str) -> datetime | None:
    created = _CREATED.search(raw)
    if created is None:
        return None
    try:
        return datetime.fromisoformat(created[1]).replace(tzinfo=UTC)
    except ValueError:
        return None


def _flat(text: str) -> str:
    return " ".join(html.unescape(text).split())
