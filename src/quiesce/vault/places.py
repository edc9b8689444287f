"""The store at an address: a folder, or a bucket with a local copy of its index."""

from __future__ import annotations

from pathlib import Path

from quiesce.vault.stores.address import Address, parse_address
from quiesce.vault.stores.local import LocalStore
from quiesce.vault.stores.store import Store


def open_store(address: str, *, cache_folder: Path | None = None) -> Store:
    """The store there, which must exist. Stores in the cloud keep a local copy of their index
    in `cache_folder`, by default the one of this user.

    :raise InputFailure: as `parse_address`
    :raise StorageFailure: storage.vanished, storage.credentials-missing and others of `cloud`
    """
    return _store(parse_address(address), cache_folder, create=False)


def create_store(address: str, *, cache_folder: Path | None = None) -> Store:
    """A new store there, or the one that is there. A bucket or container must exist.

    :raise InputFailure: as `parse_address`
    :raise StorageFailure: storage.not-empty, storage.no-conditional-put and as `open_store`
    """
    return _store(parse_address(address), cache_folder, create=True)


def _store(address: Address, cache_folder: Path | None, *, create: bool) -> Store:
    if address.folder is not None:
        return LocalStore.create(address.folder) if create else LocalStore(address.folder)
    # Imported here: the clouds' libraries take their time, and most vaults are folders.
    from quiesce.vault.contents.cache import CachingStore, IndexCache, default_cache_folder
    from quiesce.vault.stores.cloud import connector
    from quiesce.vault.stores.object_store import ObjectStore

    connect = connector(address)
    make = ObjectStore.create if create else ObjectStore.open
    store = make(connect, str(address))
    return CachingStore(store, IndexCache(cache_folder or default_cache_folder()))
