"""The store at an address: a folder, or a bucket with a local copy of its index."""

from __future__ import annotations

from pathlib import Path

from quiesce.vault.contents.contents import Clock, utc_now
from quiesce.vault.stores.address import Address, parse_address
from quiesce.vault.stores.local import LocalStore
from quiesce.vault.stores.store import Store


def open_store(address: str, *, cache_folder: Path | None = None, clock: Clock = utc_now) -> Store:
    """The store there, which must exist. Stores in the cloud keep a local copy of their index
    in `cache_folder`, by default the one of this user. `clock` is this machine's.

    :raise InputFailure: as `parse_address`
    :raise StorageFailure: storage.vanished, storage.credentials-missing and others of `cloud`
    """
    return _store(parse_address(address), cache_folder, clock, create=False)


def create_store(
    address: str, *, cache_folder: Path | None = None, clock: Clock = utc_now
) -> Store:
    """A new store there, or the one that is there. A bucket or container must exist.

    :raise InputFailure: as `parse_address`
    :raise StorageFailure: storage.not-empty, storage.no-conditional-put and as `open_store`
    """
    return _store(parse_address(address), cache_folder, clock, create=True)


def _store(address: Address, cache_folder: Path | None, clock: Clock, *, create: bool) -> Store:
    if address.folder is not None:
        return LocalStore.create(address.folder) if create else LocalStore(address.folder)
    # Imported here: the clouds' libraries take their time, and most vaults are folders.
    from quiesce.vault.contents.cache import CachingStore, IndexCache, default_cache_folder
    from quiesce.vault.stores.cloud import connector
    from quiesce.vault.stores.lock_ledger import LockLedger
    from quiesce.vault.stores.locking import LockingStore
    from quiesce.vault.stores.locks import Mode
    from quiesce.vault.stores.object_store import ObjectStore

    connect = connector(address)
    make = ObjectStore.create if create else ObjectStore.open
    store = make(connect, str(address))
    folder = cache_folder or default_cache_folder()
    cache = IndexCache(folder)
    if not store.has_locks:
        return CachingStore(store, cache)

    def ledger(mode: Mode) -> LockLedger:
        return LockLedger(folder / f"locks-{mode.value}-{store.identity}")

    return CachingStore(LockingStore(store, ledger, clock), cache)
