"""Checking sealed objects: manifests, index segments and records, by their checksum alone; records
of damage and garbage with the key, too."""

from __future__ import annotations

from collections.abc import Iterable

from quiesce.model.failure import StorageFailure
from quiesce.vault.contents.opening import newer
from quiesce.vault.contents.records import Records
from quiesce.vault.format.keys import VaultKeys
from quiesce.vault.format.sealed import (
    LIMIT_BYTES,
    NewerSealError,
    SealError,
    check,
    content_name,
)
from quiesce.vault.stores.store import UNREADABLE, ObjectInfo, ObjectMissing, Store
from quiesce.vault.upkeep.verify_report import Finding

SEALED_FOLDERS = {
    "damage": "vault.corrupt-record",
    "deleted": "vault.corrupt-record",
    "garbage": "vault.corrupt-record",
    "index": "vault.corrupt-index",
    "points": "vault.corrupt-manifest",
}
"""Where sealed objects lie, and what one that is not whole is called."""
RECORDS = tuple(name for name, code in SEALED_FOLDERS.items() if code == "vault.corrupt-record")


def sealed_objects(
    store: Store, *, after: str = "", folders: Iterable[str] = SEALED_FOLDERS
) -> list[ObjectInfo]:
    """Those behind this key, in the order in which a round looks at them."""
    found = (info for folder in folders for info in store.list(f"{folder}/") if info.key > after)
    return sorted(found, key=lambda info: info.key)


def check_sealed(store: Store, key: str) -> list[Finding]:
    """The finding, if this sealed object is not whole; none when it is gone. It is read once more
    before that is said: what was spoilt only on its way is no damage.

    :raise VaultFailure: vault.version-unsupported
    """
    problem = _problem_of(store, key) and _problem_of(store, key)
    return [Finding(SEALED_FOLDERS[key.partition("/")[0]], key, problem)] if problem else []


def check_records(store: Store, keys: VaultKeys) -> list[Finding]:
    """Of records of damage and garbage those that cannot be read: also such as are whole, but not
    what was stored under their name.

    :raise VaultFailure: vault.version-unsupported
    """
    return [
        Finding("vault.corrupt-record", key, _problem_of(store, key) or "it does not open")
        for key in Records(store, keys).unreadable()
    ]


def _problem_of(store: Store, key: str) -> str:
    try:
        stored = store.get(key, limit_bytes=LIMIT_BYTES)
        check(stored)
    except ObjectMissing:
        return ""
    except NewerSealError as inner:
        raise newer(key, inner) from inner
    except SealError as wrong:
        return str(wrong)
    except StorageFailure as failure:
        if failure.code not in UNREADABLE:
            raise
        return f"cannot be read: {failure.message}"
    if key.startswith("index/") and key != f"index/{content_name(stored)}":
        return "its checksum is not its name"
    return ""
