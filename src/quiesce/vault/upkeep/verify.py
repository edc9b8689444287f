"""Checking a vault, and naming which points are hurt and which are not.

What is found damaged is recorded in the store: from then on no writer deduplicates against it,
so that the next full read of a disk that still holds the data heals every point that needs it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from quiesce.model.failure import InputFailure, VaultFailure
from quiesce.model.progress import Progress
from quiesce.vault.contents.contents import Contents
from quiesce.vault.format.manifest import Manifest
from quiesce.vault.upkeep.budget import UNLIMITED, Budget, Meter, MeteredStore
from quiesce.vault.upkeep.findings import Findings
from quiesce.vault.upkeep.health import lost_points
from quiesce.vault.upkeep.map_walk import NOTHING_SEEN, Spent, Walk, not_begun, walk_maps
from quiesce.vault.upkeep.pace import Pace
from quiesce.vault.upkeep.pack_check import (
    PackCheck,
    PackRound,
    check_blobs,
    check_by_name,
    stop_if,
)
from quiesce.vault.upkeep.sampling import SAMPLE_CHUNKS, Drawn, Sampler
from quiesce.vault.upkeep.structure_check import StructureCheck
from quiesce.vault.upkeep.verify_report import (
    MAPS,
    PACKS,
    SEALED,
    Cursor,
    SampleReport,
    VerifyMode,
    VerifyReport,
)

_READS_PACKS = (VerifyMode.PACKS, VerifyMode.CHUNKS)


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How much to look at. `cursor`: where an earlier verification stopped. `sample` chunks are
    drawn in mode SAMPLE, by `seed`; without one, by a seed of chance, which the report names."""

    mode: VerifyMode
    budget: Budget = UNLIMITED
    cursor: str = ""
    sample: int = SAMPLE_CHUNKS
    seed: int | None = None


