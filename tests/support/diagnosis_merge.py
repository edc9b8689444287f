"""Several runs of the scoreboard joined into one, each job scored anew."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from diagnosis_score import Outcome, Score, from_json, score

from quiesce.lab.faults.fault import Fault
from quiesce.lab.faults.table import TABLE


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the bench, with one guest at a time; times in ISO 8601, empty when not known."""

    commit: str
    began: str
    ended: str


def merged(sources: Sequence[Path], table: Sequence[Fault] = TABLE) -> list[Score]:
    """The rows of these files, in their order; of two for one fault the later one counts, unless
    it broke. A fault that the table no longer has is left out."""
    faults = {row.name: row for row in table}
    rows: dict[str, Score] = {}
    for source in sources:
        jobs = source.with_name(f"{source.stem}-jobs")
        for row in json.loads(source.read_text())["rows"]:
            if row["name"] not in faults:
                continue
            made = _scored(faults[row["name"]], row, jobs / f"{row['name']}.json")
            if made.outcome is not Outcome.BROKEN or made.name not in rows:
                rows[made.name] = made
    return list(rows.values())


def _scored(fault: Fault, row: Mapping[str, Any], kept: Path) -> Score:
    """By the job as it was, where it was kept; by what the run made of it otherwise."""
    job = json.loads(kept.read_text()) if kept.exists() else {}
    if job:
        return score(fault, job, row["job_seconds"])
    return from_json(row)


def runs_of(sources: Iterable[Path]) -> list[Run]:
    """The runs that these files are from. Of a file that does not say, the times of its jobs."""
    found: list[Run] = []
    for source in sources:
        body = json.loads(source.read_text())
        if "runs" in body:
            found += [Run(**run) for run in body["runs"]]
        else:
            found.append(Run(body.get("commit", ""), *_times(source)))
    return found


def _times(source: Path) -> tuple[str, str]:
    jobs = [json.loads(path.read_text()) for path in _jobs_of(source)]
    begun = [job["created_at"] for job in jobs if job.get("created_at")]
    ended = [job["ended_at"] for job in jobs if job.get("ended_at")]
    return (min(begun), max(ended)) if begun and ended else ("", "")


def _jobs_of(source: Path) -> Iterable[Path]:
    return source.with_name(f"{source.stem}-jobs").glob("*.json")


def guests_at_once(runs: Sequence[Run]) -> int:
    """How many runs, each with a guest of its own, went on at the same moment at most."""
    spans = [
        (datetime.fromisoformat(run.began), datetime.fromisoformat(run.ended))
        for run in runs
        if run.began and run.ended
    ]
    return max((sum(begun <= at < ended for begun, ended in spans) for at, _ in spans), default=1)
