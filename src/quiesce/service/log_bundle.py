"""A guest's papers as one archive for people and for `quiesce doctor --bundle`.

`quiesce-logs-VM-TIME.tar.gz` holds one folder of that name:

    README                  what it is, and what is missing with the reason
    etc/…, var/…, …         the guest's files under their own paths (their ends, if they are long)
    commands/NAME           what commands printed
    index.json              size, time, mode, owner, exit status and problem of each
    facts.json              what was read out of all that, and seen from outside
    examination.json        what the doctor made of it

Secrets are taken out of every one of them (`quiesce.service.redaction`).
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

import quiesce
from quiesce.model.diagnosis import Examination, Fact
from quiesce.model.papers import COMMAND, Paper, Papers
from quiesce.service.redaction import redacted, redacted_json

MEDIA_TYPE = "application/gzip"


@dataclass(frozen=True, slots=True)
class LogBundle:
    """`name` is a file's name; `files` is how many of the guest's files and outputs it holds, 0
    when the guest's inside could not be reached."""

    name: str
    content: bytes
    files: int


def pack(
    vm: str,
    papers: Papers | None,
    facts: Sequence[Fact],
    examination: Examination,
    *,
    at: datetime,
    verbose: bool = False,
    known: Iterable[str] = (),
) -> LogBundle:
    """`known` are secrets that are taken out wherever they stand; `at` (UTC) names the bundle."""
    known = tuple(known)
    folder = f"quiesce-logs-{_file_name(vm)}-{at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    members = _members(papers)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:

        def add(name: str, text: str, paper: Paper | None = None) -> None:
            content = text.encode("utf-8", "replace")
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            changed = paper.modified_at if paper else None
            info.mtime = int((changed or at).timestamp())
            # Its owner alone may read it, whatever it was in the guest; that is in the index.
            info.mode = 0o600
            archive.addfile(info, io.BytesIO(content))

        add("README", redacted(_readme(vm, papers, examination, at, verbose), known))
        for name, paper in members.items():
            if not paper.problem:
                add(name, redacted(paper.text, known), paper)
        add("index.json", _json([_entry(*each) for each in members.items()], known))
        add("facts.json", _json(_plain(tuple(facts)), known))
        light = {"light": examination.light.value}
        add("examination.json", _json(_plain(examination) | light, known))
    there = sum(not paper.problem for paper in members.values())
    return LogBundle(f"{folder}.tar.gz", buffer.getvalue(), there)


def _members(papers: Papers | None) -> dict[str, Paper]:
    """Papers by their name in the archive, which leads nowhere out of it, whatever the guest called
    them; of two with one name the first is kept."""
    members: dict[str, Paper] = {}
    for paper in papers.papers if papers else ():
        members.setdefault(_member_name(paper.path), paper)
    return members


def _member_name(path: str) -> str:
    if path.startswith(COMMAND):
        return f"commands/{_file_name(path.removeprefix(COMMAND))}"
    # A drive's letter becomes a folder.
    parts = [part.rstrip(":") for part in path.replace("\\", "/").split("/")]
    kept = [part for part in parts if part not in ("", ".", "..")]
    name = "/".join(kept) or "nameless"
    return f"files/{name}" if kept and kept[0] in ("commands", "README") else name


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip(".") or "_"


def _entry(name: str, paper: Paper) -> dict[str, Any]:
    fields: dict[str, Any] = _plain(paper)
    del fields["text"]
    return {"name": name, **fields}


def _plain(value: object) -> Any:
    return TypeAdapter(
        type(value) if not isinstance(value, tuple) else tuple[Fact, ...]
    ).dump_python(value, mode="json")


def _json(value: Any, known: tuple[str, ...]) -> str:
    return json.dumps(redacted_json(value, known), indent=1, ensure_ascii=False) + "\n"


def _readme(
    vm: str, papers: Papers | None, examination: Examination, at: datetime, verbose: bool
) -> str:
    lines = [
        f"Logs of the VM {vm}, collected by Quiesce {quiesce.__version__} at "
        f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC.",
        "Passwords, signatures, tokens and keys are replaced by ***.",
        "The same examination again, without a server: quiesce doctor --bundle FILE",
        "",
        f"From: {papers.source}" if papers else "The guest's inside could not be reached.",
        *(["Its agent logged verbosely while a network test ran."] if verbose else []),
        *(f"Looked through: {channel}" for channel in examination.channels),
        *(f"Not seen: {problem.message} [{problem.code}]" for problem in examination.problems),
        *(f"Warning: {warning}" for warning in (papers.warnings if papers else ())),
        *(
            f"Not here: {paper.path}: {paper.problem}"
            for paper in (papers.papers if papers else ())
            if paper.problem
        ),
    ]
    return "\n".join(lines) + "\n"
