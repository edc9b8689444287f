"""A bucket with Object Lock, in memory: every version stays until its lock ends, a deletion only
hides. And what an attacker with all permissions but those of time leaves of it."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

from paper_store import PaperStore
from vault_scene import KEY, FakeClock, Scene

from quiesce.model.failure import StorageFailure
from quiesce.vault import Vault
from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.lock_ledger import LockLedger
from quiesce.vault.stores.locking import LockingStore
from quiesce.vault.stores.locks import Lock, Mode, Terms
from quiesce.vault.stores.store import Put

MONTH = Terms(Mode.COMPLIANCE, 30)


class PaperBucket(PaperStore):
    """As `ObjectStore` is to `LockingStore`. Its own time is `clock`'s and `ahead`."""

    address = "s3://paper"
    has_locks = True

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.ahead = timedelta()
        self.may_lock = True
        self.locks: dict[str, Lock] = {}
        self.hidden: list[tuple[str, bytes, Lock | None]] = []
        self.asked: Counter[str] = Counter()
        super().put("quiesce-store", b"marker")

    def put(self, key: str, data: Buffer, lock: Lock | None = None) -> Put:
        # Of an object that is there a server may say so before it looks at the right to lock.
        if lock is not None and not self.may_lock and key not in self.objects:
            raise _forbidden()
        self.asked["put"] += 1
        result = super().put(key, data)
        if result is Put.CREATED and lock is not None:
            self.locks[key] = lock
        return result

    def delete(self, key: str) -> None:
        if key in self.objects:
            self.hidden.append((key, self.objects[key][0], self.locks.pop(key, None)))
        super().delete(key)

    def locked(self, key: str) -> tuple[Lock | None, datetime]:
        self.asked["look"] += 1
        self._found(key)
        return self.locks.get(key), self.clock() + self.ahead

    def lock(self, key: str, lock: Lock) -> None:
        self.asked["lock"] += 1
        self._found(key)
        now = self.locks.get(key)
        if not self.may_lock:
            raise _forbidden()
        if now is not None and not lock.serves(now):
            raise StorageFailure("storage.locked", "A lock is never shortened.")
        self.locks[key] = lock

    def check_locks(self) -> None:
        return

    def survivors(self, at: datetime) -> PaperStore:
        """Everything that nobody could destroy until then, with what was hidden brought back."""
        kept = PaperStore(self.clock)
        visible = [(key, data, self.locks.get(key)) for key, (data, _) in self.objects.items()]
        for key, data, lock in (*visible, *self.hidden):
            if lock is not None and lock.until > at:
                kept.put(key, data)
        return kept


def _forbidden() -> StorageFailure:
    return StorageFailure(
        "storage.locked", "not authorized to perform: s3:PutObjectRetention on this object"
    )


def host_of(bucket: PaperBucket, clock: FakeClock, ledger: Path | None = None) -> LockingStore:
    """The bucket as one machine sees it, with a memory of its own."""

    def ledger_of(mode: Mode) -> LockLedger:
        return LockLedger(ledger and ledger / mode.value)

    return LockingStore(bucket, ledger_of, clock, lambda: clock().timestamp())  # type: ignore[arg-type]


def read_after_attack(bucket: PaperBucket, at: datetime, point_id: str) -> bytes:
    """The disk of this point, out of what no attacker could have destroyed until `at`: its owner
    removes the marks by which the attacker, or anybody, has deleted something."""
    left = bucket.survivors(at)
    for key in left.keys("deleted/"):
        left.delete(key)
    scene = Scene(Vault.open(left, KEY, clock=lambda: at), bucket.clock)  # type: ignore[arg-type]
    scene.vault.contents.refresh(scan_unindexed=True)
    return scene.restore(point_id)
