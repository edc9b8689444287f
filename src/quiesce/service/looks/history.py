"""What else ran when the job did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from quiesce.model.diagnosis import Fact
from quiesce.model.job import Job
from quiesce.service.job_book import JobBook
from quiesce.service.looks.panel import Case, Found

_SOURCE = "jobs"
_LOOKED_AT = 300


class HistoryLook:
    def __init__(self, book: JobBook) -> None:
        self._book = book

    def __call__(self, case: Case, _: Found) -> Found:
        job = case.job
        if job is None:
            return Found()
        others = [other for other in self._book.newest(limit=_LOOKED_AT) if other.id != job.id]
        codes = {failure.code for failure in case.failures}
        return Found((*_wait(job, others, case.now), *_crowd(job, others, codes, case.now)))


def _wait(job: Job, others: Sequence[Job], now: datetime) -> Iterator[Fact]:
    waited = _waited_seconds(job, now)
    words = f"the job was queued for {waited:.0f} s"
    yield Fact("schedule.wait-seconds", waited, words, _SOURCE)
    before = [
        _waited_seconds(other, now)
        for other in others
        if other.vm == job.vm and other.kind is job.kind and other.started_at is not None
    ]
    if before:
        mean = sum(before) / len(before)
        words = f"the VM's {len(before)} other runs were queued for {mean:.0f} s on average"
        yield Fact("schedule.mean-wait-seconds", mean, words, _SOURCE)


def _crowd(job: Job, others: Sequence[Job], codes: set[str], now: datetime) -> Iterator[Fact]:
    until = job.ended_at or now
    beside = [
        other
        for other in others
        if other.created_at <= until and (other.ended_at or now) >= job.created_at
    ]
    raw = "\n".join(f"{other.id} {other.kind} {other.vm} {other.status}" for other in beside)
    words = f"{len(beside)} other jobs ran or waited at the same time"
    yield Fact("schedule.same-time", float(len(beside)), words, _SOURCE, raw=raw)
    if codes:
        alike = [other for other in beside if _codes(other) & codes]
        raw = "\n".join(f"{other.id} {other.vm}" for other in alike)
        words = f"{len(alike)} of them failed with the same code"
        yield Fact("schedule.failed-alike", float(len(alike)), words, _SOURCE, raw=raw)


def _waited_seconds(job: Job, now: datetime) -> float:
    return max(0.0, ((job.started_at or job.ended_at or now) - job.created_at).total_seconds())


def _codes(job: Job) -> set[str]:
    found = set()
    for failure in (*((job.failure,) if job.failure else ()), *job.setbacks):
        inner = failure
        while True:
            found.add(inner.code)
            if inner.cause is None:
                break
            inner = inner.cause
    return found
