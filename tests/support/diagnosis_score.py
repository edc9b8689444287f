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
"""What other products would say of an agent or an extension that fails, whatever the cause."""
_PLAIN_FAMILIES = ("agent", "extension")


class Outcome(StrEnum):
    EXACT = "exact"
    WRONG = "wrong, and stated as proven"
    NOT_PROVEN = "not proven"
    AVOIDED = "nothing failed"
    """As it should be: what hurts others does no harm here, and the point is worth its full."""
    REFUSED = "refused, as it should be"
    """A call that was refused by its code: there was no cause to find."""
    BROKEN = "the row broke"
    """The lab did not get so far. It counts as not proven."""


@dataclass(frozen=True)
class Score:
    """One row of build/bench/diagnosis.json. `seconds` is how long finding the cause took, None
    when none was stated; `job_seconds` the whole row. `failed`: something went less well than it
    should, so that there was something to heal; `heals`: the lab expects that it is."""

    name: str
    family: str
    words: str
    expected: str
    diagnosed: str
    verdict: str
    outcome: Outcome
    seconds: float | None
    failed: bool
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
    proven = [each for each in diagnoses if each["verdict"] == "proven"]
    right = {row.expected, *row.accepted}
    best = next((each for each in proven if each["code"] in right), None)
    wrong = next((each for each in proven if each["code"] not in right | {*row.beside}), None)
    shown = wrong or best or next(iter(diagnoses), None)
    symptoms = tuple(codes_of(job))
    level = (job.get("consistency") or {}).get("level", "") if job.get("point_id") else ""
    worth = is_worth(level, row.least)
    fine = worth and not symptoms
    outcome = _outcome(row, job, proven=best is not None, wrong=wrong is not None, fine=fine)
    failed = row.hurts and not fine and outcome is not Outcome.REFUSED
    return Score(
        name=row.name,
        family=row.family,
        words=row.words,
        expected=row.expected,
        diagnosed=shown["code"] if shown else "",
        verdict=shown["verdict"] if shown else "",
        outcome=outcome,
        seconds=_seconds_until(shown, diagnoses),
        failed=failed,
        healed=failed and worth,
        heals=row.heals,
        consistency=level,
        plain=PLAIN if row.family in _PLAIN_FAMILIES else "",
        symptoms=symptoms,
        also=tuple(each["code"] for each in proven if each is not shown),
        candidates=tuple(each["code"] for one in diagnoses for each in one.get("candidates") or ()),
        mends=tuple(f"{each['action']}: {each['status']}" for each in job.get("mends") or ()),
        job_seconds=round(seconds, 1),
    )


def _outcome(
    row: Fault, job: Mapping[str, Any], *, proven: bool, wrong: bool, fine: bool
) -> Outcome:
    """`fine`: nothing failed, and the point is worth its full."""
    if job.get("refused"):
        as_it_should = job["failure"]["code"] in (row.expected, *row.accepted)
        return Outcome.REFUSED if as_it_should else Outcome.NOT_PROVEN
    if wrong:
        return Outcome.WRONG
    if not row.expected:
        return Outcome.AVOIDED if fine else Outcome.NOT_PROVEN
    return Outcome.EXACT if proven else Outcome.NOT_PROVEN


def _seconds_until(
    shown: Mapping[str, Any] | None, diagnoses: Sequence[Mapping[str, Any]]
) -> float | None:
    """From the first diagnosis on until the one that is shown: what came before it counts too."""
    if shown is None:
        return None
    until = next(at for at, each in enumerate(diagnoses) if each is shown)
    taken = [each.get("seconds") for each in diagnoses[: until + 1]]
    return (
        sum(each for each in taken if each is not None)
        if any(each is not None for each in taken)
        else None
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
        failed=True,
        healed=False,
        heals=row.heals,
        consistency="",
        plain=PLAIN if row.family in _PLAIN_FAMILIES else "",
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


def totals(rows: Sequence[Score]) -> dict[str, Any]:
    """The scoreboard. Rows that are avoided or refused have nothing to diagnose or to heal and are
    in no other figure but `injected`. Of `failed` rows, `healable` are those that the lab expects
    to be healed."""
    count = Counter(row.outcome for row in rows)
    found = (Outcome.EXACT, Outcome.WRONG, Outcome.NOT_PROVEN)
    seconds = [row.seconds for row in rows if row.seconds is not None and row.outcome in found]
    return {
        "injected": len(rows),
        "avoided": count[Outcome.AVOIDED],
        "refused": count[Outcome.REFUSED],
        "exact": count[Outcome.EXACT],
        "wrong_proven": count[Outcome.WRONG],
        "not_proven": count[Outcome.NOT_PROVEN] + count[Outcome.BROKEN],
        "failed": sum(row.failed for row in rows),
        "healed": sum(row.healed for row in rows),
        "healable": sum(row.failed and row.heals for row in rows),
        "median_seconds": round(median(seconds), 2) if seconds else None,
    }


def as_json(rows: Sequence[Score], runs: Sequence[Any] = ()) -> dict[str, Any]:
    """`runs`: the runs that the rows are from, as data classes."""
    return {
        **totals(rows),
        "runs": [asdict(run) for run in runs],
        "rows": [asdict(row) for row in rows],
    }


def from_json(row: Mapping[str, Any]) -> Score:
    """One of the `rows`."""
    tuples = ("symptoms", "also", "candidates", "mends")
    fields = {**row, "outcome": Outcome(row["outcome"])}
    fields |= {name: tuple(row[name]) for name in tuples}
    fields.setdefault("failed", fields["outcome"] is not Outcome.AVOIDED)
    return Score(**fields)


def line(row: Score) -> str:
    """One row for a terminal."""
    good = (Outcome.EXACT, Outcome.AVOIDED, Outcome.REFUSED)
    mark = "✓" if row.outcome in good else "✗✗" if row.outcome is Outcome.WRONG else "✗"
    found = row.error or f"{row.diagnosed or '–'} {row.verdict}"
    point = row.consistency or "no point"
    took = f"{row.seconds:.1f} s" if row.seconds is not None else "–"
    healed = "healed" if row.healed else "not healed" if row.failed else "nothing to heal"
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
        case Outcome.AVOIDED | Outcome.REFUSED:
            return row.outcome.value
        case Outcome.WRONG:
            return f"**`{row.diagnosed}`, stated as proven**"
        case Outcome.BROKEN:
            return "the row broke"
        case _:
            return f"not proven (`{row.diagnosed or ', '.join(row.symptoms) or 'no failure'}`)"
