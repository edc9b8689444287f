"""What every verification looks at before packs and maps: manifests, the index and records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from quiesce.model.failure import VaultFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.format.manifest import point_key
from quiesce.vault.format.pack import pack_key
from quiesce.vault.stores.in_front import origin_of
from quiesce.vault.upkeep.budget import Meter, MeteredStore
from quiesce.vault.upkeep.findings import Findings
from quiesce.vault.upkeep.pack_check import stop_if
from quiesce.vault.upkeep.sealed_check import (
    RECORDS,
    check_records,
    check_sealed,
    sealed_objects,
)
from quiesce.vault.upkeep.verify_report import Finding


@dataclass
class StructureCheck:
    """Adds to the findings what is wrong. `metered` is the vault as the meter sees it.
    `refresh_requests`: what a look at index and records took. `unreadable_packs`: those that the
    index cannot tell of. `last_segment`: the key that the check of segments has come to."""

    metered: Contents
    meter: Meter
    findings: Findings
    cancelled: Callable[[], bool]
    refresh_requests: int = 0
    unreadable_packs: tuple[str, ...] = ()
    last_segment: str = ""
    _where_it_lies: MeteredStore = field(init=False)
    """The store itself, whatever a cache has."""

    def __post_init__(self) -> None:
        self._where_it_lies = MeteredStore(origin_of(self.findings.contents.store), self.meter)

    def look(self, damaged: Mapping[str, VaultFailure]) -> None:
        """`damaged`: points whose manifest cannot be read."""
        self.findings.add(
            Finding("vault.corrupt-manifest", point_key(point_id), failure.message)
            for point_id, failure in damaged.items()
        )
        before = self.meter.requests
        refresh = self.metered.refresh(scan_unindexed=True)
        self.refresh_requests = self.meter.requests - before
        self.unreadable_packs = refresh.unreadable_packs
        self.findings.rewrite_segments(refresh.damaged_segments)
        self.findings.add(
            Finding("vault.corrupt-chunk", key, "its list of chunks cannot be read")
            for key in refresh.unreadable_packs
        )
        self.findings.add(
            Finding("vault.pack-missing", pack_key(name), "not there in full")
            for name in self.metered.index.missing_packs()
        )
        self.findings.known = self.metered.records.damage()

    def check_records(self) -> dict[str, datetime]:
        """In every part, as they are few and small: one that cannot be read is damage until it is
        gone. When each was stored, by the store's clock."""
        store = self._where_it_lies
        stored_at = {info.key: info.modified_at for info in sealed_objects(store, folders=RECORDS)}
        self.findings.add(check_records(store, self.metered.keys))
        for key in stored_at:
            if key.startswith("deleted/"):
                stop_if(self.cancelled)
                self.findings.add(check_sealed(store, key))
        self.findings.drop_records(key for key in stored_at if key.startswith("garbage/"))
        return stored_at

    def check_segments(self, after: str) -> str:
        """Those behind this key; which limit ended it, else ""."""
        self.last_segment = after
        stopped_by = self.meter.refuses(1)
        if stopped_by:
            return stopped_by
        damaged = set()
        for info in sealed_objects(self._where_it_lies, after=after, folders=["index"]):
            stop_if(self.cancelled)
            stopped_by = self.meter.refuses(1, info.size_bytes)
            if stopped_by:
                break
            if check_sealed(self._where_it_lies, info.key):
                damaged.add(info.key)
            self.last_segment = info.key
        self.findings.replace_segments(damaged)
        return stopped_by
