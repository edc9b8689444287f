"""One garbage collection of a vault at a time.

The lease is an object that is created if absent. Who holds it renews it while the work goes on;
one that was not renewed for `LEASE_LIFE` is of a collection that died, and is taken over. Objects
never change, so renewing is deleting and creating: whoever finds another's lease in the place of
its own has lost it and stops, which a collection may do anywhere.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta

from quiesce.model.failure import Evidence, Failure, StorageFailure, VaultFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.records import LEASE_KEY
from quiesce.vault.format.sealed import SealError
from quiesce.vault.format.times import read_time
from quiesce.vault.stores.store import ObjectMissing, Put

LEASE_LIFE = timedelta(hours=6)
MOST_AHEAD = timedelta(hours=3)
"""What a collection's margins bear. A clock further ahead would take living writers for dead."""
_RENEWED_AFTER = timedelta(hours=1)


class Lease:
    """Thread-safe."""

    def __init__(self, contents: Contents) -> None:
        """:raise VaultFailure: vault.collect-running"""
        self._contents = contents
        self._renewing = threading.Lock()
        self._holder = secrets.token_hex(16)
        try:
            taken = self._put()
        except StorageFailure:
            self.release()  # it may be there all the same, and would stand for six hours
            raise
        holder, at = (self._holder, None) if taken else self._current()
        # Ours also when only the second try of a put was answered.
        if holder != self._holder:
            if at is not None and contents.clock() - at < LEASE_LIFE:
                raise _running(at)
            contents.store.delete(LEASE_KEY)
            if not self._put():
                raise _running(contents.clock())

    def compare_clocks(self) -> None:
        """For who judges others by their age. Soon after it began: the lease was made just now,
        and so its time is the store's.

        :raise VaultFailure: vault.clock-ahead, vault.collect-running
        """
        now = self._contents.clock()
        try:
            ahead = now - self._contents.store.stat(LEASE_KEY).modified_at
        except ObjectMissing as inner:
            raise _running(now) from inner  # who thinks it dead is about to take it
        if ahead > MOST_AHEAD:
            raise _ahead(ahead)

    def beat(self) -> None:
        """To be called before every step that changes anything, and between long ones.

        :raise VaultFailure: vault.collect-running, when somebody has taken the lease over
        """
        # Two threads that renew it at once would each find the other's gap.
        with self._renewing:
            if self._contents.clock() - self._renewed_at >= _RENEWED_AFTER:
                self._renew()

    def _renew(self) -> None:
        holder, at = self._current()
        if holder != self._holder:
            raise _running(at or self._contents.clock())
        self._contents.store.delete(LEASE_KEY)
        if not self._put():
            raise _running(self._contents.clock())

    def release(self) -> None:
        with contextlib.suppress(Failure):
            if self._current()[0] == self._holder:
                self._contents.store.delete(LEASE_KEY)

    def _put(self) -> bool:
        self._renewed_at = self._contents.clock()
        values = {"at": self._renewed_at, "holder": self._holder}
        put = self._contents.records.put_for_upkeep(LEASE_KEY, "lease", values)
        return put is Put.CREATED

    def _current(self) -> tuple[str, datetime | None]:
        """Its holder and time; no time when there is no lease. One that cannot be read has the
        store's time."""
        try:
            values = self._contents.records.read(LEASE_KEY, "lease")
            return str(values.get("holder", "")), read_time(values["at"])
        except ObjectMissing:
            return "", None
        except (SealError, KeyError, TypeError, ValueError):
            return "", self._contents.store.stat(LEASE_KEY).modified_at


@contextlib.contextmanager
def leased(contents: Contents) -> Iterator[Lease]:
    """:raise VaultFailure: vault.collect-running"""
    lease = Lease(contents)
    try:
        yield lease
    finally:
        lease.release()


def _ahead(ahead: timedelta) -> VaultFailure:
    return VaultFailure(
        "vault.clock-ahead",
        "This machine's clock is too far ahead of the store's to tell who lives from who died.",
        evidence=[
            Evidence(f"{ahead.total_seconds() / 3600:.1f} hours ahead of the store", LEASE_KEY)
        ],
    )


def _running(since: datetime) -> VaultFailure:
    return VaultFailure(
        "vault.collect-running",
        "Another garbage collection is being executed on this vault.",
        evidence=[Evidence(f"its lease is of {since.isoformat()}", LEASE_KEY)],
        remedy="Wait for it. The lease of one that died is taken over after six hours.",
        retryable=True,
    )
