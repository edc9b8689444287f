"""Space that a vault keeps back, so that a full one can still make room for itself.

Collecting garbage and deleting points write before they remove anything: a lease, marks, records,
and the index segment that takes the place of another. On a file system without a free byte they
could not. So a local store keeps a file `reserve`, without content, beside the objects: it is
removed when space is wanted for that, and made again afterwards. Readers ignore it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from quiesce.model.failure import Failure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.records import LEASE_KEY
from quiesce.vault.stores.store import ObjectMissing

LARGEST_BYTES = 64 * 1024 * 1024
"""More than the largest index segment: 2²⁰ rows are 44 MiB."""
_RECORDS_BYTES = 1024 * 1024


def keep_reserve(contents: Contents) -> None:
    """Keep back what a collection of this vault may have to write: some records and a segment, at
    most as long as all of them together. Never fails: a full store keeps what it can.

    Not while a collection runs, since that has given it back."""
    with contextlib.suppress(Failure):
        try:
            contents.store.stat(LEASE_KEY)
        except ObjectMissing:
            index = sum(info.size_bytes for info in contents.store.list("index/"))
            contents.store.keep_reserve(min(LARGEST_BYTES, _RECORDS_BYTES + index))


@contextlib.contextmanager
def reserve_kept_afterwards(contents: Contents) -> Iterator[None]:
    """Whatever happens, and to whatever extent the reserve was used."""
    try:
        yield
    finally:
        keep_reserve(contents)
