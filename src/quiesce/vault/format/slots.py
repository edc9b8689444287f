"""Key slots of a vault: who can open it. Changing them rewrites no data.

Slots are objects `keys/slot-<id>`; what is in one says `keys`. Nothing here needs a lock: slots are
only created and deleted, and the last that can be read is put back when two people remove one each
at the same moment.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from quiesce.model.failure import (
    AuthFailure,
    Evidence,
    NotFoundFailure,
    PolicyFailure,
    StorageFailure,
    VaultFailure,
)
from quiesce.vault.format.config import VaultConfig, read_config
from quiesce.vault.format.keys import (
    SLOT_LIMIT_BYTES,
    SLOT_VERSION,
    KeyMaterial,
    VaultKeys,
    unlock,
)
from quiesce.vault.format.times import read_time
from quiesce.vault.stores.store import UNREADABLE, ObjectMissing, Store

_PREFIX = "keys/slot-"
_ID = re.compile(r"[0-9a-z]{1,64}\Z")
KINDS = ("passphrase", "key-file", "recovery")


@dataclass(frozen=True, slots=True)
class Slot:
    """One way to open the vault. `kind` is empty when the slot cannot be read. `added_at` is what
    the slot says, else when the store got the object, which of a copied vault is later."""

    id: str
    kind: str
    added_at: datetime


def new_slot_key() -> str:
    return _PREFIX + secrets.token_hex(8)


def read_slots(store: Store) -> Iterator[tuple[str, bytes]]:
    """(id, content) of each slot. One that lies on a bad sector, or is too long to be one, is
    damaged: its content is empty.

    :raise StorageFailure: as `Store.get`; of `UNREADABLE` at the end, when not one could be read
    """
    read = 0
    unread: StorageFailure | None = None
    for info in store.list("keys/"):
        if not info.key.startswith(_PREFIX):
            continue
        stored = b""
        try:
            stored = store.get(info.key, limit_bytes=SLOT_LIMIT_BYTES)
            read += 1
        except ObjectMissing:
            continue
        except StorageFailure as failure:
            if failure.code not in UNREADABLE:
                raise
            unread = failure
        yield info.key.removeprefix(_PREFIX), stored
    if unread is not None and not read:
        raise unread


def list_slots(store: Store) -> tuple[Slot, ...]:
    """Oldest first. Needs no key: of a slot nothing but the vault key in it is secret."""
    slots = []
    bound = read_config(store).bound.decode()
    for slot_id, stored in read_slots(store):
        kind, added_at = _described(stored, bound)
        with contextlib.suppress(ObjectMissing):
            at = added_at or store.stat(_PREFIX + slot_id).modified_at
            slots.append(Slot(slot_id, kind, at))
    return tuple(sorted(slots, key=lambda slot: (slot.added_at, slot.id)))


def slot_opened_by(store: Store, config: VaultConfig, material: KeyMaterial) -> str:
    """The id of a slot that this key opens.

    :raise AuthFailure: auth.key-wrong
    """
    for slot_id, stored in read_slots(store):
        with contextlib.suppress(AuthFailure, VaultFailure):
            unlock([stored], material, config.bound)
            return slot_id
    raise AuthFailure(
        "auth.key-wrong",
        f"This {material.kind.replace('-', ' ')} opens no key slot of the vault.",
        evidence=[Evidence("no slot opens", f"{store.address}/keys")],
    )


def add_slot(
    store: Store, config: VaultConfig, keys: VaultKeys, material: KeyMaterial, at: datetime
) -> str:
    """Let one more key open the vault; the slot's id. It is read back and tried.

    :raise AuthFailure: auth.key-wrong, the store does not give back what was written
    """
    key = new_slot_key()
    store.put(key, keys.wrap(material, config.bound, at))
    stored = store.get(key, limit_bytes=SLOT_LIMIT_BYTES)
    unlock([stored], material, config.bound)
    return key.removeprefix(_PREFIX)


def check_removable(store: Store, slot_id: str) -> Slot:
    """The slot, when another one stays that can be read.

    :raise NotFoundFailure: vault.key-slot-unknown
    :raise PolicyFailure: vault.last-key
    """
    slots = list_slots(store)
    found = next((slot for slot in slots if slot.id == slot_id), None)
    if found is None or not _ID.match(slot_id):
        raise NotFoundFailure(
            "vault.key-slot-unknown",
            f"The vault has no key slot {slot_id!r}.",
            evidence=[Evidence(f"it has {', '.join(slot.id for slot in slots)}", store.address)],
        )
    if not any(slot.kind for slot in slots if slot.id != slot_id):
        raise _last()
    return found


def remove_slot(store: Store, slot_id: str) -> Slot:
    """Whoever has opened the vault with it still has it open, and whoever has copied the vault
    before can still open that copy.

    :raise NotFoundFailure: vault.key-slot-unknown · :raise PolicyFailure: vault.last-key
    """
    slot = check_removable(store, slot_id)
    try:
        stored = store.get(_PREFIX + slot_id, limit_bytes=SLOT_LIMIT_BYTES)
    except ObjectMissing:
        return slot  # gone by another's hand
    except StorageFailure as failure:
        if slot.kind or failure.code not in UNREADABLE:
            raise
        store.delete(_PREFIX + slot_id)  # it opens nothing: there is nothing to be put back
        return slot
    store.delete(_PREFIX + slot_id)
    if not any(left.kind for left in list_slots(store)):
        # Somebody has removed the other one at the same moment.
        store.put(_PREFIX + slot_id, stored)
        raise _last()
    return slot


def _last() -> PolicyFailure:
    return PolicyFailure("vault.last-key", "The only key of a vault cannot be removed.")


def _described(stored: bytes, bound: str) -> tuple[str, datetime | None]:
    """(kind, when added) as the slot says; an empty kind when it is damaged or of another vault, as
    one is that was half made here: it must not count as the one that stays."""
    try:
        slot: Any = json.loads(stored)
        kind = str(slot["kind"])
        if (
            slot["version"] != SLOT_VERSION
            or kind not in KINDS
            or slot.get("vault", bound) != bound
        ):
            return "", None
        if len(bytes.fromhex(slot["wrapped"])) != 48:
            return "", None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", None
    try:
        return kind, read_time(slot["added_at"])
    except (ValueError, KeyError, TypeError):
        return kind, None
