"""Small records that let writers, deletion and garbage collection work side by side.

Each is a sealed object (its kind and name bound) that holds JSON with an `at` time (UTC):
    sessions/<point id>-<random>   kind "session"   a running writer: started_at, at (last sign)
    deleted/<point id>             kind "deleted"   this point is deleted; its manifest goes later
    garbage/<random>               kind "garbage"   packs [hex] that nothing referred to at `at`
    damage/<random>                kind "damage"    pack hex, chunks [hex]: found damaged
    sessions/gc                    kind "lease"     a garbage collection is being executed
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from quiesce.model.failure import StorageFailure
from quiesce.vault.contents.opening import newer
from quiesce.vault.format.keys import VaultKeys
from quiesce.vault.format.sealed import NewerSealError, SealError, read_sealed, seal
from quiesce.vault.format.times import read_time
from quiesce.vault.stores.store import ObjectMissing, Put, Store, delete_if_allowed

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
"""When a session began of which that is not known, or that is to count as older than any mark."""

PACKS_IN_MARK = 100_000
"""Some 3 TB of garbage, and 7 MB of JSON: no sealed object is longer than 64 MiB."""
_NOW = partial(datetime.now, UTC)
_AHEAD = timedelta(days=1)
"""A sign of life from a later time than this from now is of a clock that is wrong."""


@dataclass(frozen=True, slots=True)
class Session:
    key: str
    started_at: datetime
    at: datetime

    @property
    def point_id(self) -> str:
        """The point that this writer makes, as the record's key says."""
        return self.key.partition("/")[2].rpartition("-")[0]


@dataclass(frozen=True, slots=True)
class GarbageMark:
    key: str
    at: datetime
    packs: tuple[bytes, ...]


