"""Papers alone, without a server: what they prove, and a light for each thing that they show."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from quiesce.diagnosis.checks import checks
from quiesce.diagnosis.engine import diagnose, standing
from quiesce.diagnosis.reading import facts_of
from quiesce.diagnosis.reading.failures import failed_facts, failure_by_agent, failure_in
from quiesce.diagnosis.reading.log_lines import log_lines
from quiesce.diagnosis.reading.observed import observed, text_paper
from quiesce.diagnosis.ways import ways_of
from quiesce.model.diagnosis import Check, Diagnosis, Examination, Fact, Light
from quiesce.model.failure import FailureReport
from quiesce.model.papers import Papers

_NO_NEWS = timedelta(days=7)
"""A failure that the agent has outlived for so long is none of now."""


def examine(papers: Papers) -> Examination:
    """What is wrong in the guest that these papers are from, as far as they show it: the failure
    of the newest backup that they tell of with its cause, then all other causes that stand."""
    began = time.monotonic()
    facts = (*_looked_at(papers), *facts_of(papers))
    failure = failure_in(papers) or failure_by_agent(facts)
    age = _age(papers, failure)
    old = age is not None and age > _NO_NEWS
    ways = ways_of(facts, failed=failure is not None and not old)
    shown = tuple(fact for fact in facts if ways.is_shown(fact))
    if not old:
        facts = (*facts, *failed_facts(papers, failure))
    mattering = tuple(fact for fact in facts if ways.matters(fact))
    found = tuple(_diagnoses(None if old else failure, mattering))
    return Examination(
        subject=papers.source,
        checks=(_newest_backup(failure, age), *_checks(papers, shown, found)),
        diagnoses=found,
        channels=(f"{len(papers.papers)} papers of {papers.source}", *papers.warnings),
        seconds=time.monotonic() - began,
    )


def _looked_at(papers: Papers) -> Iterator[Fact]:
    if papers.papers:
        words = "The guest's inside could be looked at."
        yield observed(papers, papers.papers[0], "guest.examined", True, words)


def _diagnoses(failure: FailureReport | None, facts: tuple[Fact, ...]) -> Iterator[Diagnosis]:
    told: set[str] = set()
    if failure is not None:
        began = time.monotonic()
        first = diagnose(failure, facts)
        yield replace(first, seconds=time.monotonic() - began)
        told = {first.code, *first.also}
    yield from (each for each in standing(facts) if each.code not in told)


def _checks(
    papers: Papers, facts: tuple[Fact, ...], found: tuple[Diagnosis, ...]
) -> Iterator[Check]:
    """What a bundle does not hold is nobody's fault, and has no line; where the collector has
    looked, what it could not see has one."""
    collected = papers.host_clock_at is not None
    yield from (
        check for check in checks(facts, found) if collected or check.light is not Light.UNKNOWN
    )


def _age(papers: Papers, failure: FailureReport | None) -> timedelta | None:
    """How long the agent has gone on since; of papers without its log, how old the failure is.
    None: not known."""
    log = text_paper(papers, "/var/log/waagent.log")
    last: datetime | None = None
    for line in log_lines(log.text) if log is not None else ():
        last = line.at
    end = last or papers.taken_at
    failed = max((each.observed_at for each in failure.evidence), default=None) if failure else None
    return end - failed if end is not None and failed is not None else None


def _newest_backup(failure: FailureReport | None, age: timedelta | None) -> Check:
    if failure is None:
        words = "no failure stands in these papers"
        return Check("extension", "the newest backup", Light.GREEN, words)
    light, words = Light.RED, failure.message.rstrip(".")
    if age is not None and age > _NO_NEWS:
        light, words = Light.AMBER, f"{words}; that was {age.days} days before"
    return Check(
        "extension",
        "the newest backup",
        light,
        words,
        failure.evidence,
        (failure.code,),
    )
