"""Runs looks side by side, each with a deadline of its own, and waits for none that hangs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from quiesce.model.diagnosis import Fact
from quiesce.model.failure import Evidence, Failure, FailureReport, ServerFailure, report_of
from quiesce.model.job import Job
from quiesce.model.papers import Papers
from quiesce.model.snapshot import Route
from quiesce.model.vm import VmAddress

log = structlog.get_logger(__name__)

_MOST_HANGING = 64
"""Threads of looks that have not ended by their deadline; beyond it no new ones are begun."""


def _nobody() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Case:
    """What is looked at, and why. `taking` tells the job that may have the guest frozen at the
    moment of the call, and is empty when none may: nothing may be started in a frozen guest.
    `deep`: spare no look."""

    address: VmAddress
    now: datetime
    failure: FailureReport | None = None
    route: Route | None = None
    job: Job | None = None
    taking: Callable[[], str] = _nobody
    deep: bool = False

    @property
    def vm(self) -> str:
        return self.address.name

    @property
    def failures(self) -> tuple[FailureReport, ...]:
        """The failure and its causes, the outermost first."""
        chain: list[FailureReport] = []
        failure = self.failure
        while failure is not None:
            chain.append(failure)
            failure = failure.cause
        return tuple(chain)


@dataclass(frozen=True, slots=True)
class Found:
    """What looks have found. `channels` says through what, or why not, for people."""

    facts: tuple[Fact, ...] = ()
    problems: tuple[FailureReport, ...] = ()
    channels: tuple[str, ...] = ()
    papers: Papers | None = None

    def value(self, name: str) -> object:
        """The fact of that name; None when nobody has seen it."""
        return next((fact.value for fact in self.facts if fact.name == name), None)


def together(found: Sequence[Found]) -> Found:
    """All in one. Of facts with one name the first is kept."""
    facts: dict[str, Fact] = {}
    for each in found:
        for fact in each.facts:
            facts.setdefault(fact.name, fact)
    return Found(
        tuple(facts.values()),
        tuple(dict.fromkeys(problem for each in found for problem in each.problems)),
        tuple(channel for each in found for channel in each.channels),
        next((each.papers for each in found if each.papers is not None), None),
    )


@dataclass(frozen=True, slots=True)
class Look:
    """One way to find facts out. `see` gets the case and what the looks that it comes `after` have
    found; a Failure that it raises is a problem. `seconds` is how long it is waited for, which may
    depend on what was found before it."""

    name: str
    see: Callable[[Case, Found], Found]
    seconds: Callable[[Found], float]
    after: tuple[str, ...] = ()


class Panel:
    """Thread-safe. One set of looks runs per VM at a time; whoever asks for another waits for it,
    which its deadlines bound. A look that hangs is left to its thread, and not begun again for
    that VM until it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._hanging: dict[tuple[str, str], threading.Thread] = {}

    def run(self, case: Case, looks: Sequence[Look]) -> Found:
        """Never raises: what goes wrong with a look is among the problems. Of facts with one name
        the look that comes first in `looks` has the say."""
        with self._lock:
            turn = self._turns.setdefault(case.vm, threading.Lock())
        with turn:
            ended = self._run(case, looks)
        return together([ended[look.name] for look in looks])

    def _run(self, case: Case, looks: Sequence[Look]) -> dict[str, Found]:
        answers: queue.SimpleQueue[tuple[str, Found]] = queue.SimpleQueue()
        waiting = {look.name: look for look in looks}
        running: dict[str, tuple[Look, threading.Thread, float]] = {}
        ended: dict[str, Found] = {}
        while waiting or running:
            for look in _ready(waiting, running):
                del waiting[look.name]
                before = together([ended[name] for name in look.after if name in ended])
                thread = self._begin(look, case, before, answers)
                if thread is None:
                    ended[look.name] = _unanswered(look, "an earlier one still hangs")
                else:
                    deadline = time.monotonic() + look.seconds(before)
                    running[look.name] = (look, thread, deadline)
            if not running:
                assert not waiting or ended, "looks wait for each other"
                continue
            soonest = min(deadline for _, _, deadline in running.values())
            try:
                name, found = answers.get(timeout=max(0.0, soonest - time.monotonic()))
            except queue.Empty:
                for look, thread, deadline in list(running.values()):
                    if deadline <= time.monotonic():
                        del running[look.name]
                        ended[look.name] = _unanswered(look, "none by its deadline")
                        with self._lock:
                            self._hanging[case.vm, look.name] = thread
                continue
            if running.pop(name, None) is not None:
                ended[name] = found
        return ended

    def _begin(
        self,
        look: Look,
        case: Case,
        before: Found,
        answers: queue.SimpleQueue[tuple[str, Found]],
    ) -> threading.Thread | None:
        with self._lock:
            self._hanging = {key: one for key, one in self._hanging.items() if one.is_alive()}
            full = len(self._hanging) >= _MOST_HANGING
            if full or (case.vm, look.name) in self._hanging:
                return None
        thread = threading.Thread(
            target=lambda: answers.put((look.name, _seen(look, case, before))),
            name=f"look-{look.name}",
            daemon=True,
        )
        thread.start()
        return thread


def _ready(
    waiting: Mapping[str, Look], running: Mapping[str, tuple[Look, threading.Thread, float]]
) -> list[Look]:
    """Looks that wait for nothing that has not ended."""
    open_ones = {*waiting, *running}
    return [look for look in waiting.values() if open_ones.isdisjoint(look.after)]


def _seen(look: Look, case: Case, before: Found) -> Found:
    try:
        return look.see(case, before)
    except Failure as failure:
        return Found(problems=(failure.report(),))
    except Exception as defect:
        # The outermost edge of a look: whoever diagnoses a failure must not be given another one.
        log.error("a defect stopped a look", look=look.name, vm=case.vm, exc_info=defect)
        return Found(problems=(report_of(defect),))


def _unanswered(look: Look, how: str) -> Found:
    return Found(
        problems=(
            ServerFailure(
                "server.look-unanswered",
                f"The look “{look.name}” has not answered in time.",
                evidence=[Evidence(f"answer: {how}", f"look {look.name}")],
                retryable=True,
            ).report(),
        )
    )
