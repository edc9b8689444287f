"""The points that increments build on: found, and refused where they are not whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from quiesce.model.failure import Evidence, Failure, VaultFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.damage import UNSOUND, open_or_note
from quiesce.vault.format.diskmap import ZERO_ID, ids_of
from quiesce.vault.format.manifest import DiskMapRef, Manifest
from quiesce.vault.points.reader import DiskMap


@dataclass(frozen=True, slots=True)
class Base:
    """The map that a disk starts from, and the generation by which it was asked for."""

    map: DiskMapRef
    generation: str


def find_base(
    contents: Contents, manifests: Iterable[Manifest], vm: str, disk: str, generation: str
) -> Base:
    """:raise VaultFailure: vault.base-missing: none, or one that is known to be damaged"""
    for manifest in sorted(manifests, key=lambda m: (m.point.taken_at, m.point.id), reverse=True):
        if manifest.point.vm != vm:
            continue
        for row, part in zip(manifest.point.disks, manifest.maps, strict=True):
            if row.name == disk and row.generation == generation:
                if part.chunk_bytes != contents.chunk_bytes:
                    raise _missing(disk, generation, "its chunks have another size")
                base = Base(part, generation)
                _check(contents, base)
                return base
    raise _missing(disk, generation, "no point of this VM and disk has this generation")


def base_map(contents: Contents, base: Base) -> DiskMap:
    """The map of `base`, to be read under `relying_on`."""
    return DiskMap(contents, base.map, partial(open_or_note, contents))


@contextlib.contextmanager
def relying_on(base: Base) -> Iterator[None]:
    """What of a base cannot be read makes it no base.

    :raise VaultFailure: vault.base-missing
    """
    try:
        yield
    except Failure as inner:
        if inner.code not in UNSOUND | {"vault.corrupt-manifest"}:
            raise
        raise _missing(base.map.name, base.generation, inner.message) from inner


def _check(contents: Contents, base: Base) -> None:
    """A base that is known to be damaged is none: a full read heals what an increment would
    carry on. Costs nothing while the vault has no known damage. A pack that is marked as garbage
    is as good as any: the base keeps it."""
    if not contents.index.any_damage:
        return

    def check(ids: Iterable[bytes], what: str) -> None:
        for blob in ids:
            if blob != ZERO_ID and contents.index.find(blob, usable=False) is None:
                why = f"{what} {blob.hex()} is damaged"
                raise _missing(base.map.name, base.generation, why)

    with relying_on(base):
        check(base.map.nodes, "part of its map")
        parts = base_map(contents, base)
        leaves = parts.leaf_ids()
        check(ids_of(leaves), "part of its map")
        for number, leaf in enumerate(ids_of(leaves)):
            if leaf != ZERO_ID:
                check(ids_of(parts.leaf(number)), "chunk")


def _missing(disk: str, generation: str, why: str) -> VaultFailure:
    return VaultFailure(
        "vault.base-missing",
        f"The vault has no usable point to build an increment of disk {disk!r} on.",
        evidence=[Evidence(why, f"generation {generation}")],
        remedy="Read the disk in full this time.",
    )
