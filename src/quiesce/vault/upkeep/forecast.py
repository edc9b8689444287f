"""What a verification will cost, before it starts: requests to the store, and bytes read from it.

An object store bills both. A forecast itself lists the store, and with the key reads the upper
level of the maps: 8 KiB for 8 GiB of disks, as far as points differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quiesce.vault.contents.contents import Contents
from quiesce.vault.format.diskmap import PART_BYTES, ZERO_ID, ids_of
from quiesce.vault.format.manifest import Manifest
from quiesce.vault.format.pack import HEAD_BYTES, TAG_BYTES
from quiesce.vault.stores.store import ObjectInfo, Store
from quiesce.vault.upkeep.budget import LISTED_AT_ONCE
from quiesce.vault.upkeep.pack_check import read_requests
from quiesce.vault.upkeep.references import read_parts
from quiesce.vault.upkeep.verify_report import VerifyMode

_LISTS_IN_PASSING = 12
"""Folders that are listed to learn what is new, most of them twice."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """At most about so many requests, and bytes of egress. What is written meanwhile, and what
    damage makes necessary, comes on top."""

    requests: int
    bytes: int

    def __add__(self, other: Forecast) -> Forecast:
        return Forecast(self.requests + other.requests, self.bytes + other.bytes)


def forecast_packs(store: Store) -> Forecast:
    """Of `verify_packs`, which needs no key."""
    packs = list(store.list("packs/"))
    small = [i for f in ("points", "index", "deleted", "garbage", "damage") for i in _in(store, f)]
    whole = Forecast(1 + len(small), sum(info.size_bytes for info in small))
    lists = Forecast(6 + (len(packs) + len(small)) // LISTED_AT_ONCE, 0)
    return _reading(packs) + whole + lists


def forecast(
    contents: Contents, manifests: Sequence[Manifest], mode: VerifyMode, *, sample: int
) -> Forecast:
    packs = list(contents.store.list("packs/"))
    records = [i for f in ("garbage", "damage", "deleted") for i in _in(contents.store, f)]
    # Records are read three times: to know what is damaged before, and after.
    found = Forecast(3 * len(records), 3 * sum(info.size_bytes for info in records))
    if mode is not VerifyMode.SAMPLE:
        sealed = [*records, *_in(contents.store, "index")]
        found += Forecast(4 + len(sealed), sum(info.size_bytes for info in sealed))
    found += Forecast(_LISTS_IN_PASSING + 3 * (len(packs) // LISTED_AT_ONCE), 0)
    nodes = {node for m in manifests for part in m.maps for node in part.nodes} - {ZERO_ID}
    if mode is VerifyMode.SAMPLE:
        chunk = contents.chunk_bytes
        head = Forecast(min(sample, len(packs)), min(sample, len(packs)) * HEAD_BYTES)
        return found + _parts(len(nodes) + 2 * sample) + head + Forecast(sample, sample * 4 * chunk)
    leaves: set[bytes] = set()
    for _, parts in read_parts(contents, sorted(nodes)):
        for part in parts:
            if isinstance(part, bytes):
                leaves.update(ids_of(part))
    found += _parts(len(nodes) + len(leaves - {ZERO_ID}))
    found += Forecast(len(packs), len(packs) * HEAD_BYTES)  # each pack's salt, to open maps
    return found if mode is VerifyMode.STRUCTURE else found + _reading(packs)


def _in(store: Store, folder: str) -> list[ObjectInfo]:
    return list(store.list(f"{folder}/"))


def _parts(count: int) -> Forecast:
    return Forecast(count, count * (PART_BYTES + TAG_BYTES))


def _reading(packs: Sequence[ObjectInfo]) -> Forecast:
    sizes = [info.size_bytes for info in packs]
    return Forecast(sum(read_requests(size) for size in sizes), sum(sizes))
