"""What a verification finds, and what of it is written into the store at once.

Damage is recorded, index segments are replaced, and records that nobody can read are removed. Where
that cannot be written now, what was found is reported all the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field, replace

from quiesce.model.failure import Failure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.lease import leased
from quiesce.vault.contents.reserve import reserve_kept_afterwards
from quiesce.vault.format.pack import pack_key, pack_name
from quiesce.vault.stores.store import CANNOT_WRITE
from quiesce.vault.upkeep.health import Examination
from quiesce.vault.upkeep.pack_check import PackCheck
from quiesce.vault.upkeep.verify_report import Finding

_SPOILT = {"vault.corrupt-chunk", "storage.io-error"}


@dataclass
class Findings:
    """Of one verification. `contents` and `metered` are the same vault; what the budget counts goes
    through `metered`. `known`: blobs that are damaged, by pack, as far as records and this
    verification tell."""

    contents: Contents
    metered: Contents
    known: dict[bytes, frozenset[bytes]] = field(default_factory=dict)
    unrecorded: bool = False
    """Whether a pack's damage was found that could not be recorded."""
    _found: list[Finding] = field(default_factory=list)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found)

    @property
    def unwritten(self) -> bool:
        """Whether something was found that the store does not tell of, so that who looks next does
        not know of it."""
        return self.unrecorded or any(
            finding.code == "vault.corrupt-index" and not finding.healed for finding in self._found
        )

    def add(self, findings: Iterable[Finding]) -> None:
        self._found += findings

    def rewrite_segments(self, unreadable: Iterable[str]) -> None:
        """What these told has been read from the packs again."""
        self._note_segments(unreadable, _refused_by(self.metered.save_index))

    def replace_segments(self, damaged: Set[str]) -> None:
        """They were whole when this process, or its cache, read them."""

        def replace_them() -> None:
            with reserve_kept_afterwards(self.contents), leased(self.contents):
                # What a collection has replaced by now is no longer known, and no damage.
                self.metered.refresh()
                found.intersection_update(self.metered.segments())
                for key in found:
                    self.metered.replace_segment(key)

        found = set(damaged) - {finding.object for finding in self._found}
        if found:
            self._note_segments(found, _refused_by(replace_them))

    def _note_segments(self, keys: Iterable[str], refused: str) -> None:
        detail = f"not written anew: {refused}" if refused else "rebuilt from the packs"
        self.add(Finding("vault.corrupt-index", key, detail, healed=not refused) for key in keys)

    def drop_records(self, records: Iterable[str]) -> None:
        """Of these, the ones that were found unreadable. Until they are gone nothing is collected.
        Of damage: when all packs have just been looked at and all damage is recorded anew. Of
        marks: at once, since what they marked is marked anew."""
        keys = {finding.object for finding in self._found}.intersection(records)
        if not keys:
            return

        def drop() -> None:
            with reserve_kept_afterwards(self.contents), leased(self.contents):
                for key in keys:
                    self.contents.store.delete(key)

        if not _refused_by(drop):
            self._found = [
                replace(f, detail=f"{f.detail}; removed", healed=True) if f.object in keys else f
                for f in self._found
            ]

    def record(self, check: PackCheck) -> None:
        """What a look at a pack has shown: damage, or that it is whole again. The index is told
        of damage in any case, so that this process relies on it no more if nothing is recorded."""
        for blob in check.bad:
            self.contents.index.add_damage(check.name, blob)
        refused = _refused_by(lambda: self._put_record(check))
        self.unrecorded = self.unrecorded or bool(refused)
        self.add(
            replace(f, detail=f"{f.detail}; not recorded: {refused}") if refused else f
            for f in check.findings
        )

    def record_blob(self, blob: bytes, failure: Failure) -> None:
        """One that could not be read: what stores it next stores it anew. Its pack is told of once,
        however many of its blobs are."""
        place = self.contents.index.locate(blob)
        if place is None or failure.code not in _SPOILT:
            return  # what is missing shows by itself
        name = self.contents.index.name_of(place.pack)
        new = all(finding.object != pack_key(name) for finding in self._found)
        found = Finding("vault.corrupt-chunk", pack_key(name), failure.message)
        self.record(PackCheck(name, (found,) * new, (blob,), 1, 0))

    def _put_record(self, check: PackCheck) -> None:
        known = self.known.get(check.name, frozenset())
        records = self.contents.records
        if check.read and not check.findings:
            if known:
                for key, pack in records.damaged_packs():
                    if pack == check.name:
                        self.contents.store.delete(key)  # mended from a copy
                del self.known[check.name]
            self.contents.index.found_whole(check.name)
        elif not known.issuperset(check.bad):
            self.known[check.name] = known.union(check.bad)
            values = {"pack": check.name.hex(), "chunks": [blob.hex() for blob in check.bad]}
            values["at"] = self.contents.clock().isoformat()
            with reserve_kept_afterwards(self.contents):
                records.put_for_upkeep(f"damage/{secrets.token_hex(16)}", "damage", values)

    def add_earlier(self) -> None:
        """Damage that is known and was not found now."""
        for name in self.known.keys() - {pack_name(f.object) for f in self._found}:
            count = len(self.known[name])
            detail = f"{count} of its blobs were found damaged earlier"
            self.add([Finding("vault.corrupt-chunk", pack_key(name), detail)])

    def judged(self, points: Examination, examined: bool) -> tuple[Finding, ...]:
        """A damaged pack stays where it is until it is collected, but what it lost has been stored
        anew, or nobody needs it: that must not count as damage at every later look. `examined`:
        all points were, and what earlier parts saw of them was not hurt."""
        return tuple(
            replace(f, healed=True) if examined and self._harmless(f, points) else f
            for f in self._found
        )

    def _harmless(self, finding: Finding, points: Examination) -> bool:
        name = pack_name(finding.object)
        if name is None or name in points.hurt_packs:
            return False
        return not points.unplaced or self.contents.index.knows(name)


def _refused_by(write: Callable[[], None]) -> str:
    """Why it cannot be written now, else ""."""
    try:
        write()
    except Failure as refused:
        if refused.code not in CANNOT_WRITE | {"vault.collect-running", "vault.lease-locked"}:
            raise
        return refused.message
    return ""
