"""What `guest/collect.sh` (on Windows `guest/collect.ps1`) prints inside a guest, as papers.

    #TOKEN file SIZE MODE UID MTIME PATH      MODE octal, MTIME seconds since 1970, "-" for unknown
    …its last bytes…
    #TOKEN command NAME STATUS
    …its output…
    #TOKEN missing PATH WORDS
    #TOKEN end SECONDS                        the guest's clock, seconds since 1970

Each header is a line of its own; each content is followed by one line end that is not part of it.
TOKEN is made anew for each collection, so that no log can forge a header. All of it is hostile.
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from functools import cache
from importlib import resources

from quiesce.agent.framing import printable
from quiesce.model.papers import COMMAND, Paper, Papers

MAX_RAW_BYTES = 8 << 20
"""The scripts print at most 4 MiB; what is more is not theirs."""
WINDOWS = "mswindows"
"""`id` of guest-get-osinfo for Windows. Everything else is treated as a Unix."""
_MOST_PAPERS = 1000
_PATH_CHARS = 1000
_TAIL_BYTES = 64 * 1024
"""Shorter files are never cut, though secrets taken out make them shorter than their size."""
_LAST_SECOND = 253402300799
"""The end of the year 9999, where `datetime` ends."""
_NUMBER = re.compile(rb"-?[0-9]{1,18}")
_OCTAL = re.compile(rb"[0-7]{1,6}")
_PASSWORD = re.compile(r"(://[^/@:\s\"]{0,200}:)[^/@\s\"]{1,200}@")
_SIGNATURE = re.compile(r"([?&;]sig=)[^&\"<>\s]{1,400}")
_UNPRINTABLE = re.compile(r"[^\n\t -~]+")


@cache
def script(system: str = "") -> bytes:
    """The collector for a guest whose `id` in guest-get-osinfo is `system`."""
    return _shipped("collect.ps1") if system == WINDOWS else _shipped("collect.sh")


@cache
def mender(system: str = "") -> bytes:
    """The script that mends, in the same way."""
    if system == WINDOWS:
        return _shipped("mend.ps1")
    return _shipped("services.sh") + _shipped("mend.sh")


def new_token() -> str:
    return secrets.token_hex(16)


def parse(raw: bytes, token: str, source: str) -> Papers:
    """Never raises: what cannot be understood is a warning. `source` as in `Papers`."""
    received = datetime.now(UTC)
    warnings = []
    if len(raw) > MAX_RAW_BYTES:
        warnings.append(f"Only the first {MAX_RAW_BYTES} of {len(raw)} bytes were read.")
        raw = raw[:MAX_RAW_BYTES]
    before, *chunks = (b"\n" + raw).split(b"\n#" + token.encode() + b" ")
    if before.strip():
        words = printable(before.decode("utf-8", "backslashreplace").strip(), 400)
        warnings.append(f"The guest printed something before the collection: {words}")
    papers: dict[str, Paper] = {}
    taken_at: datetime | None = None
    ended = False
    for chunk in chunks:
        header, _, content = chunk.partition(b"\n")
        kind, *words_of = header.rstrip(b"\r").split(b" ", 5)
        if kind == b"end":
            ended, taken_at = True, _instant(words_of[0]) if words_of else None
            break
        if len(papers) >= _MOST_PAPERS:
            warnings.append(f"More than {_MOST_PAPERS} papers came; the rest was left out.")
            break
        paper = _paper(kind, words_of, content)
        if paper is None:
            words = printable(header.decode("utf-8", "backslashreplace"), 200)
            warnings.append(f"A header of the collection is not understood: {words}")
        else:
            papers.setdefault(paper.path, paper)
    if not ended:
        warnings.append("The collection was cut off before its end: something is missing.")
        date = papers.get(COMMAND + "date")
        taken_at = _instant(date.text.strip().encode()) if date is not None else None
    return Papers(
        papers=tuple(papers.values()),
        source=source,
        taken_at=taken_at,
        host_clock_at=received,
        warnings=tuple(warnings),
    )


def readable(content: bytes) -> str:
    """A guest's bytes as text: printable characters, tabs and line ends. Passwords in addresses and
    signatures of SAS URLs are taken out, as `collect.sh` does before it prints."""
    text = content.decode("utf-8", "backslashreplace").replace("\r\n", "\n")
    text = _SIGNATURE.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))
    return _UNPRINTABLE.sub(lambda odd: printable(odd[0], len(odd[0])), text)


def _paper(kind: bytes, words: list[bytes], content: bytes) -> Paper | None:
    if kind == b"file" and len(words) == 5:
        size, mode, owner, at, path = words
        size_bytes = _number(size)
        return Paper(
            path=_path(path),
            text=readable(content),
            size_bytes=max(size_bytes or 0, 0) or len(content),
            modified_at=_instant(at),
            mode=int(mode, 8) if _OCTAL.fullmatch(mode) else None,
            owner=_number(owner),
            cut=size_bytes is not None and size_bytes > max(len(content), _TAIL_BYTES),
        )
    if kind == b"command" and len(words) == 2:
        return Paper(
            path=COMMAND + _path(words[0]),
            text=readable(content),
            size_bytes=len(content),
            status=_number(words[1]),
        )
    if kind == b"missing" and words:
        return Paper(path=_path(words[0]), problem=_path(b" ".join(words[1:])) or "not there")
    return None


def _shipped(name: str) -> bytes:
    return (resources.files("quiesce") / "guest" / name).read_bytes()


def _path(raw: bytes) -> str:
    return printable(raw.decode("utf-8", "backslashreplace"), _PATH_CHARS)


def _number(raw: bytes) -> int | None:
    return int(raw) if _NUMBER.fullmatch(raw) else None


def _instant(raw: bytes) -> datetime | None:
    seconds = _number(raw)
    if seconds is None or not 0 <= seconds <= _LAST_SECOND:
        return None
    return datetime.fromtimestamp(seconds, UTC)
