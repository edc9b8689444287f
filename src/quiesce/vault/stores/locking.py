"""A store whose objects are locked for a time, where the vault in it asks for that.

What must last is created with its lock, in one request. What was stored earlier is locked for
longer by `hold`, when a new point refers to it. No lock is ever shortened, and a lock that still
lasts costs no request: this machine remembers what it has seen (`lock_ledger`).

Time is the store's, from the `Date` of its answers: a host whose clock was set back must not make
locks too short, nor one whose clock runs ahead lock for years. Where the two differ by more than
`APART`, nothing is locked at all, and so nothing is stored. Between answers time goes on by a
clock that cannot be set; `hold` asks anew.

Deleting in a bucket with Object Lock hides an object and destroys no locked version of it. So
garbage collection goes on as ever: a copy of a chunk that it hides stays in the bucket, and can be
brought back, until its own lock ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from quiesce.model.failure import Evidence, PolicyFailure, StorageFailure
from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.in_front import InFront
from quiesce.vault.stores.lock_ledger import LockLedger
from quiesce.vault.stores.locks import FOLDER, Lock, Mode, Terms, terms_of
from quiesce.vault.stores.store import MARKER, ObjectMissing, Put, Store, delete_if_allowed

if TYPE_CHECKING:
    from quiesce.vault.stores.object_store import ObjectStore

APART = timedelta(minutes=10)
"""S3 itself refuses requests of clocks that are wrong by more than 15."""
_TERMS_SECONDS = 60.0
_ANCHOR_SECONDS = 3600.0
_AT_ONCE = 16
_MAY_NOT = ("storage.denied", "storage.locked")
"""Both answers to whoever may not set a lock: one server names the permission, which sounds like a
lock, another does not."""
_LASTING = ("packs/", "index/", "points/", "keys/", FOLDER)


class LockingStore(InFront):
    """Thread-safe."""

    origin: ObjectStore

    def __init__(
        self,
        origin: ObjectStore,
        ledger: Callable[[Mode], LockLedger] = lambda mode: LockLedger(),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ledger`: what is known to be locked in this mode. `clock`: the host's, to be compared
        with the store's. `elapsed`: seconds, by what cannot be set."""
        super().__init__(origin)
        self._ledger_of = ledger
        self._ledgers: dict[Mode, LockLedger] = {}
        self._clock = clock
        self._elapsed = elapsed
        self._lock = threading.Lock()
        self._terms: Terms | None = None
        self._terms_at: float | None = None
        self._anchor: tuple[datetime, float] | None = None

    # ── what the vault asks for ──────────────────────────────────────────────────────────────

    def terms(self, *, fresh: bool = False) -> Terms | None:
        """What the vault here asks for, as of a minute ago at most; None: no locks."""
        with self._lock:
            now = self._elapsed()
            if fresh or self._terms_at is None or now - self._terms_at > _TERMS_SECONDS:
                self._terms = terms_of(info.key for info in self.origin.list(FOLDER))
                self._terms_at = now
            return self._terms

    def ask_for(self, terms: Terms) -> None:
        """From now on, all that a point needs is locked for so long. More than was asked for is
        kept. Whether these credentials may lock, and the bucket can, shows here, also where this
        was asked for before.

        :raise StorageFailure: storage.locks-unsupported, storage.lock-denied, storage.clock-apart
        """
        self.origin.check_locks()
        if self._put(terms.key, terms.key.encode(), terms) is Put.ALREADY_THERE:
            self._lock_for_longer(terms)
        self.terms(fresh=True)

    def _lock_for_longer(self, terms: Terms) -> None:
        """What asks for these terms already. A lock that is set, and not only seen, proves the
        right to set it."""
        found, _ = self.origin.locked(terms.key)
        until = self._time() + terms.time + terms.slack
        if found is not None:
            until = max(until, found.until + timedelta(seconds=1))
        try:
            self.origin.lock(terms.key, Lock(_stricter(found, terms.mode), until))
        except StorageFailure as refused:
            if refused.code not in _MAY_NOT:
                raise
            raise _denied(refused) from refused

    def ask_for_less(self, terms: Terms | None) -> None:
        """Instead of what was asked for. Locks that are set stay.

        :raise StorageFailure: storage.lock-denied when these credentials may not delete
        """
        if terms is not None:
            self.ask_for(terms)
        for info in list(self.origin.list(FOLDER)):
            if terms is None or info.key != terms.key:
                refused = delete_if_allowed(self.origin, info.key)
                if refused is not None:
                    raise _denied(refused)
        self.terms(fresh=True)

    # ── locks ────────────────────────────────────────────────────────────────────────────────

    def put(self, key: str, data: Buffer) -> Put:
        terms = self.terms() if key.startswith(_LASTING) or key == "format" else None
        return self.origin.put(key, data) if terms is None else self._put(key, data, terms)

    def _put(self, key: str, data: Buffer, terms: Terms) -> Put:
        lock = Lock(terms.mode, self._time() + terms.time + terms.slack)
        try:
            result = self.origin.put(key, data, lock)
        except StorageFailure as failure:
            if failure.code not in _MAY_NOT:
                raise
            raise _denied(failure) from failure
        if result is Put.CREATED:
            self._ledger(terms.mode).note(key, lock.until)
        return result

    def now(self) -> datetime:
        """What time it is by the store; asked for anew.

        :raise StorageFailure: storage.clock-apart
        """
        with self._lock:
            _, at = self.origin.locked(MARKER)
            apart = self._clock() - at
            if abs(apart) > APART:
                raise StorageFailure(
                    "storage.clock-apart",
                    "This machine's clock and the store's differ too much to set retention locks "
                    "by either.",
                    evidence=[
                        Evidence(
                            f"this machine's clock is {_minutes(apart)} "
                            f"{'ahead of' if apart > timedelta() else 'behind'} the store's",
                            self.address,
                        )
                    ],
                    retryable=True,
                )
            self._anchor = at, self._elapsed()
            return at

    def _time(self) -> datetime:
        anchor, seconds = self._anchor, self._elapsed()
        if anchor is None or seconds - anchor[1] > _ANCHOR_SECONDS:
            return self.now()
        return anchor[0] + timedelta(seconds=seconds - anchor[1])

    def known_until(self, name: str, terms: Terms) -> datetime | None:
        """What `remember` was told, or until when an object is known to be locked."""
        return self._ledger(terms.mode).until(name)

    def remember(self, name: str, until: datetime, terms: Terms) -> None:
        self._ledger(terms.mode).note(name, until)

    def hold(
        self,
        keys: Iterable[str],
        need: datetime,
        terms: Terms,
        beat: Callable[[], None] = lambda: None,
        *,
        may_go: bool = False,
    ) -> datetime:
        """Every one of these objects is locked until `need` when this returns. Those that are not
        yet are locked until `terms.slack` after it. Until when all of them are, as far as is known.
        `beat` is called now and then. `may_go`: others may have removed some of them meanwhile.

        :raise ObjectMissing: one of `keys` is not there
        :raise StorageFailure: storage.lock-denied and others
        """
        ledger = self._ledger(terms.mode)
        ends = [need + terms.slack]
        short = []
        for key in keys:
            known = ledger.until(key)
            if known is not None and known >= need:
                ends.append(known)
            else:
                short.append(key)
        wanted = Lock(terms.mode, need)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="vault-locks") as pool:
            futures = [pool.submit(self._hold, key, wanted, terms.slack) for key in short]
            try:
                for key, future in zip(short, futures, strict=True):
                    try:
                        until = future.result()
                    except ObjectMissing:
                        if not may_go:
                            raise
                        continue
                    ledger.note(key, until)
                    ends.append(until)
                    beat()
            finally:
                for future in futures:
                    future.cancel()
        return min(ends)

    def save(self, terms: Terms) -> None:
        """Keep what is known for the next command on this machine."""
        self._ledger(terms.mode).save(self._time())

    def last_end(self, keys: Sequence[str], *, looks: int = 64) -> datetime | None:
        """When the last of the locks of these objects ends, as far as is known or found out by so
        many requests; of what is left, by what the vault asks for. None where it asks for none."""
        terms = self.terms()
        if terms is None or not keys:
            return None
        ledger = self._ledger(terms.mode)
        known = {key: ledger.until(key) for key in keys}
        unknown = [key for key, until in known.items() if until is None]
        ends = [until for until in known.values() if until is not None]
        for key in unknown[:looks]:
            try:
                lock, _ = self.origin.locked(key)
            except ObjectMissing:
                continue
            if lock is not None:
                ends.append(lock.until)
        if len(unknown) > looks:
            ends.append(self._time() + terms.time + terms.slack)
        return max(ends, default=None)

    def _hold(self, key: str, wanted: Lock, slack: timedelta) -> datetime:
        found: Lock | None = None
        if self._ledger(wanted.mode).until(key) is None:
            found, _ = self.origin.locked(key)
            if found is not None and found.serves(wanted):
                return found.until
        until = wanted.until + slack
        mode = _stricter(found, wanted.mode)
        try:
            self.origin.lock(key, Lock(mode, until))
        except StorageFailure as refused:
            if refused.code not in _MAY_NOT:
                raise
            # Another machine may have locked it for longer meanwhile, or in the stricter mode.
            found, _ = self.origin.locked(key)
            if found is not None and found.serves(wanted):
                return found.until
            if _stricter(found, wanted.mode) is mode:
                raise _denied(refused) from refused
            self.origin.lock(key, Lock(_stricter(found, wanted.mode), until))
        return until

    def _ledger(self, mode: Mode) -> LockLedger:
        if mode not in self._ledgers:
            self._ledgers[mode] = self._ledger_of(mode)
        return self._ledgers[mode]


def locking(store: Store) -> LockingStore | None:
    """The part of this store that can lock, if it has one."""
    while isinstance(store, InFront):
        if isinstance(store, LockingStore):
            return store
        store = store.origin
    return None


def can_lock(store: Store) -> LockingStore:
    """:raise PolicyFailure: storage.locks-unsupported"""
    found = locking(store)
    if found is None:
        raise PolicyFailure(
            "storage.locks-unsupported",
            f"Quiesce cannot set retention locks in {store.address}: it does so in S3 alone.",
            evidence=[Evidence("not a bucket of S3", store.address)],
        )
    return found


def _stricter(found: Lock | None, mode: Mode) -> Mode:
    """No lock is ever put into a weaker mode."""
    return mode if found is None or mode.serves(found.mode) else found.mode


def _denied(failure: StorageFailure) -> StorageFailure:
    return StorageFailure(
        "storage.lock-denied",
        "The store does not let these credentials set the retention lock that the vault asks for.",
        evidence=failure.evidence,
    )


def _minutes(apart: timedelta) -> str:
    minutes = round(abs(apart).total_seconds() / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
