"""What is published for one VM's agent, and the record that outlives the server.

Layout of a record's body: one JSON object, `format` 1; the fields of `Dossier`, with those of
`VmIdentity` and `Goal` below `identity` (or null) and `goal`; times in ISO 8601.
"""

from __future__ import annotations

import json
import secrets
import uuid
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum

from quiesce.agent.waagent.certificates import VmIdentity

_FORMAT = 1
_ERA = datetime(2026, 1, 1, tzinfo=UTC)


class Plugin(StrEnum):
    """What the goal state says about the extension, in the agent's words but the first."""

    ABSENT = "absent"
    ENABLED = "enabled"
    UNINSTALL = "uninstall"


@dataclass(frozen=True, slots=True)
class Goal:
    """One incarnation. `settings` is the JSON of the runtime settings (their sequence number is
    the incarnation that they came with, `sequence`); `command`, `task` and `attempt` are what
    they ask for. `status_url` is a secret."""

    incarnation: int
    published_at: datetime
    plugin: Plugin = Plugin.ABSENT
    version: str = ""
    sequence: int = 0
    settings: str = field(default="", repr=False)
    command: str = ""
    task: str = ""
    attempt: str = ""
    status_url: str = field(default="", repr=False)
    status_url_at: datetime = _ERA


@dataclass(frozen=True, slots=True)
class Dossier:
    """All that is kept of one VM. `container_id` is how the agent names its VM to us, `token` is
    part of the address of its package."""

    container_id: str
    token: str = field(repr=False)
    goal: Goal
    identity: VmIdentity | None = field(default=None, repr=False)

    @classmethod
    def new(cls, now: datetime) -> Dossier:
        return cls(str(uuid.uuid4()), secrets.token_hex(16), Goal(next_number(0, now), now))

    def to_body(self) -> str:
        return json.dumps({"format": _FORMAT, **asdict(self)}, default=datetime.isoformat)

    @classmethod
    def from_body(cls, body: str) -> Dossier:
        """:raise ValueError, TypeError, KeyError: not a record of ours"""
        document = json.loads(body)
        if document.pop("format") != _FORMAT:
            raise ValueError("a record of another version")
        goal, identity = document.pop("goal"), document.pop("identity")
        kept = Goal(**goal)
        return cls(
            **document,
            goal=replace(
                kept,
                plugin=Plugin(kept.plugin),
                published_at=_instant(kept.published_at),
                status_url_at=_instant(kept.status_url_at),
            ),
            identity=VmIdentity(**identity) if identity else None,
        )


def next_number(previous: int, now: datetime) -> int:
    """The number of the next incarnation. It never falls behind one that a guest has seen, even
    when the record was lost, or restored from an older database: an agent takes no notice of a
    number that it knows, and the extension takes the highest for the newest."""
    return max(previous + 1, int((now - _ERA).total_seconds()), 1)


def _instant(text: object) -> datetime:
    return datetime.fromisoformat(str(text))
