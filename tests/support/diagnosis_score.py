"""What the scoreboard makes of a job: pure functions over jobs as the API has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from statistics import median
from typing import Any

from quiesce.lab.faults.fault import RANK, Fault
from quiesce.model.snapshot import Consistency

PLAIN = (
    "Could not communicate with the VM agent for snapshot status. Snapshot VM sub task timed out."
)
"""What users of other products are told, whatever the cause."""


class Outcome(StrEnum):
    EXACT = "exact"
    WRONG = "wrong, and stated as proven"
    NOT_PROVEN = "not proven"
    AVOIDED = "nothing failed"
    """As it should be: what hurts others does no harm here."""
    BROKEN = "the row broke"
    """The lab did not get so far. It counts as not proven."""


@dataclass(frozen=True)
class Score:
    """One row of build/bench/diagnosis.json. `seconds` is how long finding the cause took, None
    when none was stated; `job_seconds` the whole row."""

    name: str
    family: str
    words: str
    expected: str
    diagnosed: str
    verdict: str
    outcome: Outcome
    seconds: float | None
    healed: bool
    heals: bool
    consistency: str
    plain: str
    symptoms: tuple[str, ...]
    also: tuple[str, ...]
    candidates: tuple[str, ...]
    mends: tuple[str, ...]
    job_seconds: float
    error: str = ""


def score(row: Fault, job: Mapping[str, Any], seconds: float) -> Score:
    """`job` as it ended; `seconds` what the row took."""
    diagnoses = [dict(each) for each in job.get("diagnoses") or ()]
    if job.get("refused"):
        diagnoses = [_refusal(job["failure"])]
    proven = [each for each in diagnoses if each["verdict"] == "proven"]
    right = {row.expected, *row.accepted}
    best = next((each for each in proven if each["code"] in right), None)
    shown = best or next(iter(proven), None) or next(iter(diagnoses), None)
    symptoms = tuple(codes_of(job))
    if not row.expected:
        outcome = Outcome.WRONG if proven else Outcome.NOT_PROVEN if symptoms else Outcome.AVOIDED
    elif best is not None:
        outcome = Outcome.EXACT
    else:
        outcome = Outcome.WRONG if proven else Outcome.NOT_PROVEN
    level = (job.get("consistency") or {}).get("level", "") if job.get("point_id") else ""
    return Score(
        name=row.name,
        family=row.family,
        words=row.words,
        expected=row.expected,
        diagnosed=shown["code"] if shown else "",
        verdict=shown["verdict"] if shown else "",
        outcome=outcome,
        seconds=shown.get("seconds") if shown else None,
        healed=is_worth(level, row.least),
        heals=row.heals,
        consistency=level,
        plain=PLAIN if row.usual else "",
        symptoms=symptoms,
        also=tuple(each["code"] for each in proven if each is not shown),
        candidates=tuple(each["code"] for one in diagnoses for each in one.get("candidates") or ()),
        mends=tuple(f"{each['action']}: {each['status']}" for each in job.get("mends") or ()),
        job_seconds=round(seconds, 1),
    )


def broken(row: Fault, error: str, seconds: float) -> Score:
    return Score(
        name=row.name,
        family=row.family,
        words=row.words,
        expected=row.expected,
        diagnosed="",
        verdict="",
        outcome=Outcome.BROKEN,
        seconds=None,
        healed=False,
        heals=row.heals,
        consistency="",
        plain=PLAIN if row.usual else "",
        symptoms=(),
        also=(),
        candidates=(),
        mends=(),
        job_seconds=round(seconds, 1),
        error=error[:2000],
    )


def is_worth(level: str, least: Consistency) -> bool:
    return bool(level) and RANK[Consistency(level)] >= RANK[least]


def codes_of(job: Mapping[str, Any]) -> Iterator[str]:
    """What failed, by the outermost code of each failure."""
    for report in (job.get("failure"), *(job.get("setbacks") or ())):
        if report:
            yield report["code"]


def _refusal(problem: Mapping[str, Any]) -> dict[str, Any]:
    """A call that was refused: its code is the cause, and was there at once."""
    return {"code": problem["code"], "verdict": "proven", "seconds": 0.0}


def totals(rows: Sequence[Score]) -> dict[str, Any]:
    """The scoreboard. `avoided` rows have nothing to diagnose and are in no other figure but
    `injected` and `healed`."""
    count = Counter(row.outcome for row in rows)
    seconds = [row.seconds for row in rows if row.seconds is not None]
    return {
        "injected": len(rows),
        "avoided": count[Outcome.AVOIDED],
        "exact": count[Outcome.EXACT],
        "wrong_proven": count[Outcome.WRONG],
        "not_proven": count[Outcome.NOT_PROVEN] + count[Outcome.BROKEN],
        "healed": sum(row.healed for row in rows),
        "median_seconds": round(median(seconds), 2) if seconds else None,
    }


def as_json(rows: Sequence[Score]) -> dict[str, Any]:
    return {**totals(rows), "rows": [asdict(row) for row in rows]}


def from_json(body: Mapping[str, Any]) -> list[Score]:
    tuples = ("symptoms", "also", "candidates", "mends")
    return [
        Score(
            **{
                **row,
                "outcome": Outcome(row["outcome"]),
                **{name: tuple(row[name]) for name in tuples},
            }
        )
        for row in body["rows"]
    ]


def line(row: Score) -> str:
    """One row for a terminal."""
    mark = {Outcome.EXACT: "✓", Outcome.AVOIDED: "✓", Outcome.WRONG: "✗✗"}.get(row.outcome, "✗")
    found = row.error or f"{row.diagnosed or '–'} {row.verdict}"
    point = row.consistency or "no point"
    took = f"{row.seconds:.1f} s" if row.seconds is not None else "–"
    healed = "healed" if row.healed else "not healed"
    done = f"; {', '.join(row.mends)}" if row.mends else ""
    symptoms = f" (failed: {', '.join(row.symptoms)})" if row.symptoms else ""
    return (
        f"{mark} {row.name}: expected {row.expected or 'nothing to fail'}, found {found} in {took}"
        f"{symptoms}; {point}, {healed}{done} [{row.job_seconds:.0f} s]"
    )


def confusion(rows: Sequence[Score]) -> str:
    """Expected against found, as a Markdown table; only what was not exact stands apart."""
    cells = Counter((row.expected or "(nothing fails)", _found(row)) for row in rows)
    lines = ["| cause set in | cause found | rows |", "|---|---|---|"]
    for (expected, found), count in sorted(cells.items()):
        lines.append(f"| `{expected}` | {found} | {count} |")
    return "\n".join(lines)


def _found(row: Score) -> str:
    match row.outcome:
        case Outcome.EXACT:
            return f"`{row.diagnosed}`"
        case Outcome.AVOIDED:
            return "nothing failed"
        case Outcome.WRONG:
            return f"**`{row.diagnosed}`, stated as proven**"
        case Outcome.BROKEN:
            return "the row broke"
        case _:
            return f"not proven (`{row.diagnosed or ', '.join(row.symptoms) or 'no failure'}`)"
