"""Reading around a bad sector, range by range: it costs what lies on it, and no neighbour."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from quiesce.model.failure import StorageFailure
from quiesce.vault.stores.store import UNREADABLE, Store


def read_each(
    store: Store, key: str, ranges: Iterable[tuple[int, int]]
) -> Iterator[bytes | StorageFailure]:
    """What lies in each (offset, length) of an object, or why that cannot be read.

    :raise StorageFailure: as `Store.get_range`, but for `UNREADABLE`
    """
    for offset, length in ranges:
        try:
            yield store.get_range(key, offset, length)
        except StorageFailure as failure:
            if failure.code not in UNREADABLE:
                raise
            yield failure
