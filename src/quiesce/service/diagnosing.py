"""Why something on a job failed: looked for while the evidence is fresh, and kept with the job."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from quiesce.diagnosis.catalogue import catalogue
from quiesce.diagnosis.engine import diagnose
from quiesce.model.diagnosis import Diagnosis, Fact, FactValue, Verdict
from quiesce.model.failure import Failure, FailureReport, report_of
from quiesce.model.job import Job
from quiesce.model.snapshot import Route
from quiesce.service.job_book import JobBook

log = structlog.get_logger(__name__)

_SELF_MADE = frozenset({"input", "policy", "job", "auth", "internal", "script", "freeze", "bitmap"})
"""Families whose failures say themselves what happened, as far as their entries allow."""
_PAUSE_SECONDS = 0.2
_MOST_KEPT = 20
"""Of one job; it fails for fewer reasons than that."""


class Seen(Protocol):
    @property
    def facts(self) -> Sequence[Fact]: ...

    @property
    def problems(self) -> Sequence[FailureReport]: ...


class Looking(Protocol):
    """`quiesce.service.looks.Looks`."""

    def facts(
        self,
        vm: str,
        *,
        failure: FailureReport | None = None,
        route: Route | None = None,
        job: Job | None = None,
        deep: bool = False,
    ) -> Seen: ...


@dataclass(frozen=True, slots=True)
class Found:
    """A diagnosis with the facts that it rests on. `notes` say what kept the looks from more."""

    diagnosis: Diagnosis
    facts: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()

    def value(self, name: str) -> FactValue | None:
        return next((fact.value for fact in self.facts if fact.name == name), None)


def _nothing() -> None:
    return


class Diagnosing:
    """Thread-safe. No failure and no defect of a look leaves it: finding out why a backup is in
    trouble must not cost the backup."""

    def __init__(
        self,
        book: JobBook,
        looks: Looking,
        *,
        seconds: float = 120.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._book = book
        self._looks = looks
        self._seconds = seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._found: dict[str, dict[FailureReport, Found]] = {}

    def of(
        self,
        vm: str,
        failure: FailureReport,
        *,
        route: Route | None = None,
        job: Job | None = None,
        pause: Callable[[], None] = _nothing,
    ) -> Found:
        """Why `failure` happened, as far as the looks show it within some seconds. `pause` is
        called several times a second meanwhile.

        :raise Failure: what `pause` raises
        """
        began = self._monotonic()
        seen, notes = self._looked(vm, failure, route, job, pause)
        facts = () if seen is None else tuple(seen.facts)
        if seen is not None:
            defects = (each for each in seen.problems if each.code == "internal.defect")
            notes = (*notes, *(f"A look at the cause failed: {each.message}" for each in defects))
        diagnosis = diagnose(failure, facts)
        took = self._monotonic() - began
        return Found(replace(diagnosis, seconds=took), facts, notes)

    def on_job(
        self,
        job_id: str,
        failure: FailureReport,
        *,
        route: Route | None = None,
        pause: Callable[[], None] = _nothing,
    ) -> Found:
        """As `of`, kept with the job and said in its log; the same failure is looked at once."""
        with self._lock:
            known = self._found.get(job_id, {}).get(failure)
        if known is not None:
            return known
        job = self._book.get(job_id)
        found = self.of(job.vm, failure, route=route, job=job, pause=pause)
        with self._lock:
            self._found.setdefault(job_id, {})[failure] = found
        self._book.update(job_id, lambda job: _with(job, found.diagnosis))
        for note in found.notes:
            self._book.log(job_id, "warning", note)
        self._book.log(job_id, "info", _told(found.diagnosis))
        return found

    def forget(self, job_id: str) -> None:
        with self._lock:
            self._found.pop(job_id, None)

    def _looked(
        self,
        vm: str,
        failure: FailureReport,
        route: Route | None,
        job: Job | None,
        pause: Callable[[], None],
    ) -> tuple[Seen | None, tuple[str, ...]]:
        """What was seen in time, and why not more. A look that hangs is left to its thread."""
        if not vm or _says_all(failure):
            return None, ()
        answer: queue.SimpleQueue[Seen | FailureReport] = queue.SimpleQueue()

        def look() -> None:
            try:
                answer.put(self._looks.facts(vm, failure=failure, route=route, job=job))
            except Failure as refused:
                answer.put(refused.report())
            except Exception as defect:
                log.error("a defect stopped the looks", vm=vm, exc_info=defect)
                answer.put(report_of(defect))

        threading.Thread(target=look, name="diagnosis", daemon=True).start()
        deadline = self._monotonic() + self._seconds
        while True:
            try:
                seen = answer.get(timeout=_PAUSE_SECONDS)
                break
            except queue.Empty:
                pause()
                if self._monotonic() >= deadline:
                    return None, (f"Looking for the cause was given up after {self._seconds:g} s.",)
        if isinstance(seen, FailureReport):
            return None, (f"The cause could not be looked for: {seen.message} [{seen.code}]",)
        return seen, ()


def _says_all(failure: FailureReport) -> bool:
    """Whether the failure needs no look: nothing stands behind its code, and what mends it is the
    same in every guest."""
    while failure.cause is not None:
        failure = failure.cause
    known = catalogue()
    entry = known.entries.get(failure.code)
    if entry is None or entry.family not in _SELF_MADE:
        return False
    rules = entry.symptom or entry.proof or entry.against or known.causes.get(entry.code)
    return not (rules or entry.mend_by or any("{" in step for step in entry.steps))


def _with(job: Job, diagnosis: Diagnosis) -> Job:
    """One that says the same of the same symptom is replaced: its evidence is newer."""
    same = (diagnosis.symptom, diagnosis.code, diagnosis.verdict)
    others = [old for old in job.diagnoses if (old.symptom, old.code, old.verdict) != same]
    return replace(job, diagnoses=(*others, diagnosis)[-_MOST_KEPT:])


def _told(diagnosis: Diagnosis) -> str:
    if diagnosis.verdict is Verdict.PROVEN:
        return f"The cause is proven: {diagnosis.cause} [{diagnosis.code}]"
    return f"The cause is not proven: {diagnosis.cause} [{diagnosis.code}]"
