"""The agent's health report (`POST /machine?comp=health`): hostile XML.

Layout: WALinuxAgent, common/protocol/wire.py (_build_health_report). It is read with expat alone
and a document type declaration ends the reading, so nothing is ever expanded.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.parsers import expat

from quiesce.agent.framing import printable, quoted
from quiesce.model.failure import AgentFailure, Evidence

MAX_HEALTH_BYTES = 64 * 1024
_WANTED = ("State", "SubStatus", "Description")


@dataclass(frozen=True, slots=True)
class Health:
    ready: bool
    words: str


class _DeclarationRefused(Exception):  # noqa: N818 - control flow of this module
    pass


def read_health(raw: bytes) -> Health:
    """:raise AgentFailure: agent.answer-invalid"""
    found: dict[str, str] = {}
    inside = ""

    def start(name: str, _attributes: object) -> None:
        nonlocal inside
        inside = name if name in _WANTED else ""

    def end(_name: str) -> None:
        nonlocal inside
        inside = ""

    def words(text: str) -> None:
        if inside:
            found[inside] = found.get(inside, "") + text

    def refuse(*_declaration: object) -> None:
        raise _DeclarationRefused

    # UTF-8 whatever the document says: a name that expat does not know would be looked up among
    # Python's codecs, with all that those raise.
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = words
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(raw, True)
    except (expat.ExpatError, _DeclarationRefused, ValueError) as inner:
        raise AgentFailure(
            "agent.answer-invalid",
            "The agent's health report cannot be understood.",
            evidence=[Evidence(f"{len(raw)} bytes", "health of the agent", raw=quoted(raw))],
        ) from inner
    said = ": ".join(
        printable(found[name].strip(), 1000) for name in _WANTED if found.get(name, "").strip()
    )
    return Health(found.get("State", "").strip() == "Ready", said)
