"""When the packs of a mark were last deleted: until no list can show them any more, it stays.

A mark outlives its packs, so that whoever finds one listed that was deleted finds it marked. That
one collection's list no longer shows a pack says nothing of what others' lists show. So each notes
which marks it deletes by, under names that are looked for and never listed. One that dies meanwhile
leaves its lease: the next begins when lists have caught up."""

from __future__ import annotations

from collections.abc import Sequence, Set
from datetime import datetime, timedelta

from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.records import LEASE_KEY, GarbageMark
from quiesce.vault.stores.store import ObjectMissing, delete_if_allowed

_NOTED_AGAIN_AFTER = timedelta(hours=1)
_LATELY = timedelta(hours=3)
"""A note that is an hour old, lists that are an hour late, and one to spare."""


def note_key(mark_key: str) -> str:
    return f"tmp/deleted-{mark_key.rpartition('/')[2]}"


class Deletions:
    """For the holder of the lease. How long ago something was the store's times alone tell."""

    def __init__(self, contents: Contents, marks: Sequence[GarbageMark]) -> None:
        self._contents = contents
        self._marks = marks
        self._noted_at: datetime | None = None

    def note(self, packs: Set[bytes]) -> None:
        """To be called before each of these goes.

        :raise StorageFailure: as `Store.put`
        """
        now = self._contents.clock()
        if self._noted_at is not None and abs(now - self._noted_at) < _NOTED_AGAIN_AFTER:
            return
        self._noted_at = now
        for mark in self._marks:
            if packs.isdisjoint(mark.packs):
                continue
            age = self._age(mark.key)
            if age is not None and age < _NOTED_AGAIN_AFTER:
                continue
            if age is not None:
                self._forget(mark.key)
            self._contents.records.put_for_upkeep(note_key(mark.key), "probe", {})

    def settled(self, mark_key: str) -> bool:
        """Whether no list shows any more what was deleted by this mark. A note of that goes."""
        age = self._age(mark_key)
        if age is not None and age < _LATELY:
            return False
        if age is not None:
            self._forget(mark_key)
        return True

    def _age(self, mark_key: str) -> timedelta | None:
        noted_at = self._time_of(note_key(mark_key))
        if noted_at is None:
            return None
        now = self._time_of(LEASE_KEY)
        # Without its lease a collection is about to stop.
        return timedelta() if now is None else now - noted_at

    def _time_of(self, key: str) -> datetime | None:
        try:
            return self._contents.store.stat(key).modified_at
        except ObjectMissing:
            return None

    def _forget(self, mark_key: str) -> None:
        # One that a retention policy keeps stays as old as it is: lists are exact in such stores.
        delete_if_allowed(self._contents.store, note_key(mark_key))
