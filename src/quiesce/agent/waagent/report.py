"""The extension's report on one attempt, see docs/explanation/guest-route.md: hostile JSON."""

from __future__ import annotations

import base64
import re
import zlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from quiesce.agent.collection import MAX_RAW_BYTES, parse
from quiesce.agent.framing import printable, quoted
from quiesce.agent.session_state import SessionState, failure_of, json_object, session_of
from quiesce.model.failure import Evidence, ExtensionFailure, Failure
from quiesce.model.network import Hop
from quiesce.model.papers import Papers

MAX_REPORT_BYTES = 128 * 1024
_MAX_HOPS = 64
_MAX_NAMES = 64
_TOKEN = re.compile(r"[0-9a-f]{32}")
_ZLIB_OR_GZIP = zlib.MAX_WBITS | 32
_SOURCE = "the extension's report"
_PAPERS_SOURCE = "the guest, through its Azure Linux agent"


class Stage(StrEnum):
    """In the order of events."""

    PREPARING = "preparing"
    CONNECTING = "connecting"
    FREEZING = "freezing"
    SNAPSHOT = "snapshot"
    THAWED = "thawed"
    DONE = "done"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        return self in (Stage.DONE, Stage.FAILED)

    @property
    def rank(self) -> int:
        return min(tuple(Stage).index(self), tuple(Stage).index(Stage.DONE))


@dataclass(frozen=True, slots=True)
class Report:
    """`failure` says why an attempt failed; an attempt that failed without saying why has one of
    ours. `session` is None before there is one; `taken_at` is the snapshot that the endpoint's
    answer named, in microseconds. `papers` and `mended` answer the commands of these names."""

    attempt: str
    task: str
    version: str
    stage: Stage
    taken_at: datetime | None
    session: SessionState | None
    hops: tuple[Hop, ...]
    failure: Failure | None
    papers: Papers | None
    mended: str


def read_report(raw: bytes) -> Report:
    """:raise ExtensionFailure: extension.output-invalid"""
    if len(raw) > MAX_REPORT_BYTES:
        raise _invalid(raw)
    document = json_object(raw, _SOURCE)
    try:
        stage = Stage(str(document.get("stage")))
        session = document.get("session")
        failure = document.get("failure")
        return Report(
            attempt=_text(document.get("attempt"), 80),
            task=_text(document.get("task"), 80),
            version=_text(document.get("version"), 80),
            stage=stage,
            taken_at=_instant(document.get("taken_at")),
            session=None if session is None else _session(session, raw),
            hops=read_hops(document.get("hops")),
            failure=failure_of(failure)
            if failure is not None
            else (_mute(raw) if stage is Stage.FAILED else None),
            papers=_papers(document.get("papers"), raw),
            mended=_text(document.get("mended"), 1000).strip(),
        )
    except ValueError as inner:
        raise _invalid(raw) from inner


def read_hops(document: object) -> tuple[Hop, ...]:
    """`hops` of a report, also of the one that the extension's `probe` prints."""
    return tuple(
        Hop(
            name=_text(entry.get("name"), 40),
            ok=_verdict(entry.get("ok")),
            detail=_text(entry.get("detail"), 1000),
            milliseconds=_milliseconds(entry.get("milliseconds")),
            code=_text(entry.get("code"), 80),
            raw=_text(entry.get("raw"), 1000),
        )
        for entry in _entries(document, _MAX_HOPS)
    )


def _papers(document: object, raw: bytes) -> Papers | None:
    """Packed as `guest/papers.py` states it."""
    if document is None:
        return None
    if not isinstance(document, dict):
        raise _invalid(raw)
    token, data = document.get("token"), document.get("data")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token) or not isinstance(data, str):
        raise _invalid(raw)
    try:
        inflate = zlib.decompressobj(_ZLIB_OR_GZIP)
        found = inflate.decompress(base64.b64decode(data, validate=True), MAX_RAW_BYTES)
    except (ValueError, zlib.error) as inner:
        raise _invalid(raw) from inner
    papers = parse(found, token, _PAPERS_SOURCE)
    names = document.get("shortened")
    shortened = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    if shortened:
        listed = printable(", ".join(shortened[:_MAX_NAMES]), 2000)
        warning = f"Older text was left out, for the report to be small enough, of: {listed}"
        papers = replace(papers, warnings=(*papers.warnings, warning))
    return papers


def _session(document: object, raw: bytes) -> SessionState:
    if not isinstance(document, dict):
        raise _invalid(raw)
    return session_of(document, _SOURCE)


def _entries(document: object, limit: int) -> list[dict[str, object]]:
    entries = document if isinstance(document, list) else []
    return [entry for entry in entries[:limit] if isinstance(entry, dict)]


def _text(value: object, limit: int) -> str:
    return printable(value, limit) if isinstance(value, str) else ""


def _instant(value: object) -> datetime | None:
    """Of `x-ms-snapshot`: UTC in units of 100 ns, of which the endpoint gives out tens."""
    try:
        at = datetime.fromisoformat(_text(value, 40))
    except ValueError:
        return None
    return at if at.tzinfo is not None and at.utcoffset() == UTC.utcoffset(None) else None


def _verdict(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _milliseconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        return 0.0
    return float(value)


def _mute(raw: bytes) -> ExtensionFailure:
    return ExtensionFailure(
        "extension.crashed",
        "The extension ended its attempt as failed and did not say why.",
        evidence=[Evidence("no failure in the report", _SOURCE, raw=quoted(raw))],
        retryable=True,
    )


def _invalid(raw: bytes) -> ExtensionFailure:
    return ExtensionFailure(
        "extension.output-invalid",
        "The extension's report is not what its contract says.",
        evidence=[Evidence(f"{len(raw)} bytes", _SOURCE, raw=quoted(raw))],
        retryable=True,
    )
