"""A vault's objects in a bucket of an object store: S3, Azure Blob Storage, Google Cloud Storage.

What makes a bucket a store is its object `quiesce-store`, whose content is random: it is asked for
before changes now and then, and whenever an object is missing, so that an emptied or exchanged
bucket is told apart from a vault that lost something.

Put-if-absent is the server's: one request with `If-None-Match: *` (Google: generation 0). Servers
that pass over that condition would overwrite in silence; they are found out before the first
object is written, by putting the marker once more, and refused.

Every request is tried again, after pauses that grow, when the server asks for fewer, fails or does
not answer. An answer that got lost leaves open whether a put took effect: it is put again, and an
object that is there by then is looked at. Credentials that are refused are read once more, as
somebody may have renewed them.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import obstore
from blake3 import blake3
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError

from quiesce.model.failure import Evidence, StorageFailure
from quiesce.vault.stores.cloud import Clients, Connect
from quiesce.vault.stores.cloud_failures import Answer, explain
from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.locks import Lock
from quiesce.vault.stores.store import (
    EARLIEST,
    KEY,
    LATEST,
    MARKER,
    ObjectInfo,
    ObjectMissing,
    Put,
    check_key,
)

if TYPE_CHECKING:
    from quiesce.vault.stores.s3_locks import S3Locks

_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds, each shortened by chance to as little as half. Half a minute outlives what services call
transient; longer trouble is the job's to sit out."""
_CHECK_SECONDS = 60.0
_TELLING_BYTES = 4096
"""Every object of a vault begins with a random salt, or is random and shorter than this: two that
agree so far, and in length, came from one put."""
_PAGE = 1000
_REFUSALS = (BaseError, FileNotFoundError)

T = TypeVar("T")


class Sleep(Protocol):
    def __call__(self, seconds: float, /) -> None: ...


