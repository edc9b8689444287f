"""Who may not know yet of damage to a pack, so that work of theirs may still rely on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from stepping import Actor


@dataclass(frozen=True)
class BadCopy:
    """Of a blob, in this pack. `told`: something in the store says so."""

    pack: str
    blob: bytes
    told: bool


@dataclass
class _Doubt:
    told_since: datetime | None = None
    unaware: list[Actor] = field(default_factory=list)


class Doubts:
    """Bad copies that somebody may take for good: until something says so, lists show that, and all
    that was under way by then has ended."""

    def __init__(self) -> None:
        self._doubts: dict[tuple[str, bytes], _Doubt] = {}
        self._ids: set[bytes] = set()

    def look(
        self, copies: Iterable[BadCopy], actors: Sequence[Actor], now: datetime, late: timedelta
    ) -> set[bytes]:
        """Ids of blobs with a doubtful copy, now or at the last look."""
        doubts: dict[tuple[str, bytes], _Doubt] = {}
        for copy in copies:
            place = copy.pack, copy.blob
            doubt = doubts[place] = self._doubts.get(place, _Doubt()) if copy.told else _Doubt()
            if copy.told and doubt.told_since is None:
                doubt.told_since = now
            if doubt.told_since is None or now - doubt.told_since <= late:
                doubt.unaware = list(actors)
            doubt.unaware = [actor for actor in doubt.unaware if actor in actors]
        before = self._ids
        self._doubts = doubts
        self._ids = {
            blob
            for (_, blob), doubt in doubts.items()
            if doubt.told_since is None or now - doubt.told_since <= late or doubt.unaware
        }
        return before | self._ids
