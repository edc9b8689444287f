"""Why something on a job failed: looked for while the evidence is fresh, and kept with the job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from quiesce.diagnosis.catalogue import catalogue
from quiesce.diagnosis.engine import diagnose
from quiesce.model.diagnosis import Diagnosis, Fact, FactValue, MendAction, Verdict
from quiesce.model.failure import Failure, FailureReport, report_of
from quiesce.model.job import Job
from quiesce.model.snapshot import Route
from quiesce.service.job_book import JobBook

log = structlog.get_logger(__name__)

_SELF_MADE = frozenset(
    {"input", "policy", "job", "auth", "internal", "script", "freeze", "bitmap", "vm"}
    | {"restore", "vault"}
)
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
    trouble must not cost the backup.

    Looks are waited for `quick` seconds while a point is to be taken, and up to `seconds`
    otherwise. What was not waited for goes on, and is taken up by whoever asks next.
    """

    def __init__(
        self,
        book: JobBook,
        looks: Looking,
        *,
        quick: float = 8.0,
        seconds: float = 120.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._book = book
        self._looks = looks
        self._quick, self._seconds = quick, seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._cases: dict[str, dict[FailureReport, _Case]] = {}

    def on_job(
        self,
        job_id: str,
        failure: FailureReport,
        *,
        route: Route | None = None,
        quick: bool = False,
        pause: Callable[[], None] = _nothing,
    ) -> Found:
        """Why `failure` happened, as far as the looks show it; kept with the job and said in its
        log. The same failure is looked at once. `pause` is called several times a second.

        :raise Failure: what `pause` raises
        """
        with self._lock:
            cases = self._cases.setdefault(job_id, {})
            case = cases.setdefault(failure, _Case(failure, route))
        if case.found is not None and case.complete:
            return case.found
        job = self._book.get(job_id)
        found, complete = self._looked(case, job, self._quick if quick else self._seconds, pause)
        if found.diagnosis.route is None:
            found = replace(found, diagnosis=replace(found.diagnosis, route=case.route))
        before = case.found
        case.found, case.complete = found, complete
        case.cut_short = case.cut_short or not complete
        self._book.update(job_id, lambda job: _with(job, found.diagnosis, before))
        for note in found.notes:
            self._book.log(job_id, "warning", note)
        # What is still looked for may yet be found to stand behind it.
        if complete and case.told != _gist(found.diagnosis):
            case.told = _gist(found.diagnosis)
            self._book.log(job_id, "info", _told(found.diagnosis))
        return found

    def complete(self, job_id: str, pause: Callable[[], None] = _nothing) -> None:
        """Wait for all looks of a job that were not waited for. One that has not proven anything is
        begun anew: the snapshot that was taken meanwhile may have been in its way."""
        with self._lock:
            cases = tuple(self._cases.get(job_id, {}).values())
        for case in cases:
            if not case.cut_short:
                continue
            case.cut_short = False
            found = self.on_job(job_id, case.failure, route=case.route, pause=pause)
            if found.diagnosis.verdict is not Verdict.PROVEN and case.complete:
                case.look, case.complete = None, False
                self.on_job(job_id, case.failure, route=case.route, pause=pause)

    def forget(self, job_id: str) -> None:
        with self._lock:
            self._cases.pop(job_id, None)

    def _looked(
        self, case: _Case, job: Job, seconds: float, pause: Callable[[], None]
    ) -> tuple[Found, bool]:
        """What was seen in time, and whether that is all."""
        failure = case.failure
        if not job.vm or _says_all(failure):
            return Found(diagnose(failure, ())), True
        if case.look is None:
            case.look = _Look(self._looks, job, failure, case.route, self._monotonic)
        seen = case.look.answer(seconds, pause)
        took = self._monotonic() - case.look.began
        if seen is None:
            diagnosis = replace(diagnose(failure, ()), seconds=took)
            note = f"The cause is still looked for after {seconds:g} s."
            return Found(diagnosis, notes=(note,)), False
        if isinstance(seen, FailureReport):
            diagnosis = replace(diagnose(failure, ()), seconds=took)
            note = f"The cause could not be looked for: {seen.message} [{seen.code}]"
            return Found(diagnosis, notes=(note,)), True
        facts = tuple(seen.facts)
        defects = (each for each in seen.problems if each.code == "internal.defect")
        notes = tuple(f"A look at the cause failed: {each.message}" for each in defects)
        return Found(replace(diagnose(failure, facts), seconds=took), facts, notes), True


@dataclass
class _Case:
    """One failure on one job. `complete`: its look has ended, or it needs none. `cut_short`: it was
    not waited for to the end at some time. `told`: what the job's log says of it."""

    failure: FailureReport
    route: Route | None
    look: _Look | None = None
    found: Found | None = None
    complete: bool = False
    cut_short: bool = False
    told: tuple[str, str, Verdict] | None = None


class _Look:
    """All looks at one failure, in a thread that nobody has to wait for."""

    def __init__(
        self,
        looks: Looking,
        job: Job,
        failure: FailureReport,
        route: Route | None,
        monotonic: Callable[[], float],
    ) -> None:
        self._monotonic = monotonic
        self.began = monotonic()
        self._ended = threading.Event()
        self._answer: Seen | FailureReport | None = None

        def look() -> None:
            try:
                self._answer = looks.facts(job.vm, failure=failure, route=route, job=job)
            except Failure as refused:
                self._answer = refused.report()
            except Exception as defect:
                log.error("a defect stopped the looks", vm=job.vm, exc_info=defect)
                self._answer = report_of(defect)
            self._ended.set()

        threading.Thread(target=look, name="diagnosis", daemon=True).start()

    def answer(self, seconds: float, pause: Callable[[], None]) -> Seen | FailureReport | None:
        """None: not yet."""
        deadline = self._monotonic() + seconds
        while not self._ended.wait(_PAUSE_SECONDS):
            pause()
            if self._monotonic() >= deadline:
                return None
        return self._answer


def _says_all(failure: FailureReport) -> bool:
    """Whether the failure needs no look: nothing stands behind its code, and what mends it is the
    same in every guest."""
    while failure.cause is not None:
        failure = failure.cause
    known = catalogue()
    entry = known.entries.get(failure.code)
    if entry is None or entry.family not in _SELF_MADE:
        return False
    behind = entry.symptom or entry.against or known.causes.get(entry.code)
    told_by_guest = MendAction.SKIP_MOUNT in entry.mend_by or any("{" in s for s in entry.steps)
    return not (behind or told_by_guest)


def _with(job: Job, diagnosis: Diagnosis, before: Found | None) -> Job:
    """In place of what was known `before`, and of one that says the same of the same symptom."""
    others = [
        old
        for old in job.diagnoses
        if _gist(old) != _gist(diagnosis) and (before is None or old != before.diagnosis)
    ]
    return replace(job, diagnoses=(*others, diagnosis)[-_MOST_KEPT:])


def _gist(diagnosis: Diagnosis) -> tuple[str, str, Verdict]:
    return diagnosis.symptom, diagnosis.code, diagnosis.verdict


def _told(diagnosis: Diagnosis) -> str:
    if diagnosis.verdict is Verdict.PROVEN:
        return f"The cause is proven: {diagnosis.cause} [{diagnosis.code}]"
    return f"The cause is not proven: {diagnosis.cause} [{diagnosis.code}]"
