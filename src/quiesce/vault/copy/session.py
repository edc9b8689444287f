"""A copy's sign of life in a store: garbage collection there leaves to it what it counts on.

It is a session record as writers have (`sessions/copy-<what copies>-<random>`). In the target it
states that it began long ago: a collection then deletes nothing, neither packs that arrive before
their points, nor packs that were marked when nothing needed them and are needed by points that
come now. In the source it states when it began, as a writer's does. Without the key no readable
record can be made; one that cannot be read counts as begun long ago, too.

A collection heeds what its lists show. So nothing that is marked in the target is counted on before
a list there shows this record, or one of an earlier copy between the same places that is not dead;
the record before stays until the new one is shown, and the last until the points are.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Mapping
from datetime import datetime

from blake3 import blake3

from quiesce.model.failure import Evidence, Failure, StorageFailure, VaultFailure
from quiesce.vault.contents.contents import Clock
from quiesce.vault.contents.lease import lives
from quiesce.vault.contents.records import LEASE_KEY, Records, retire_session
from quiesce.vault.format.keys import VaultKeys
from quiesce.vault.format.pack import pack_key
from quiesce.vault.points.writer import HEARTBEAT, SESSION_LIMIT
from quiesce.vault.stores.store import CANNOT_WRITE, ObjectInfo, ObjectMissing, Store

_KEYLESS = b"A copy is under way that has no key of this vault.\n"
_REPLACED = (
    "Another copy from and to the same places has begun beside this one and taken its place, so"
)
_CANNOT_WRITE = CANNOT_WRITE - {"storage.full"}


class CopySession:
    """Written when made; a record that an earlier copy from and to the same places left behind
    when it died is removed."""

    def __init__(
        self, store: Store, keys: VaultKeys | None, *, between: str, began: datetime, clock: Clock
    ) -> None:
        """`between` says what is copied to where; `began` is what the record states.

        :raise StorageFailure: as `Store.put`
        """
        self._store = store
        self._keys = keys
        self._clock = clock
        self._began = began
        name = blake3(f"{socket.gethostname()}\0{between}".encode()).hexdigest()[:16]
        self._prefix = f"sessions/copy-{name}-"
        earlier = self._listed()
        self.key = self._put()
        # By the store's clock, which no host can have set wrong.
        self.stored_at = self.check().modified_at
        self._earlier = [info.key for info in earlier]
        self._awaited: set[str] = set()
        self.is_seen = self.key in {info.key for info in self._listed()}
        if self.is_seen:
            self._retire_earlier()
        else:
            self.is_seen = any(self._lives(info) for info in earlier)

    def beat(self) -> None:
        """To be called now and then; renews the record every hour.

        :raise VaultFailure: vault.session-expired
        """
        if self._clock() - self._beaten < HEARTBEAT:
            return
        self.check()
        old, self.key = self.key, self._put()
        self._retire_earlier()
        self._earlier = [old]

    def keep_until_listed(self, key: str) -> None:
        """The record outlives the copy until a list shows this object."""
        self._awaited.add(key)

    def check(self) -> ObjectInfo:
        """To be called before what counts on the record, which is returned.

        :raise VaultFailure: vault.session-expired
        """
        late = self._clock() - self._beaten
        inner: Failure | None = None
        if late < SESSION_LIMIT:
            try:
                return self._store.stat(self.key)
            except ObjectMissing as missing:
                inner = missing
        raise VaultFailure(
            "vault.session-expired",
            ("This copy gave no sign for so long" if late >= SESSION_LIMIT else _REPLACED)
            + " that its target no longer keeps what it has brought.",
            evidence=[Evidence(f"last sign {late} ago", f"{self._store.address}/{self.key}")],
            remedy="Copy again; what has arrived and is still there is not sent twice.",
            retryable=True,
        ) from inner

    def leave(self) -> None:
        # A record that stays only delays garbage collection.
        with contextlib.suppress(Failure):
            folders = {key.partition("/")[0] + "/" for key in self._awaited}
            listed = {info.key for folder in folders for info in self._store.list(folder)}
            if self._awaited <= listed:
                for key in (*self._earlier, self.key):
                    self._store.delete(key)

    def _listed(self) -> list[ObjectInfo]:
        return [i for i in self._store.list("sessions/") if i.key.startswith(self._prefix)]

    def _lives(self, record: ObjectInfo) -> bool:
        """Whether collection heeds this record until the new one is shown. A list that is late may
        show one that is gone."""
        with contextlib.suppress(ObjectMissing):
            at = self._store.stat(record.key).modified_at
            return self.stored_at - at < SESSION_LIMIT - 2 * HEARTBEAT
        return False

    def _retire_earlier(self) -> None:
        for key in self._earlier:
            retire_session(self._store, key)
        self._earlier = []

    def _put(self) -> str:
        key = self._prefix + secrets.token_hex(8)
        self._beaten = self._clock()
        if self._keys is None:
            self._store.put(key, _KEYLESS)
        else:
            values = {"started_at": self._began, "at": self._beaten}
            Records(self._store, self._keys).put(key, "session", values)
        return key


def session_if_writable(
    store: Store, keys: VaultKeys | None, *, between: str, clock: Clock
) -> CopySession | None:
    """In the source: None when nothing can be written there."""
    try:
        return CopySession(store, keys, between=between, began=clock(), clock=clock)
    except StorageFailure as refused:
        if refused.code not in _CANNOT_WRITE:
            raise
        return None


def refuse_unseen(session: CopySession, store: Store) -> None:
    """What is marked long ago may be deleted by a collection whose lists do not show the session.
    The record then stays, so that the next try is seen.

    :raise VaultFailure: vault.copy-unseen
    """
    if not session.is_seen and any(True for _ in store.list("garbage/")):
        session.keep_until_listed(session.key)
        raise _unseen("no list shows the record of this copy yet", session.key)


def refuse_missing(store: Store, packs: Mapping[bytes, int]) -> None:
    """These are marked, listed, and of these sizes. A list that is late shows what is deleted, and
    a collection that was just renewing its lease may have deleted meanwhile.

    :raise VaultFailure: vault.copy-unseen
    """
    for name, size_bytes in packs.items():
        key = pack_key(name)
        with contextlib.suppress(ObjectMissing):
            if store.stat(key).size_bytes == size_bytes:
                continue
        raise _unseen("it was listed, and has been deleted as garbage", key)


def refuse_beside_collection(session: CopySession, store: Store) -> None:
    """A collection that began before the session was seen may still delete what the copy counts
    on; one that begins later does not. Whether it lives is told by the store's times alone: a clock
    that is fast would take it for dead. To be called twice, with other work between: a lease that
    is being renewed is away for a moment.

    :raise VaultFailure: vault.collect-running
    """
    try:
        since = store.stat(LEASE_KEY).modified_at
    except ObjectMissing:
        return
    if lives(since, session.stored_at):
        raise VaultFailure(
            "vault.collect-running",
            "A garbage collection is being executed on the target of this copy.",
            evidence=[Evidence(f"its lease is of {since.isoformat()}", LEASE_KEY)],
            retryable=True,
        )


def _unseen(fact: str, key: str) -> VaultFailure:
    return VaultFailure(
        "vault.copy-unseen",
        "The target of this copy has packs marked as garbage, and its lists are late.",
        evidence=[Evidence(fact, key)],
        remedy="Copy again in an hour or two. Nothing was copied now, and nothing is lost.",
        retryable=True,
    )