class ObjectStore:
    """Use `open` or `create`. Thread-safe; any number of processes may use one bucket."""

    uploads_at_once = 4

    def __init__(self, connect: Connect, address: str, sleep: Sleep = time.sleep) -> None:
        self._connect = connect
        self._address = address
        self._sleep = sleep
        self._clients = connect()
        self._lock = threading.Lock()
        self._identity = b""
        self._checked_at = 0.0
        self._conditional = False

    @classmethod
    def open(cls, connect: Connect, address: str, *, sleep: Sleep = time.sleep) -> ObjectStore:
        """:raise StorageFailure: storage.vanished when no store is there,
        storage.no-conditional-put"""
        store = cls(connect, address, sleep)
        store._check(now=True)
        store._prove_conditional()
        return store

    @classmethod
    def create(cls, connect: Connect, address: str, *, sleep: Sleep = time.sleep) -> ObjectStore:
        """Mark a place as a store, or open the one that is there.

        :raise StorageFailure: storage.not-empty, storage.no-conditional-put, storage.vanished
            when there is no such bucket
        """
        store = cls(connect, address, sleep)
        try:
            store._get(MARKER)
        except ObjectMissing:
            found = next(store._listed(""), None)
            if found is not None:
                raise StorageFailure(
                    "storage.not-empty",
                    f"{address} holds other objects; a vault needs a place of its own.",
                    evidence=[Evidence(f"found {found.key[:80]!r}", address)],
                ) from None
            store._put(MARKER, secrets.token_hex(16).encode())
        store._check(now=True)
        store._prove_conditional()
        return store

    @property
    def address(self) -> str:
        return self._address

    @property
    def identity(self) -> str:
        """What tells this store from any other, also one that comes into its place: 32 hex."""
        return blake3(self._identity).hexdigest()[:32]

    def put(self, key: str, data: Buffer, lock: Lock | None = None) -> Put:
        """`lock`: created with it, in one step; only where `has_locks`."""
        check_key(key)
        self._check()
        self._prove_conditional()
        return self._put(key, data, lock=lock)

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        return self._get(check_key(key), limit_bytes)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        check_key(key)
        if length <= 0:
            self.stat(key)
            return b""

        def ask(clients: Clients) -> bytes:
            try:
                return bytes(obstore.get_range(clients.reads, key, start=offset, length=length))
            except BaseError as error:
                if Answer.of(error).out_of_range:
                    return b""
                raise

        return self._ask(ask, key, "read")

    def stat(self, key: str) -> ObjectInfo:
        return _info(self._ask(lambda c: obstore.head(c.reads, check_key(key)), key, "look at"))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = check_key(prefix.rstrip("/"))
        self._check()
        for info in self._listed(folder + "/"):
            if KEY.match(info.key):
                yield info

    def delete(self, key: str) -> None:
        check_key(key)
        self._check()

        def ask(clients: Clients) -> None:
            try:
                obstore.delete(clients.writes, key)
            except FileNotFoundError as error:
                if Answer.of(error).vanished:
                    raise

        self._ask(ask, key, "delete")

    def free_bytes(self) -> int | None:
        return None

    def keep_reserve(self, size_bytes: int) -> None:
        """Nothing: a bucket is never full, and deleting needs no room."""

    def give_back_reserve(self) -> None:
        """Nothing was kept back."""

    # ── retention locks, where the cloud has them ────────────────────────────────────────────

    @property
    def has_locks(self) -> bool:
        """Whether locks can be set in this cloud; the bucket may lack them all the same."""
        return self._clients.locks is not None

    def locked(self, key: str) -> tuple[Lock | None, datetime]:
        """The object's lock, if it has one and it may be known; and the store's own time.

        :raise ObjectMissing: storage.object-missing
        """
        return self._ask(lambda c: _locks(c).look(check_key(key)), key, "look at")

    def lock(self, key: str, lock: Lock) -> None:
        """To be called only to have an object locked for longer.

        :raise StorageFailure: storage.locked, where the present lock is the stricter one
        """
        self._ask(lambda c: _locks(c).lock(check_key(key), lock), key, "lock")

    def check_locks(self) -> None:
        """:raise StorageFailure: storage.locks-unsupported: the bucket has none"""
        self._ask(lambda c: _locks(c).enabled(), MARKER, "find the retention locks of")

    # ── requests ─────────────────────────────────────────────────────────────────────────────

    def _get(self, key: str, limit_bytes: int = _TELLING_BYTES) -> bytes:
        def ask(clients: Clients) -> bytes:
            answer = obstore.get(clients.reads, key)
            size = answer.meta["size"]
            if size > limit_bytes:
                raise StorageFailure(
                    "storage.object-too-large",
                    f"{self._address}/{key} is {size} bytes long; at most {limit_bytes} were "
                    "expected.",
                    evidence=[Evidence(f"size {size} bytes", f"{self._address}/{key}")],
                )
            return bytes(answer.bytes())

        return self._ask(ask, key, "read")

    def _put(
        self, key: str, data: Buffer, *, was_there: bool = False, lock: Lock | None = None
    ) -> Put:
        """`was_there`: known before, so that a refusal never means an earlier try of this put."""
        doubtful = False

        def refused(clients: Clients) -> Put:
            if doubtful and not was_there:
                return self._whose(clients, key, data)
            return Put.ALREADY_THERE

        def ask(clients: Clients) -> Put:
            nonlocal doubtful
            try:
                if lock is None:
                    obstore.put(clients.writes, key, data, mode="create", use_multipart=False)
                else:
                    _locks(clients).put(key, data, lock)
            except AlreadyExistsError as error:
                if Answer.of(error).conflict:
                    raise
                return refused(clients)
            except PermissionDeniedError:
                # Credentials that may create and not overwrite are told so before the condition.
                if not _is_there(clients, key):
                    raise
                return refused(clients)
            except BaseError as error:
                # Refused with a reason: nothing happened. Otherwise who knows.
                status = Answer.of(error).status
                doubtful = doubtful or status in (0, 408) or status >= 500
                raise
            return Put.CREATED

        return self._ask(ask, key, "write")

    def _whose(self, clients: Clients, key: str, data: Buffer) -> Put:
        """Whether what is there came from a put of ours whose answer got lost."""
        found = obstore.get(clients.reads, key, options={"range": (0, _TELLING_BYTES)})
        same = bytes(found.bytes()) == bytes(memoryview(data)[:_TELLING_BYTES])
        return Put.CREATED if same and found.meta["size"] == len(data) else Put.ALREADY_THERE

    def _listed(self, prefix: str) -> Iterator[ObjectInfo]:
        """Page by page. When one fails, the list begins anew behind the last key: only then, as
        not every cloud can skip what comes before."""
        pages: Iterator[Sequence[Any]] | None = None
        last: str | None = None

        def ask(clients: Clients) -> Sequence[Any] | None:
            nonlocal pages
            listing, pages = pages, None
            if listing is None:
                listing = iter(
                    obstore.list(clients.reads, prefix or None, offset=last, chunk_size=_PAGE)
                )
            page = next(listing, None)
            pages = listing
            return page

        while page := self._ask(ask, prefix, "list"):
            yield from map(_info, page)
            last = page[-1]["path"]

    def _ask(self, ask: Callable[[Clients], T], key: str, doing: str) -> T:
        where = f"{self._address}/{key}"
        pauses = iter(_PAUSES)
        renewed = False
        while True:
            clients = self._clients
            try:
                return ask(clients)
            except _REFUSALS as error:
                failure = explain(error, where, doing)
                if failure.code == "storage.credentials-refused" and not renewed:
                    renewed = True
                    self._renew(clients)
                    continue
                pause = next(pauses, None)
                if not failure.retryable or pause is None or not _passes(failure):
                    if isinstance(failure, ObjectMissing) and key != MARKER:
                        self._check(now=True)
                    # What was said is its evidence; the client's own text is a page of its insides.
                    raise failure from None
            self._sleep(pause * random.uniform(0.5, 1.0))

    def _renew(self, used: Clients) -> None:
        with self._lock:
            if self._clients is used:
                self._clients = self._connect()

    # ── what this place is ───────────────────────────────────────────────────────────────────

    def _check(self, *, now: bool = False) -> None:
        """The place is still the store that was opened."""
        if not now and time.monotonic() - self._checked_at < _CHECK_SECONDS:
            return
        try:
            identity = self._get(MARKER)
        except ObjectMissing as missing:
            raise StorageFailure(
                "storage.vanished",
                f"No vault's store is at {self._address}.",
                evidence=missing.evidence,
                retryable=True,
            ) from missing
        if self._identity and identity != self._identity:
            raise StorageFailure(
                "storage.vanished",
                f"Another store now lies at {self._address}.",
                evidence=[Evidence(f"marker {identity[:64]!r}", f"{self._address}/{MARKER}")],
                retryable=True,
            )
        self._identity = identity
        self._checked_at = time.monotonic()

    def _prove_conditional(self) -> None:
        """Put the marker, as it is, once more: a server that takes it would overwrite anything.
        Whoever may only read, or only create, is refused and could overwrite nothing.

        :raise StorageFailure: storage.no-conditional-put
        """
        if self._conditional:
            return
        try:
            refused = self._put(MARKER, self._identity, was_there=True) is Put.ALREADY_THERE
            evidence = Evidence("an object that exists was put again, and taken", self._address)
        except StorageFailure as failure:
            said = failure.__context__  # what it was made of; see `_ask`
            if failure.code == "storage.locked":
                refused = True
            elif said is not None and Answer.of(said).condition_unknown:
                refused, evidence = False, failure.evidence[0]
            else:
                raise
        if not refused:
            raise StorageFailure(
                "storage.no-conditional-put",
                f"The server of {self._address} cannot create an object only if it is absent, "
                "and could overwrite one vault's data with another's.",
                evidence=[evidence],
            )
        self._conditional = True


def _passes(failure: StorageFailure) -> bool:
    """Whether it may be over within seconds; a bucket does not come back so soon."""
    return failure.code in ("storage.throttled", "storage.unreachable", "storage.io-error")


def _locks(clients: Clients) -> S3Locks:
    if clients.locks is None:
        raise ValueError("no locks can be set in this cloud")
    return clients.locks


def _is_there(clients: Clients, key: str) -> bool:
    try:
        obstore.head(clients.reads, key)
    except _REFUSALS:
        return False
    return True


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], min(max(meta["last_modified"], EARLIEST), LATEST))