def verify_vault(
    contents: Contents,
    manifests: tuple[Manifest, ...],
    damaged: dict[str, VaultFailure],
    options: VerifyOptions,
    *,
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> VerifyReport:
    """:raise JobFailure: job.cancelled
    :raise InputFailure: vault.cursor-unknown
    """
    meter = Meter(options.budget)
    through = contents.through(MeteredStore(contents.store, meter))
    work = _Verification(contents, through, manifests, damaged, options, meter)
    work.on_progress = on_progress
    work.cancelled = cancelled
    return work.run()


@dataclass
class _Verification:
    """One run. Packs are read through `contents`, since their cost is taken from the budget before
    they are read; all else through `metered`."""

    contents: Contents
    metered: Contents
    manifests: tuple[Manifest, ...]
    damaged: Mapping[str, VaultFailure]
    options: VerifyOptions
    meter: Meter
    on_progress: Callable[[Progress], None] = lambda progress: None
    cancelled: Callable[[], bool] = lambda: False
    opened: int = 0
    checked: int = 0
    read: int = 0
    stopped_by: str = ""

    def __post_init__(self) -> None:
        self.pace = Pace(lambda progress: self.on_progress(progress))
        self.findings = Findings(self.contents, self.metered)
        self.structure = StructureCheck(
            self.metered, self.meter, self.findings, lambda: self.cancelled()
        )

    def run(self) -> VerifyReport:
        mode = self.options.mode
        cursor = self._cursor()
        damaged_before = cursor is not None and cursor.damaged
        self.structure.look(self.damaged)
        sample: SampleReport | None = None
        left_off: Cursor | None = None
        if mode is VerifyMode.SAMPLE:
            packs = self._round(cursor, {})
            sample = self._draw()
        else:
            records = self.structure.check_records()
            packs = self._round(cursor, records)
            left_off = self._check_stored(cursor, packs)
            if mode in _READS_PACKS and left_off is None and not damaged_before:
                self._drop_records(records, packs.until)
        in_maps = cursor is not None and cursor.stage == MAPS
        walk = None
        # What damage hurts is worth a look even now; a sample without any saves the long walk.
        whole = not self.stopped_by and mode is not VerifyMode.SAMPLE
        failed = sample is not None and bool(sample.failed)
        if whole or failed or any(not finding.healed for finding in self.findings):
            walk = self._examine(cursor if in_maps else None)
            if walk.stopped_by and left_off is None:
                left_off = Cursor(mode, MAPS, walk.reached, packs.until, known=walk.known)
        found = walk.found if walk is not None else NOTHING_SEEN
        examined = walk is not None and not walk.stopped_by
        if left_off is not None:
            hurt = left_off.stage == MAPS and not all(point.intact for point in found.points)
            unknown = damaged_before or hurt or failed or self.findings.unwritten
            left_off = replace(left_off, damaged=unknown)
        done = packs.total_bytes if in_maps else packs.done_bytes
        return VerifyReport(
            mode=mode,
            points=found.points + lost_points(self.damaged),
            findings=self.findings.judged(found, examined and not damaged_before),
            packs=packs.listed,
            blobs_opened=self.opened,
            bytes_read=self.read,
            packs_checked=self.checked,
            round_bytes=done if mode in _READS_PACKS else 0,
            total_bytes=packs.total_bytes,
            examined=examined,
            stopped_by=self.stopped_by,
            cursor="" if left_off is None else str(left_off),
            damaged_before=damaged_before,
            stuck=left_off is not None and left_off.stuck_since(cursor, packs.stuck),
            requests=self.meter.requests,
            seconds=self.meter.seconds,
            sample=sample,
            unseen=len(self.manifests) - len(found.points),
        )

    def _cursor(self) -> Cursor | None:
        """:raise InputFailure: vault.cursor-unknown"""
        if not self.options.cursor:
            return None
        cursor = Cursor.parse(self.options.cursor)
        if cursor.mode is not self.options.mode:
            raise InputFailure(
                "vault.cursor-unknown",
                f"A verification of mode {cursor.mode} stopped there, not one of mode "
                f"{self.options.mode}.",
            )
        return cursor

    def _round(self, cursor: Cursor | None, records: Mapping[str, datetime]) -> PackRound:
        """Of what is stored now, or was when the cursor's round began, as these records were."""
        listed = list(self.metered.store.list("packs/"))
        stored_at = [*records.values(), *(info.modified_at for info in listed)]
        return PackRound(
            listed,
            self.meter,
            after=bytes.fromhex(cursor.after) if cursor and cursor.stage == PACKS else b"",
            until=cursor.until if cursor else max(stored_at, default=None),
        )

    def _check_stored(self, cursor: Cursor | None, packs: PackRound) -> Cursor | None:
        """Index segments, then packs; where the budget ended that."""
        mode = self.options.mode
        stage = cursor.stage if cursor is not None else SEALED
        if stage == SEALED:
            after = bytes.fromhex(cursor.after) if cursor is not None else b""
            self.stopped_by = self.structure.check_segments(after.decode(errors="replace"))
            if self.stopped_by:
                last = self.structure.last_segment
                return Cursor(mode, SEALED, last.encode().hex(), packs.until)
        if stage != MAPS and mode in _READS_PACKS:
            self._check_packs(packs)
            if self.stopped_by:
                return Cursor(mode, PACKS, packs.reached.hex(), packs.until)
        return None

    def _drop_records(self, records: Mapping[str, datetime], until: datetime) -> None:
        """Of damage, as all packs have been looked at. What is younger than the round may tell of
        packs that it had come to before."""
        if not self.findings.unrecorded:
            older = (key for key, at in records.items() if at <= until)
            self.findings.drop_records(key for key in older if key.startswith("damage/"))

    def _check_packs(self, packs: PackRound) -> None:
        contents = self.contents

        def check(name: bytes, size_bytes: int) -> PackCheck:
            if self.options.mode is VerifyMode.PACKS and name not in self.findings.known:
                found = check_by_name(contents.store, name, size_bytes)
                # Only with the key can it be said which blobs of a damaged pack are still good.
                if not found.findings:
                    return found
            return check_blobs(contents, name, size_bytes)

        self.pace.begin("packs", packs.total_bytes, done_bytes=packs.done_bytes)
        for found in packs.check(check, self.cancelled):
            self.opened += found.opened
            self.read += found.read
            self.checked += bool(found.read or found.findings)
            self.findings.record(found)
            self.pace.advance(packs.done_bytes - self.pace.done_bytes)
        self.stopped_by = packs.stopped_by

    def _draw(self) -> SampleReport:
        options = self.options
        seed = secrets.randbits(32) if options.seed is None else options.seed
        drawn: list[Drawn] = []
        # Of the size that all chunks have but a disk's last one.
        self.pace.begin("sample", options.sample * self.contents.chunk_bytes)
        try:
            for found in Sampler(self.metered, self.manifests, seed, self._check).draw():
                drawn.append(found)
                if found.failure is not None:
                    self.findings.record_blob(found.blob, found.failure)
                self.pace.advance(self.contents.chunk_bytes)
                if len(drawn) >= options.sample:
                    break
        except Spent as spent:
            self.stopped_by = str(spent)
        good = [found for found in drawn if found.failure is None]
        self.read += sum(found.size_bytes for found in good)
        return SampleReport(
            seed=seed,
            wanted=options.sample,
            restored=len(good),
            size_bytes=sum(found.size_bytes for found in good),
            failed=tuple(str(found) for found in drawn if found.failure is not None),
        )

    def _examine(self, cursor: Cursor | None) -> Walk:
        """Points after this cursor's, oldest first."""
        refused = self.meter.refuses(self.structure.refresh_requests)
        if refused and not self.stopped_by:
            self.stopped_by = refused
            return not_begun(cursor, refused)
        self.metered.refresh()
        self.findings.add_earlier()
        walk = walk_maps(
            self.metered,
            self.manifests,
            cursor,
            self.structure.unreadable_packs,
            pace=self.pace,
            check=self._check,
            stop=lambda: stop_if(self.cancelled),
        )
        self.stopped_by = walk.stopped_by or self.stopped_by
        for blob, failure in walk.found.unread:
            self.findings.record_blob(blob, failure)
        return walk

    def _check(self, requests: int) -> None:
        """:raise JobFailure: job.cancelled"""
        stop_if(self.cancelled)
        refused = self.meter.refuses(requests)
        if refused:
            raise Spent(refused)
