"""What recovery points refer to: the ground that deletion and collection stand on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from quiesce.model.failure import Failure, VaultFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.index import IndexSnapshot
from quiesce.vault.format.diskmap import ZERO_ID, ids_of
from quiesce.vault.format.manifest import DiskMapRef, Manifest
from quiesce.vault.format.pack import Kind

_BATCH = 128
"""Parts that are read, and looked up in the index, at once: 1 MiB, 32768 ids."""
_BATCHES_AT_ONCE = 4

Part = bytes | Failure
"""A part of a map, or why it cannot be read."""


def read_parts(
    contents: Contents, ids: Sequence[bytes], check: Callable[[int], None] = lambda parts: None
) -> Iterator[tuple[Sequence[bytes], list[Part]]]:
    """Parts of maps in batches: ids and what they are. Batches are read side by side, since a
    request to an object store takes long and parts lie apart. `check` is called before so many
    parts are read; what it raises ends the work."""
    batches = [ids[at : at + _BATCH] for at in range(0, len(ids), _BATCH)]
    if len(batches) <= 1:
        for batch in batches:
            check(len(batch))
            yield batch, _read_batch(contents, batch)
        return
    waiting: deque[tuple[Sequence[bytes], Future[list[Part]]]] = deque()
    with ThreadPoolExecutor(_BATCHES_AT_ONCE, thread_name_prefix="vault-maps") as pool:
        try:
            for batch in batches:
                check(len(batch))
                waiting.append((batch, pool.submit(_read_batch, contents, batch)))
                if len(waiting) > _BATCHES_AT_ONCE:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _read_batch(contents: Contents, ids: Sequence[bytes]) -> list[Part]:
    found: dict[bytes, Part] = {}
    try:
        found.update(contents.open_blobs(Kind.MAP, ids))
    except Failure:
        for blob in ids:
            if blob not in found:
                try:
                    found[blob] = contents.read_blob(Kind.MAP, blob)
                except Failure as failure:
                    found[blob] = failure
    return [found[blob] for blob in ids]


class References:
    """Rows of an index that points refer to, gathered point by point. Parts of maps that points
    share are read once: the work grows with what differs, not with the number of points."""

    def __init__(
        self,
        contents: Contents,
        snapshot: IndexSnapshot,
        *,
        reread: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """`reread` is asked for a part, by its id, that cannot be read; it may raise."""
        self._reread = reread
        self._contents = contents
        self._snapshot = snapshot
        self._seen: set[bytes] = {ZERO_ID}
        self.live: NDArray[np.bool_] = np.zeros(len(snapshot), np.bool_)

    def add(self, manifests: Iterable[Manifest]) -> None:
        """:raise VaultFailure: vault.pack-missing, vault.corrupt-chunk when a map is damaged"""
        for manifest in manifests:
            self.add_maps(manifest.maps)

    def add_maps(self, maps: Iterable[DiskMapRef]) -> None:
        """As `add`."""
        leaves: list[bytes] = []
        for part in self._parts([node for each in maps for node in each.nodes]):
            leaves += ids_of(part)
        for part in self._parts(leaves):
            self._mark(part)

    def pass_over(self, known: DiskMapRef, maps: Iterable[DiskMapRef]) -> None:
        """What `maps` share with `known` is not read later, as far as that can be told: the nodes
        of `known` in which they differ are read now."""
        same = {node for each in maps for node in each.nodes}.intersection(known.nodes)
        others = [node for node in known.nodes if node not in same and node not in self._seen]
        self._seen.update(same)
        for _, parts in read_parts(self._contents, others):
            for part in parts:
                if not isinstance(part, Failure):
                    self._seen.update(ids_of(part))

    def add_readable(self, manifests: Iterable[Manifest]) -> set[str]:
        """As `add`, but passes over what cannot be read: the ids of those points."""
        unreadable = set()
        for manifest in manifests:
            try:
                self.add([manifest])
            except VaultFailure:
                unreadable.add(manifest.point.id)
        return unreadable

    def _parts(self, ids: Sequence[bytes]) -> Iterator[bytes]:
        """The parts with these ids, which are referred to, joined batch by batch, but for those
        seen before."""
        self._mark(b"".join(ids))
        new = [blob for blob in dict.fromkeys(ids) if blob not in self._seen]
        for batch, parts in read_parts(self._contents, new):
            whole = []
            for blob, part in zip(batch, parts, strict=True):
                if not isinstance(part, Failure):
                    whole.append(part)
                elif self._reread is not None:
                    whole.append(self._reread(blob))
                else:
                    raise part
            yield b"".join(whole)
            # Only now: whoever gave up at a damaged part must find it damaged again.
            self._seen.update(batch)

    def _mark(self, ids: bytes) -> None:
        rows = self._snapshot.rows(ids)
        self.live[rows[rows >= 0]] = True

    def live_packs(self) -> frozenset[bytes]:
        """Packs that something refers to."""
        used = np.zeros(len(self._snapshot.names), np.bool_)
        used[self._snapshot.pack_of[self.live]] = True
        return frozenset(self._snapshot.names[int(number)] for number in np.flatnonzero(used))
