"""What the target of a copy has already: points whose manifests are whole, and what replaces
others; and what is there by name.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from itertools import compress

from quiesce.model.failure import StorageFailure
from quiesce.vault.format.keys import VaultKeys
from quiesce.vault.format.manifest import (
    ManifestError,
    NewerManifestError,
    point_key,
    read_manifest,
)
from quiesce.vault.format.sealed import LIMIT_BYTES, NewerSealError, SealError, check
from quiesce.vault.stores.store import UNREADABLE, ObjectMissing, Store, delete_if_allowed
from quiesce.vault.upkeep.compaction import Beat

_LOOKS_AT_ONCE = 8
"""A look is all waiting."""
_LOOKS = 1024
"""Between two signs of life."""


def sizes_by_name(store: Store, keys: Collection[str], beat: Beat) -> dict[str, int]:
    """Of those of these objects that are there, which a list that is late does not tell.

    :raise StorageFailure: as `Store.stat`
    """
    wanted = sorted(keys)
    found: dict[str, int] = {}
    with ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="vault-looks") as pool:
        for at in range(0, len(wanted), _LOOKS):
            beat()
            some = wanted[at : at + _LOOKS]
            sizes = pool.map(lambda key: _size(store, key), some)
            found |= {k: size for k, size in zip(some, sizes, strict=True) if size is not None}
    return found


def whole_manifests(
    store: Store, keys: VaultKeys | None, points: Collection[str]
) -> frozenset[str]:
    """Those of these points whose manifest the store has whole. Each is read, a few KiB, as many
    at once as the store has uploads: a size says nothing of a bit that turned.

    :raise StorageFailure: as `Store.get`, when it is not about one object
    """
    ids = sorted(points)
    with ThreadPoolExecutor(store.uploads_at_once, thread_name_prefix="vault-points") as pool:
        whole = pool.map(lambda point_id: _is_whole(store, keys, point_id), ids)
        return frozenset(compress(ids, whole))


def replace_broken(
    store: Store, keys: VaultKeys | None, point_id: str, stored: bytes
) -> StorageFailure | None:
    """Put this manifest, a whole one, in the place of one that is not. The refusal, where that may
    not be deleted; None when the store has a whole one now.

    :raise StorageFailure: as `Store.put` and `Store.get`
    """
    if _is_whole(store, keys, point_id):
        return None
    refused = delete_if_allowed(store, point_key(point_id))
    if refused is None:
        store.put(point_key(point_id), stored)
    return refused


def _size(store: Store, key: str) -> int | None:
    try:
        return store.stat(key).size_bytes
    except ObjectMissing:
        return None


def _is_whole(store: Store, keys: VaultKeys | None, point_id: str) -> bool:
    """As far as can be told: without a key by its checksum alone."""
    try:
        stored = store.get(point_key(point_id), limit_bytes=LIMIT_BYTES)
        if keys is None:
            check(stored)
        else:
            read_manifest(keys, point_id, stored)
    except (NewerSealError, NewerManifestError):
        return True
    except (ObjectMissing, SealError, ManifestError):
        return False
    except StorageFailure as failure:
        if failure.code not in UNREADABLE:
            raise
        return False
    return True
