"""Which points are hurt by what is damaged: from the maps and the index, without reading chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quiesce.model.damage import DiskHealth, PointHealth
from quiesce.model.failure import Failure, VaultFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.index import IndexSnapshot
from quiesce.vault.format.diskmap import FANOUT, PART_BYTES, ZERO_ID, ids_of
from quiesce.vault.format.manifest import DiskMapRef, Manifest
from quiesce.vault.upkeep.references import read_parts

Prefixes = NDArray[np.uint64]
"""First 8 bytes of ids: enough to tell what is in a report."""


@dataclass(frozen=True, slots=True)
class _Hurt:
    """Places of a leaf that cannot be read, and by which ids they would be healed."""

    places: NDArray[np.intp]
    needs: Prefixes


@dataclass(frozen=True, slots=True)
class Examination:
    """`points` in the order they were given. `hurt_packs`: damaged or missing packs that something
    is served from. `unplaced`: ids that no pack known to the index holds. `unread`: parts of maps,
    by id, that could not be read, and why."""

    points: tuple[PointHealth, ...]
    hurt_packs: frozenset[bytes]
    unplaced: bool
    unread: tuple[tuple[bytes, Failure], ...] = ()


@dataclass
class Examiner:
    """Looks at points one by one. What points share is looked at once: the work grows with what
    differs between them. About 100 bytes are kept for each part of a map (32 MiB of a disk).

    `check` is called before so many parts of maps are read; what it raises ends the work.
    """

    contents: Contents
    snapshot: IndexSnapshot
    check: Callable[[int], None]
    points: dict[str, Manifest] = field(default_factory=dict)
    _seen: set[bytes] = field(default_factory=lambda: {ZERO_ID})
    _hurt_leaves: dict[bytes, _Hurt] = field(default_factory=dict)
    _hurt_nodes: dict[bytes, dict[int, _Hurt]] = field(default_factory=dict)
    _hurt_packs: set[int] = field(default_factory=set)
    _unplaced: bool = False
    _unread: dict[bytes, Failure] = field(default_factory=dict)
    _healable: Prefixes = field(default_factory=lambda: np.empty(0, np.uint64))

    def look_at(self, manifest: Manifest) -> None:
        for part in manifest.maps:
            self._look_at_nodes(part.nodes)
        self.points[manifest.point.id] = manifest

    def look_for_what_heals(self, newest: Iterable[Manifest], check: Callable[[int], None]) -> None:
        """`newest`: the newest point of each VM, for what the next backups may heal. Their maps
        are read for that, if anything is hurt: `check` is asked then in place of the examiner's,
        which may have ended its look at the points. What it raises ends this look, too: what was
        found until then stands."""
        self.check = check
        if self._hurt_nodes:
            self._look_at_newest(newest)

    def result(self) -> Examination:
        points = tuple(
            PointHealth(
                m.point.id,
                m.point.vm,
                m.point.taken_at,
                tuple(self._disk(part) for part in m.maps),
            )
            for m in self.points.values()
        )
        packs = frozenset(self.snapshot.names[number] for number in self._hurt_packs)
        return Examination(points, packs, self._unplaced, tuple(self._unread.items()))

    def _look_at_nodes(self, nodes: Sequence[bytes]) -> None:
        new = [node for node in dict.fromkeys(nodes) if node not in self._seen]
        for batch, parts in self._read(new):
            leaves = [leaf for part in parts if isinstance(part, bytes) for leaf in ids_of(part)]
            self._look_at_leaves(leaves)
            for node, part in zip(batch, parts, strict=True):
                if isinstance(part, Failure):
                    everything = _all_of(node)
                    self._hurt_nodes[node] = dict.fromkeys(range(FANOUT), everything)
                elif self._hurt_leaves:
                    hurt = {
                        number: self._hurt_leaves[leaf]
                        for number, leaf in enumerate(ids_of(part))
                        if leaf in self._hurt_leaves
                    }
                    if hurt:
                        self._hurt_nodes[node] = hurt

    def _look_at_leaves(self, leaves: Sequence[bytes]) -> None:
        new = [leaf for leaf in dict.fromkeys(leaves) if leaf not in self._seen]
        for batch, parts in self._read(new):
            whole = []
            for leaf, part in zip(batch, parts, strict=True):
                if isinstance(part, Failure):
                    self._hurt_leaves[leaf] = _all_of(leaf)
                else:
                    whole.append((leaf, part))
            good = self._good(b"".join(part for _, part in whole)).reshape(-1, FANOUT)
            for row in np.flatnonzero(~good.all(axis=1)):
                leaf, part = whole[int(row)]
                places = np.flatnonzero(~good[row])
                self._hurt_leaves[leaf] = _Hurt(places, _prefixes(part)[places])

    def _read(
        self, ids: Sequence[bytes]
    ) -> Iterator[tuple[Sequence[bytes], list[bytes | Failure]]]:
        self._seen.update(ids)
        for batch, parts in read_parts(self.contents, ids, self.check):
            for number, part in enumerate(parts):
                if isinstance(part, Failure):
                    _raise_unless_damage(part)
                    self._unread[batch[number]] = part
                    self._needs_pack_of(batch[number])
                elif len(part) != PART_BYTES:
                    parts[number] = misshapen()
            yield batch, parts

    def _good(self, ids: bytes) -> NDArray[np.bool_]:
        """Which of these are zeros, or lie in a pack that is there and not known as damaged."""
        rows = self.snapshot.rows(ids)
        zero = ~np.frombuffer(ids, np.uint64).reshape(-1, 4).any(axis=1)
        good: NDArray[np.bool_] = zero | (rows >= 0)
        self._unplaced |= not good.all()
        if len(self.snapshot):
            good &= zero | self.snapshot.good[rows]
            bad = rows[~good & (rows >= 0)]
            self._hurt_packs.update(np.unique(self.snapshot.pack_of[bad]).tolist())
        return good

    def _needs_pack_of(self, blob: bytes) -> None:
        """What cannot be read is served from there, whatever is known of it so far."""
        (row,) = self.snapshot.rows(blob).tolist()
        if row < 0:
            self._unplaced = True
        else:
            self._hurt_packs.add(int(self.snapshot.pack_of[row]))

    def _disk(self, part: DiskMapRef) -> DiskHealth:
        return DiskHealth.of(part.name, self._ranges(part))

    def _ranges(self, part: DiskMapRef) -> Iterator[tuple[int, int, bool]]:
        """A chunk each, in order: offset and length in bytes, and whether it heals."""
        for at, node in enumerate(part.nodes):
            for number, hurt in self._hurt_nodes.get(node, {}).items():
                heals = np.isin(hurt.needs, self._healable)
                first = (at * FANOUT + number) * FANOUT
                for place, will_heal in zip(hurt.places.tolist(), heals.tolist(), strict=True):
                    start = (first + place) * part.chunk_bytes
                    length = min(part.chunk_bytes, part.size_bytes - start)
                    if length > 0:
                        yield start, length, will_heal

    def _look_at_newest(self, newest: Iterable[Manifest]) -> None:
        """Of the ids that are needed, note those that stood in one of these points."""
        needs = [hurt.needs for leaves in self._hurt_nodes.values() for hurt in leaves.values()]
        wanted = np.unique(np.concatenate(needs))

        def note(ids: bytes) -> None:
            found = wanted[np.isin(wanted, _prefixes(ids))]
            self._healable = np.union1d(self._healable, found)

        for manifest in newest:
            nodes = [node for part in manifest.maps for node in part.nodes if node != ZERO_ID]
            note(b"".join(nodes))
            for _, parts in self._read(nodes):
                joined = b"".join(part for part in parts if isinstance(part, bytes))
                note(joined)
                leaves = [leaf for leaf in dict.fromkeys(ids_of(joined)) if leaf != ZERO_ID]
                for _, below in self._read(leaves):
                    note(b"".join(part for part in below if isinstance(part, bytes)))


def newest_of_each_vm(manifests: Iterable[Manifest]) -> tuple[Manifest, ...]:
    newest: dict[str, Manifest] = {}
    for manifest in sorted(manifests, key=lambda m: (m.point.taken_at, m.point.id)):
        newest[manifest.point.vm] = manifest
    return tuple(newest.values())


def lost_points(damaged: Mapping[str, VaultFailure]) -> tuple[PointHealth, ...]:
    """Points without a readable manifest."""
    return tuple(
        PointHealth(point_id, "", None, (), failure.message)
        for point_id, failure in sorted(damaged.items())
    )


def _prefixes(ids: bytes) -> Prefixes:
    return np.frombuffer(ids, np.uint64).reshape(-1, 4)[:, 0]


def _all_of(part: bytes) -> _Hurt:
    return _Hurt(np.arange(FANOUT), np.repeat(_prefixes(part), FANOUT))


def misshapen() -> VaultFailure:
    return VaultFailure("vault.corrupt-manifest", "A part of a map has the wrong length.")


def _raise_unless_damage(failure: Failure) -> None:
    """A bad sector under a map hurts what the map tells of, not the look at all others."""
    if not isinstance(failure, VaultFailure) and failure.code != "storage.io-error":
        raise failure
