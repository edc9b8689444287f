"""Which packs of one vault a recovery point needs, that another store does not hold already."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from quiesce.model.failure import Evidence, VaultFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.index import IndexSnapshot
from quiesce.vault.format.diskmap import ZERO_ID, ids_of
from quiesce.vault.format.manifest import Manifest
from quiesce.vault.format.pack import Kind

Packs = NDArray[np.uint32]
"""Numbers of packs in the snapshot of the source's index, sorted, each once."""

_NONE: Packs = np.empty(0, np.uint32)
_NODES, _LEAVES, _CHUNKS = 2, 1, 0


class Needs:
    """Gathered point by point. Parts of maps that points share are read once; some 150 bytes are
    kept for each, which is 5 MB per TiB of different disks."""

    def __init__(self, source: Contents, snapshot: IndexSnapshot, target: Contents) -> None:
        """`snapshot` is of the source's index."""
        self._source = source
        self._snapshot = snapshot
        self._target = target
        self._there = target.index.snapshot()
        self._known: dict[bytes, Packs] = {}

    def of(self, manifest: Manifest) -> Packs:
        """
        :raise VaultFailure: vault.pack-missing, vault.corrupt-chunk: the source does not have all
            of this point
        """
        return _joined(
            self._below(b"".join(part.nodes), _NODES) for part in manifest.maps if part.nodes
        )

    def _below(self, ids: bytes, level: int) -> Packs:
        """Packs of the blobs with these ids, and of all that hangs from them."""
        own = self._places(ids)
        if level == _CHUNKS:
            return own
        parts = [blob for blob in dict.fromkeys(ids_of(ids)) if blob != ZERO_ID]
        unknown = [blob for blob in parts if blob not in self._known]
        for blob, plain in self._maps(unknown):
            self._known[blob] = self._below(plain, level - 1)
        return _joined((own, *(self._known[blob] for blob in parts)))

    def _maps(self, parts: list[bytes]) -> list[tuple[bytes, bytes]]:
        """The target's own serve where the source has lost them."""
        try:
            return list(self._source.open_blobs(Kind.MAP, parts))
        except VaultFailure as failure:
            with contextlib.suppress(VaultFailure):
                return list(self._target.open_blobs(Kind.MAP, parts))
            raise failure

    def _places(self, ids: bytes) -> Packs:
        wanted = np.frombuffer(ids, np.uint64).reshape(-1, 4).any(axis=1)
        wanted &= ~_held(self._there, ids)
        lost = wanted & ~_held(self._snapshot, ids)
        if lost.any():
            first = int(np.flatnonzero(lost)[0])
            raise VaultFailure(
                "vault.pack-missing",
                "The source no longer holds all that this point needs.",
                evidence=[
                    Evidence(
                        f"{int(lost.sum())} pieces lie in packs that are missing or damaged",
                        self._source.store.address,
                        raw=ids[first * 32 : first * 32 + 32].hex(),
                    )
                ],
            )
        found: Packs = np.unique(self._snapshot.pack_of[self._snapshot.rows(ids)[wanted]])
        return found


def _held(snapshot: IndexSnapshot, ids: bytes) -> NDArray[np.bool_]:
    """Which of these are in a pack that is there and not known to be damaged."""
    rows = snapshot.rows(ids)
    held = rows >= 0
    if len(snapshot):
        held &= snapshot.good[rows]
    return held


def _joined(parts: Iterable[Packs]) -> Packs:
    return np.unique(np.concatenate([_NONE, *parts])).astype(np.uint32)
