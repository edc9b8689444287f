"""When packs were last deleted: until no list can show these any more, every mark stays.

A mark outlives its packs, so that whoever finds one listed that was deleted finds it marked. That
one collection's list no longer shows a pack says nothing of what others' lists show. So each notes
that it deletes, under one name, which is looked for and never listed. One that dies meanwhile
leaves its lease: the next begins when lists have caught up."""

from __future__ import annotations

from datetime import datetime, timedelta

from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.records import LEASE_KEY
from quiesce.vault.stores.store import ObjectMissing, delete_if_allowed

NOTE_KEY = "tmp/packs-deleted"
_NOTED_AGAIN_AFTER = timedelta(hours=1)
_LATELY = timedelta(hours=3)
"""A note that is an hour old, lists that are an hour late, and one to spare."""


class Deletions:
    """Of packs, by collections one after the other. How long ago is told by the store's times
    alone.

    :ivar lately: whether a list may show what an earlier one has deleted
    """

    def __init__(self, contents: Contents) -> None:
        """To be made by the holder of a lease that is new: it has the store's present time."""
        self._contents = contents
        now, noted_at = self._time_of(LEASE_KEY), self._time_of(NOTE_KEY)
        self.lately = False
        self._earlier = noted_at is not None
        self._noted_at: datetime | None = None
        """By the clock here."""
        if noted_at is not None:
            age = now - noted_at if now is not None else timedelta()
            self.lately = age < _LATELY
            if age < _NOTED_AGAIN_AFTER:
                self._noted_at = contents.clock() - age

    def note(self) -> None:
        """To be called before each pack goes.

        :raise StorageFailure: as `Store.put`
        """
        now = self._contents.clock()
        if self._noted_at is not None and abs(now - self._noted_at) < _NOTED_AGAIN_AFTER:
            return
        # One that a retention policy keeps stays as old as it is: lists are exact in such stores.
        delete_if_allowed(self._contents.store, NOTE_KEY)
        self._contents.records.put_for_upkeep(NOTE_KEY, "probe", {})
        self._noted_at = now
        self._earlier = False

    def forget(self) -> None:
        """A note of an earlier collection, once it says nothing any more."""
        if self._earlier and not self.lately:
            delete_if_allowed(self._contents.store, NOTE_KEY)

    def _time_of(self, key: str) -> datetime | None:
        try:
            return self._contents.store.stat(key).modified_at
        except ObjectMissing:
            return None