class Records:
    """Reads and writes records. A damaged record is passed over where that is the safe side and
    raised as `SealError` where it is not."""

    def __init__(self, store: Store, keys: VaultKeys, clock: Callable[[], datetime] = _NOW) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock

    def put(self, key: str, kind: str, values: dict[str, Any]) -> Put:
        plain = json.dumps(values, sort_keys=True, default=_plain).encode()
        return self._store.put(key, seal(self._keys, kind, key, plain))

    def put_for_upkeep(self, key: str, kind: str, values: dict[str, Any]) -> Put:
        """As `put`; in a store without a free byte into the space that is kept back for this, and
        that whoever calls this keeps again: see `reserve`."""
        try:
            return self.put(key, kind, values)
        except StorageFailure as full:
            if full.code != "storage.full":
                raise
            self._store.give_back_reserve()
            return self.put(key, kind, values)

    def read(self, key: str, kind: str) -> dict[str, Any]:
        """:raise SealError: damaged · :raise ObjectMissing: gone"""
        plain = read_sealed(self._store, self._keys, kind, key, key)
        try:
            values = json.loads(plain)
        except (ValueError, RecursionError) as inner:
            raise SealError("not JSON") from inner
        if not isinstance(values, dict):
            raise SealError("not a record")
        return values

    def put_session(self, point_id: str, started_at: datetime, at: datetime) -> str:
        key = f"sessions/{point_id}-{secrets.token_hex(8)}"
        self.put(key, "session", {"started_at": started_at, "at": at})
        return key

    def sessions(self) -> list[Session]:
        """All session records. None began later, or was signed earlier, than its store says: a
        writer whose clock is fast would be younger than marks that it did not see. One that cannot
        be read counts as started long ago. All of this delays collection, which is the safe side;
        but of one that was signed in a future beyond `_AHEAD` the store's time counts alone: a
        dead writer whose clock was a year ahead would delay it for a year.
        """
        found = []
        now = self._clock()
        for info in self._store.list("sessions/"):
            if info.key == LEASE_KEY:
                continue
            try:
                values = self.read(info.key, "session")
                started = min(read_time(values["started_at"]), info.modified_at)
                at = _no_earlier(read_time(values["at"]), info.modified_at, now)
            except ObjectMissing:
                continue
            except (SealError, KeyError, ValueError, TypeError):
                started, at = LONG_AGO, info.modified_at
            found.append(Session(info.key, started, at))
        return found

    def put_marks(self, packs: Sequence[bytes], at: datetime) -> list[GarbageMark]:
        """Mark these packs as garbage: as many marks as it takes, which mean the same as one."""
        marks = []
        for start in range(0, len(packs), PACKS_IN_MARK):
            mark = GarbageMark(
                f"garbage/{secrets.token_hex(16)}", at, tuple(packs[start : start + PACKS_IN_MARK])
            )
            values = {"at": at, "packs": [pack.hex() for pack in mark.packs]}
            self.put(mark.key, "garbage", values)
            marks.append(mark)
        return marks

    def garbage(self, unread: set[str] | None = None) -> list[GarbageMark]:
        """All garbage marks, each as old as it says or as the store says, whichever is less: a
        clock that is wrong makes none ripe. One that cannot be read is passed over, and its key
        added to `unread`: its packs are then never deleted by it; but a writer that started after
        it may refer to them, so `collect` never acts on a mark it cannot read either."""
        found: dict[str, GarbageMark] = {}
        # What stays of a mark that goes stands in another long before: who misses the one after a
        # slow or late list finds the other in the next.
        for _ in range(2):
            missing = False
            for info in self._store.list("garbage/"):
                try:
                    at, packs = _mark_in(self.read(info.key, "garbage"))
                    at = max(at, info.modified_at)
                    found[info.key] = GarbageMark(info.key, at, packs)
                except ObjectMissing:
                    missing = True
                except SealError as wrong:
                    _pass_over(info.key, wrong, unread)
            if not missing:
                break
        return list(found.values())

    def unreadable(self) -> list[str]:
        """Damage records and garbage marks that cannot be read: what they keep from being relied
        on is not known.

        :raise VaultFailure: vault.version-unsupported
        """
        found = []
        for kind, parse in (("damage", _damage_in), ("garbage", _mark_in)):
            for info in self._store.list(f"{kind}/"):
                try:
                    parse(self.read(info.key, kind))
                except ObjectMissing:
                    continue
                except NewerSealError as inner:
                    raise newer(info.key, inner) from inner
                except SealError:
                    found.append(info.key)
        return found

    def damage(self, unread: set[str] | None = None) -> dict[bytes, frozenset[bytes]]:
        """Pack → ids of blobs in it that were found damaged. A record that cannot be read is passed
        over, and its key added to `unread`."""
        found: dict[bytes, frozenset[bytes]] = {}
        for _, pack, chunks in self._damage(unread):
            found[pack] = found.get(pack, frozenset()) | chunks
        return found

    def damaged_packs(self) -> list[tuple[str, bytes]]:
        """Readable damage records: their keys, and the pack that each is about."""
        return [(key, pack) for key, pack, _ in self._damage()]

    def _damage(
        self, unread: set[str] | None = None
    ) -> Iterator[tuple[str, bytes, frozenset[bytes]]]:
        for info in self._store.list("damage/"):
            try:
                pack, chunks = _damage_in(self.read(info.key, "damage"))
            except ObjectMissing:
                continue
            except SealError as wrong:
                _pass_over(info.key, wrong, unread)
                continue
            yield info.key, pack, chunks

    def deleted(self) -> dict[str, datetime]:
        """Point id → when it was deleted: as late as the record or the store says, since writers
        that began before may build on it. A damaged record still hides its point (its name is its
        meaning), with the store's time."""
        found = {}
        now = self._clock()
        for info in self._store.list("deleted/"):
            point_id = info.key.rpartition("/")[2]
            try:
                at = read_time(self.read(info.key, "deleted")["at"])
                found[point_id] = _no_earlier(at, info.modified_at, now)
            except ObjectMissing:
                continue
            except (SealError, KeyError, ValueError, TypeError):
                found[point_id] = info.modified_at
        return found


def _pass_over(key: str, wrong: SealError, unread: set[str] | None) -> None:
    if unread is not None and not isinstance(wrong, NewerSealError):
        unread.add(key)


def _no_earlier(at: datetime, stored_at: datetime, now: datetime) -> datetime:
    """What a record says of itself, and no earlier than its store says; one of the future counts
    by its store alone."""
    return stored_at if at > now + _AHEAD else max(at, stored_at)


def _mark_in(values: dict[str, Any]) -> tuple[datetime, tuple[bytes, ...]]:
    """When a garbage mark was made, and the packs.

    :raise SealError: it says neither
    """
    try:
        return read_time(values["at"]), tuple(bytes.fromhex(name) for name in values["packs"])
    except (KeyError, ValueError, TypeError) as inner:
        raise SealError(f"no mark: {inner!r}") from inner


def _damage_in(values: dict[str, Any]) -> tuple[bytes, frozenset[bytes]]:
    """The pack that a damage record is about, and the blobs.

    :raise SealError: it says neither
    """
    try:
        chunks = frozenset(bytes.fromhex(chunk) for chunk in values["chunks"])
        return bytes.fromhex(values["pack"]), chunks
    except (KeyError, ValueError, TypeError) as inner:
        raise SealError(f"no damage: {inner!r}") from inner


def retire_session(store: Store, key: str) -> None:
    """Remove the record of a session that has ended or has a newer one. Where it may not be
    removed, by append-only credentials or a lock, it stays and delays garbage collection."""
    delete_if_allowed(store, key)


LEASE_KEY = "sessions/gc"


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    raise TypeError(f"{type(value).__name__} in a record")
