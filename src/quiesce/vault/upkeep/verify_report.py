"""What a verification looks at, how far it came, and what it found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from quiesce.model.damage import DamageReport, PointHealth
from quiesce.model.failure import InputFailure


class VerifyMode(StrEnum):
    STRUCTURE = "structure"
    """Manifests, maps and index: every chunk of every point has a place in a pack that exists
    in full. Reads no chunk."""
    PACKS = "packs"
    """And every pack has the BLAKE3 that its name says. Reads everything, opens nothing."""
    CHUNKS = "chunks"
    """And every blob opens, unpacks, and has the id that its pack says."""
    SAMPLE = "sample"
    """Chunks drawn at random from all disks of all points, found by their maps and restored."""


class Verdict(StrEnum):
    INTACT = "intact"
    """All that the mode promises was looked at, and nothing of it is damaged."""
    NOTHING_FOUND = "nothing found"
    """Nothing is damaged in what was looked at, which is not all."""
    DAMAGED = "damaged"
    """Something is, or was when an earlier part of the round came to it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One damaged object. `healed`: it has been rebuilt, or no point needs what it lost."""

    code: str
    object: str
    detail: str
    healed: bool = False


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a verification that ran out of its budget goes on: in which stage, after what. A round
    covers the packs that were stored when it began, which is `until`, by the store's clock.
    `damaged`: it has met damage that a later part does not come to again: points that are hurt, or
    what could not be recorded. `known`: the damage that the points up to here were judged by.

    As text: `chunks:maps:<hex>:2026-11-23T06.00.00.000000:damaged:<known>`; the time is UTC. The
    last two may be left out, as they are when they are empty.
    """

    mode: VerifyMode
    stage: str
    after: str
    until: datetime
    damaged: bool = False
    known: str = ""

    def stuck_since(self, begun: Cursor | None, at_pack: bool) -> bool:
        """Whether the next part with the same budget would come no further than here. `at_pack`:
        the first pack that this one was to read exceeds the budget by itself."""
        nowhere = begun is None and self.stage == SEALED and not self.after
        return nowhere or self == begun or (at_pack and self.stage == PACKS)

    def __str__(self) -> str:
        until = self.until.astimezone(UTC).strftime(_TIME)
        parts = [str(self.mode), self.stage, self.after, until]
        if self.damaged or self.known:
            parts += [_DAMAGED if self.damaged else "", self.known]
        return ":".join(parts)

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """:raise InputFailure: vault.cursor-unknown"""
        try:
            mode, stage, after, until, *more = text.split(":")
            damaged, known = more or ("", "")
            if stage not in STAGES or set(after + known) - set("0123456789abcdef"):
                raise ValueError(text)
            at = datetime.strptime(until, _TIME).replace(tzinfo=UTC)
            bytes.fromhex(after)
            return cls(VerifyMode(mode), stage, after, at, _met(damaged), known)
        except ValueError as inner:
            raise InputFailure(
                "vault.cursor-unknown",
                "This is not where a verification of a vault stopped.",
                remedy="Give the cursor as the report of the last verification has it, or none.",
            ) from inner


def _met(damaged: str) -> bool:
    """:raise ValueError: neither damage nor none"""
    if damaged not in ("", _DAMAGED):
        raise ValueError(damaged)
    return bool(damaged)


SEALED, PACKS, MAPS = "sealed", "packs", "maps"
"""In this order. A check without the key begins with the sealed objects, one with it ends with
the maps."""
STAGES = (SEALED, PACKS, MAPS)
_DAMAGED = "damaged"
_TIME = "%Y-%m-%dT%H.%M.%S.%f"


@dataclass(frozen=True, slots=True)
class SampleReport:
    """`restored` of `wanted` chunks were restored, `size_bytes` of plain data; the same `seed`
    draws the same chunks from the same points. `failed` says which were not and why, and which
    parts of maps could not be read to draw from: no share is known then."""

    seed: int
    wanted: int
    restored: int
    size_bytes: int
    failed: tuple[str, ...]

    @property
    def damaged_share_below(self) -> float | None:
        """With 95 % confidence less than this share of what points hold is damaged; None when
        some of the sample was. (No failure in n draws: 1 - 0.05^(1/n), about 3/n.)"""
        if self.failed or not self.restored:
            return None
        return float(1 - 0.05 ** (1 / self.restored))


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What this verification looked at and found.

    `packs` of the vault are `total_bytes` long; `packs_checked` of them were read now, and the
    round that this run belongs to has come to `round_bytes`. `examined`: the maps of the points in
    `points` were walked to the end; else `points` is not all of them, and `unseen` are missing.
    `stopped_by` names the limit of the budget that ended it ("time", "bytes", "requests"), and
    `cursor` is where to go on; both are empty when there is nothing left to look at. `stuck`: it
    stopped where it had begun, since what comes next does not fit into the budget, and no part with
    the same budget comes any further.
    `damaged_before`: an earlier part of the round has met damage that this one did not come to.
    `sample`: of mode SAMPLE.
    """

    mode: VerifyMode
    points: tuple[PointHealth, ...]
    findings: tuple[Finding, ...]
    packs: int
    blobs_opened: int
    bytes_read: int
    packs_checked: int = 0
    round_bytes: int = 0
    total_bytes: int = 0
    examined: bool = True
    stopped_by: str = ""
    cursor: str = ""
    requests: int = 0
    seconds: float = 0.0
    sample: SampleReport | None = None
    unseen: int = 0
    stuck: bool = False
    damaged_before: bool = False

    def damage(self, at: datetime) -> DamageReport:
        """What points have lost; `at` is when this verification ended."""
        return DamageReport.of(self.points, at, unseen=self.unseen)

    @property
    def verdict(self) -> Verdict:
        unhealed = any(not finding.healed for finding in self.findings)
        failed = self.sample is not None and bool(self.sample.failed)
        if self.damaged_before or self.hurt or failed or unhealed:
            return Verdict.DAMAGED
        whole = self.examined and not self.stopped_by and self.mode is not VerifyMode.SAMPLE
        return Verdict.INTACT if whole else Verdict.NOTHING_FOUND

    @property
    def intact(self) -> bool:
        """All was looked at, and nothing is damaged, or what was has been healed."""
        return self.verdict is Verdict.INTACT

    @property
    def hurt(self) -> tuple[PointHealth, ...]:
        return tuple(point for point in self.points if not point.intact)

    @property
    def came_to_none(self) -> bool:
        """A limit ended it before it had looked at any pack, chunk or point."""
        drawn = self.sample is not None and self.sample.restored > 0
        return bool(self.stopped_by) and not (self.packs_checked or self.points or drawn)

    @property
    def covered_share(self) -> float:
        """Of the stored bytes, how much this round has looked at so far, 0 to 1. Nothing that was
        not looked at is said to be sound."""
        return self.round_bytes / self.total_bytes if self.total_bytes else 1.0
