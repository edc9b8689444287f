"""What recovery points refer to: the ground that deletion and collection stand on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from quiesce.model.failure import VaultFailure
from quiesce.vault.contents import Contents
from quiesce.vault.diskmap import ZERO_ID, ids_of
from quiesce.vault.index import IndexSnapshot
from quiesce.vault.manifest import Manifest
from quiesce.vault.pack import Kind


class References:
    """Rows of an index that points refer to, gathered point by point. Parts of maps that points
    share are read once: the work grows with what differs, not with the number of points."""

    def __init__(self, contents: Contents, snapshot: IndexSnapshot) -> None:
        self._contents = contents
        self._snapshot = snapshot
        self._seen: set[bytes] = set()
        self.live: NDArray[np.bool_] = np.zeros(len(snapshot), np.bool_)

    def add(self, manifests: Iterable[Manifest]) -> None:
        """:raise VaultFailure: vault.pack-missing, vault.corrupt-chunk when a map is damaged"""
        for manifest in manifests:
            for part in manifest.maps:
                for leaf_ids in self._parts(b"".join(part.nodes)):
                    for chunk_ids in self._parts(leaf_ids):
                        self._mark(chunk_ids)

    def add_readable(self, manifests: Iterable[Manifest]) -> set[str]:
        """As `add`, but passes over what cannot be read: the ids of those points."""
        unreadable = set()
        for manifest in manifests:
            try:
                self.add([manifest])
            except VaultFailure:
                unreadable.add(manifest.point.id)
        return unreadable

    def _parts(self, joined: bytes) -> Iterable[bytes]:
        """The parts with these ids, which are referred to, but for those seen before."""
        self._mark(joined)
        for start in range(0, len(joined), 8192):
            for blob in ids_of(joined[start : start + 8192]):
                if blob not in self._seen and blob != ZERO_ID:
                    self._seen.add(blob)
                    yield self._contents.read_blob(Kind.MAP, blob)

    def _mark(self, ids: bytes) -> None:
        rows = self._snapshot.rows(ids)
        self.live[rows[rows >= 0]] = True

    def live_packs(self) -> frozenset[bytes]:
        """Packs that something refers to."""
        numbers = np.unique(self._snapshot.pack_of[self.live])
        return frozenset(self._snapshot.names[int(number)] for number in numbers)
