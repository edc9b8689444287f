"""Damage that a writer comes upon: noted, so that nothing new relies on it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from quiesce.model.failure import Failure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.reserve import reserve_kept_afterwards
from quiesce.vault.format.pack import Kind
from quiesce.vault.stores.store import UNREADABLE

UNSOUND = UNREADABLE | {"vault.corrupt-chunk", "vault.pack-missing"}
"""Codes of failures by which a stored blob cannot be read."""


def open_or_note(contents: Contents, kind: Kind, ids: Iterable[bytes]) -> dict[bytes, bytes]:
    """Each blob's content. What cannot be read is read again, since a read may be spoilt on its
    way; a copy that stays unreadable is recorded as damaged, as verification does, and the next
    copy is tried. Without the record a full read would rely on the damaged copy once more.

    :raise Failure: one of `UNSOUND`, when no copy can be read
    """
    wanted = list(ids)
    try:
        return dict(contents.open_blobs(kind, wanted))
    except Failure as failure:
        if failure.code not in UNSOUND:
            raise
    return {blob: _read_or_note(contents, kind, blob) for blob in wanted}


def _read_or_note(contents: Contents, kind: Kind, blob: bytes) -> bytes:
    index = contents.index
    while True:
        try:
            return contents.read_blob(kind, blob)
        except Failure as failure:
            place = index.find(blob) or index.find(blob, usable=False)
            if failure.code not in UNSOUND or place is None:
                raise
        _note(contents, index.name_of(place.pack), blob)


def _note(contents: Contents, pack: bytes, blob: bytes) -> None:
    at = contents.clock().isoformat()
    values = {"at": at, "pack": pack.hex(), "chunks": [blob.hex()]}
    contents.index.add_damage(pack, blob)
    with reserve_kept_afterwards(contents):
        contents.records.put_for_upkeep(f"damage/{secrets.token_hex(16)}", "damage", values)
