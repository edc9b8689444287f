"""One garbage collection of a vault at a time.

The lease is an object that is created if absent. Who holds it renews it while the work goes on;
one that was not renewed for `LEASE_LIFE` is of a collection that died, and is taken over. Objects
never change, so renewing is deleting and creating: whoever finds another's lease in the place of
its own has lost it and stops, which a collection may do anywhere.

Whether a lease lives is told by the store's times alone, since no machine's clock can be relied on:
neither that of who looks, nor that of who holds it.
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
from quiesce.vault.stores.store import ObjectMissing, Put, delete_if_allowed

LEASE_LIFE = timedelta(hours=6)
_MOST_AHEAD = timedelta(hours=3)
"""What a collection's margins bear. A clock further ahead would take living writers for dead."""
_RENEWED_AFTER = timedelta(hours=1)
_LOOKED_AFTER = timedelta(minutes=1)
"""Two that take over the same dead lease at once may each find it gone and make its own: the one
whose lease was deleted for the other's finds that out soon."""
_GIVEN_UP_AFTER = LEASE_LIFE - timedelta(hours=1)
"""Who has not come to renew it for so long stops by itself: others are about to think it dead."""


def lives(stored_at: datetime, now: datetime) -> bool:
    """Whether a lease that was stored then is of a collection that may still run. Both are times
    of the store."""
    return now - stored_at < LEASE_LIFE


def _time_of_store(contents: Contents) -> datetime:
    """What time it is by the store, as an object tells that is made for this and removed.

    :raise VaultFailure: vault.collect-running
    """
    key = f"tmp/{secrets.token_hex(16)}"
    contents.records.put_for_upkeep(key, "probe", {})
    try:
        return contents.store.stat(key).modified_at
    except ObjectMissing as inner:  # it lay there for a day: this process stood still
        raise _running("it has cleared away what this one had just put") from inner
    finally:
        # One that stays is cleared by a later collection, as are other pieces of writes.
        delete_if_allowed(contents.store, key)


def _compare_clocks(contents: Contents) -> None:
    """
    :raise VaultFailure: vault.clock-ahead, vault.collect-running
    """
    ahead = contents.clock() - _time_of_store(contents)
    if ahead > _MOST_AHEAD:
        raise VaultFailure(
            "vault.clock-ahead",
            "This machine's clock is too far ahead of the store's to tell who lives from who died.",
            evidence=[
                Evidence(
                    f"{ahead.total_seconds() / 3600:.1f} hours ahead of the store",
                    contents.store.address,
                )
            ],
        )


class Lease:
    """Thread-safe."""

    def __init__(self, contents: Contents) -> None:
        """:raise VaultFailure: vault.collect-running, vault.lease-locked"""
        self._contents = contents
        self._renewing = threading.Lock()
        self._holder = secrets.token_hex(16)
        try:
            if not self._put():
                self._take_over()
        except StorageFailure:
            self.release()  # it may be there all the same, and would stand for six hours
            raise

    def beat(self) -> None:
        """To be called before every step that changes anything, and between long ones.

        :raise VaultFailure: vault.collect-running, when somebody has taken the lease over or may
            have; vault.lease-locked
        """
        # Two threads that renew it at once would each find the other's gap.
        with self._renewing:
            # Also when the clock was set back: it would keep the lease from being renewed.
            silent = abs(self._contents.clock() - self._renewed_at)
            if silent >= _GIVEN_UP_AFTER:
                raise _running(
                    f"it gave no sign for {silent}, or its clock was set",
                    "This garbage collection stood still for so long that another may have begun.",
                )
            if silent >= _RENEWED_AFTER:
                self._renew()
            elif abs(self._contents.clock() - self._seen_at) >= _LOOKED_AFTER:
                self._look()

    def release(self) -> None:
        with contextlib.suppress(Failure):
            if self._is_ours():
                self._contents.store.delete(LEASE_KEY)

    def _look(self) -> None:
        if not self._is_ours():
            raise _running("it has taken the lease of this one over")
        self._seen_at = self._contents.clock()

    def _renew(self) -> None:
        self._look()
        self._delete()
        if not self._put():
            raise _running("it began while the lease of this one was being renewed")

    def _take_over(self) -> None:
        now = _time_of_store(self._contents)
        try:
            stored_at = self._contents.store.stat(LEASE_KEY).modified_at
        except ObjectMissing as inner:  # it ends just now, or renews its lease
            raise _running("its lease was there a moment ago") from inner
        if lives(stored_at, now):
            raise _running(
                f"its lease is of {stored_at.isoformat()}, and the store's time is "
                f"{now.isoformat()}"
            )
        self._delete()
        if not self._put():
            raise _running("it has taken over the same lease")

    def _put(self) -> bool:
        """Whether the lease is this one's now."""
        self._renewed_at = self._seen_at = self._contents.clock()
        values = {"at": self._renewed_at, "holder": self._holder}
        with _not_locked():
            put = self._contents.records.put_for_upkeep(LEASE_KEY, "lease", values)
        # Ours also when only the second try of a put was answered.
        return put is Put.CREATED or self._is_ours()

    def _delete(self) -> None:
        with _not_locked():
            self._contents.store.delete(LEASE_KEY)

    def _is_ours(self) -> bool:
        try:
            values = self._contents.records.read(LEASE_KEY, "lease")
        except (ObjectMissing, SealError):
            return False
        return values.get("holder") == self._holder


@contextlib.contextmanager
def leased(contents: Contents, *, judges_by_age: bool = False) -> Iterator[Lease]:
    """`judges_by_age`: who lives from who died; clocks are compared before anything of others is
    touched, their lease included.

    :raise VaultFailure: vault.collect-running, vault.lease-locked, vault.clock-ahead
    """
    if judges_by_age:
        _compare_clocks(contents)
    lease = Lease(contents)
    try:
        yield lease
    finally:
        lease.release()


@contextlib.contextmanager
def _not_locked() -> Iterator[None]:
    """A lease under changing names would exclude nobody, so there is no way round a lock on it.

    :raise VaultFailure: vault.lease-locked
    """
    try:
        yield
    except StorageFailure as refused:
        if refused.code != "storage.locked":
            raise
        raise VaultFailure(
            "vault.lease-locked",
            "A retention policy of the store keeps the lease of a garbage collection, so that no "
            "other can begin. Backups and restores go on.",
            evidence=refused.evidence,
        ) from refused


def _running(
    fact: str, message: str = "Another garbage collection is being executed on this vault."
) -> VaultFailure:
    return VaultFailure(
        "vault.collect-running",
        message,
        evidence=[Evidence(fact, LEASE_KEY)],
        remedy="Wait for it. The lease of one that died is taken over after six hours.",
        retryable=True,
    )
