"""Self-healing on one job: what fails is diagnosed, what may be mended is, and each step is a line
of its log and an entry in `Job.mends`.

A step is taken once per job for each agent, and never one that the policy switches off. A
deterministic failure is not tried again; a passing one is, after a pause.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from quiesce.diagnosis.catalogue import catalogue
from quiesce.model.diagnosis import Diagnosis, Mend, MendAction, MendStatus
from quiesce.model.failure import Evidence, Failure, FailureReport, FreezeFailure, SnapshotFailure
from quiesce.model.job import Job
from quiesce.model.policy import Policy, SnapshotOptions
from quiesce.model.progress import Progress
from quiesce.model.snapshot import Route, Snapshot
from quiesce.service.console import Console
from quiesce.service.diagnosing import Found
from quiesce.service.mending import IN_THE_SNAPSHOT, ON_CONFIRMATION, WORDS, Mending, told
from quiesce.service.patience import Show, errand
from quiesce.service.work import Parts
from quiesce.snapshot.ports import Again

_TRIED = (MendStatus.DONE, MendStatus.FAILED)
_PASSING_FAMILIES = frozenset({"vm", "snapshot", "hypervisor", "storage"})
_MOST_TRIES = 2
"""Of one route, per job: each may freeze the guest."""
_PASSING_CODES = frozenset({"agent.channel-lost"})
"""What ended the whole task and may pass by itself. Of the others, which are a route's, each route
was given its one more try already."""
_WAYS = IN_THE_SNAPSHOT - {MendAction.SKIP_MOUNT}
_LAST_RESORTS = frozenset({MendAction.WAIT, MendAction.SKIP_MOUNT})
"""Not when something before them in the plan was done."""
_NOT_RUNNING = frozenset({"vm.shut-down-inside-guest", "vm.paused", "vm.crashed", "vm.gone"})


class JobMender:
    """Fulfils `quiesce.snapshot.ports.Mender` for one job. Every method may raise job.cancelled."""

    def __init__(self, parts: Parts, job: Job, policy: Policy | None, console: Console) -> None:
        self._parts, self._console = parts, console
        self._job_id, self._vm = job.id, job.vm
        self._off = () if policy is None else policy.mends_off
        self._mending = Mending(parts)
        self._routes: dict[FailureReport, Route] = {}
        self._tries: dict[Route, int] = {}
        self._left = parts.patience.before_point
        """Seconds that may still be spent on mending before the point."""

    # --- while the snapshot is taken

    def trying(self, route: Route) -> None:
        """See `Mender.trying`."""
        self._tries[route] = self._tries.get(route, 0) + 1

    def failed(self, route: Route, failure: Failure) -> None:
        """See `Mender.failed`."""
        self._routes[failure.report()] = route
        self._found(failure.report(), route, quick=True)

    def mend(self, route: Route, failure: Failure, options: SnapshotOptions) -> Again | None:
        """See `Mender.mend`."""
        if self._tries.get(route, 0) >= _MOST_TRIES or self._left <= 0:
            return None
        found = self._found(failure.report(), route)
        tried = [mend for mend in self._plan(found.diagnosis) if mend.action not in _WAYS]
        done = False
        for mend in tried:
            if done and mend.action in _LAST_RESORTS:
                continue
            if mend.action is MendAction.SKIP_MOUNT:
                ended, options = self._less_one_mount(mend, found, options)
            else:
                ended = self._carried_out_before_the_point(mend, route)
            if _is_stuck(ended):
                return None
            done = done or ended.status is MendStatus.DONE
            if done and mend.action is MendAction.WAIT:
                break
        if done:
            return Again(options)
        if tried or not _may_pass(failure, found.diagnosis):
            return None
        self.pause(self._parts.patience.retries[0], failure)
        return Again(options)

    # --- when the snapshot task has failed

    def pause_before_retry(self, failure: Failure, attempt: int) -> float | None:
        """How long to wait before the whole task is tried again, `attempt` times after the first;
        None when it is not, since it would end in the same way or has been tried enough."""
        passing = failure.code in _PASSING_CODES or (
            failure.code.partition(".")[0] in _PASSING_FAMILIES
        )
        retries = self._parts.patience.retries
        if not (failure.retryable and passing) or attempt >= len(retries):
            return None
        if max(self._tries.values(), default=0) >= _MOST_TRIES:
            return None
        found = self._found(failure.report(), self._routes.get(failure.report()))
        for mend in self._plan(found.diagnosis):
            if mend.action not in IN_THE_SNAPSHOT and self._left > 0:
                self._carried_out_before_the_point(mend, None)
        return retries[attempt]

    def pause(self, seconds: float, failure: Failure) -> None:
        self._console.log("info", f"It is tried again in {seconds:g} s, as it may pass: {failure}")
        self._parts.patience.wait(seconds, f"Waiting because of {failure.code}", self._show)
        self._console.progress(Progress())

    # --- when the snapshot is taken

    def settled(self, snapshot: Snapshot) -> None:
        """Diagnose what made the point less than it could have been, and note by what ways it was
        taken all the same.

        :raise SnapshotFailure: a disk would have to be read whole, and the policy forbids that
        """
        for report in snapshot.setbacks:
            route = self._routes.get(report)
            found = self._found(report, route, quick=True)
            if report.code in _NOT_RUNNING and snapshot.freeze is None:
                self._note_way(MendAction.OFFLINE, report.code)
            elif snapshot.freeze is not None and route not in (None, snapshot.session.route):
                self._note_way(MendAction.OTHER_ROUTE, found.diagnosis.code)
        if snapshot.session.route is Route.OFFLINE:
            return
        for forced in _full_reads(snapshot):
            self.read_whole(forced)

    def read_whole(self, forced: SnapshotFailure) -> None:
        """A disk is read whole because of `forced`; note that as the way round it.

        :raise SnapshotFailure: `forced`, when the policy forbids that
        """
        if MendAction.FULL_READ in self._off:
            raise forced
        self._found(forced.report(), None, quick=True)
        self._note_way(MendAction.FULL_READ, forced.code)

    # --- when the point is in the vault

    def mend_what_is_broken(self) -> None:
        """Everything that the job's diagnoses name, that was not tried yet and that a new look
        still shows, so that the next backup is whole."""
        self._parts.diagnosing.complete(self._job_id, self._stop_if_cancelled)
        for diagnosis in self._parts.book.get(self._job_id).diagnoses:
            causes: dict[str, list[Mend]] = {}
            for mend in self._plan(diagnosis):
                if mend.action not in IN_THE_SNAPSHOT:
                    causes.setdefault(mend.because, []).append(mend)
            for steps in causes.values():
                self._mend_after(steps)

    def _mend_after(self, steps: Sequence[Mend]) -> None:
        """What a job waits for in vain is no matter any more; what is begun after a wait is."""
        if steps[-1].action is MendAction.WAIT:
            steps = steps[:-1]
        if not steps or not self._is_still_there(steps[0]):
            return
        for mend in steps:
            ended = self._carried_out(
                mend, None, lambda words: self._console.log("debug", words), math.inf
            )
            if _is_stuck(ended) or (
                mend.action is MendAction.WAIT and ended.status is MendStatus.DONE
            ):
                return

    def _is_still_there(self, mend: Mend) -> bool:
        there = errand(
            lambda _: self._mending.is_still_there(self._vm, mend, self._job_id),
            "Looking once more",
            lambda words: self._console.log("debug", words),
        )
        if not there:
            self._console.note("info", f"It shows no more, so nothing is mended: {mend.because}.")
        return there

    # --- what these share

    def _found(self, report: FailureReport, route: Route | None, *, quick: bool = False) -> Found:
        return self._parts.diagnosing.on_job(
            self._job_id, report, route=route, quick=quick, pause=self._stop_if_cancelled
        )

    def _stop_if_cancelled(self) -> None:
        self._console.log("debug", "")

    def _plan(self, diagnosis: Diagnosis) -> tuple[Mend, ...]:
        """What this job has not tried yet and may do unasked. What the policy switches off is
        noted, and left out."""
        known = {
            (mend.action, mend.route): mend.status
            for mend in self._parts.book.get(self._job_id).mends
        }
        plan = []
        for mend in self._mending.plan(self._vm, diagnosis, self._off):
            if mend.action in ON_CONFIRMATION:
                continue
            if mend.status is MendStatus.SWITCHED_OFF:
                if (mend.action, mend.route) not in known:
                    self._note(mend)
            elif known.get((mend.action, mend.route)) not in _TRIED:
                plan.append(mend)
        return tuple(plan)

    def _carried_out_before_the_point(self, mend: Mend, route: Route | None) -> Mend:
        began = time.monotonic()
        ended = self._carried_out(mend, route, self._show, self._left)
        self._left -= time.monotonic() - began
        return ended

    def _carried_out(self, mend: Mend, route: Route | None, show: Show, seconds: float) -> Mend:
        self._console.log("info", f"Because of {mend.because}: {mend.words}")
        ended = self._mending.carry_out(
            self._vm, mend, route=route, job=self._job_id, show=show, seconds=seconds
        )
        if show == self._show:
            self._console.progress(Progress())
        self._note(ended)
        return ended

    def _less_one_mount(
        self, mend: Mend, found: Found, options: SnapshotOptions
    ) -> tuple[Mend, SnapshotOptions]:
        """The options without the one mount that the failure names; the same ones when it names
        none, or the root, without which a freeze is worth nothing."""
        mount = str(found.value("failed.mount") or "")
        if not mount or mount == "/" or mount in options.skip_mounts:
            reason = "it is the root" if mount == "/" else "the failure names no other single one"
            why = FreezeFailure("freeze.failed", f"No mount can be left out: {reason}.")
            mend = replace(mend, status=MendStatus.FAILED, failure=why.report())
        else:
            words = f"The mount {mount} is left out of the freeze."
            mend = replace(mend, status=MendStatus.DONE, words=words)
            options = replace(options, skip_mounts=(*options.skip_mounts, mount))
        self._note(mend)
        return mend, options

    def _note_way(self, action: MendAction, because: str) -> None:
        self._note(Mend(action, because, WORDS[action], MendStatus.DONE))

    def _note(self, mend: Mend) -> None:
        """Into the job and its log, unless the job has it."""
        mend = replace(mend, at=self._parts.clock.now())
        job = self._parts.book.get(self._job_id)
        if any(_same(mend, old) for old in job.mends):
            return
        self._parts.book.update(job.id, lambda job: replace(job, mends=(*job.mends, mend)))
        failed = mend.status is MendStatus.FAILED
        self._console.note("warning" if failed else "info", told(mend))

    def _show(self, words: str) -> None:
        self._console.progress(Progress(phase=words))
        self._console.log("debug", words)


def _same(one: Mend, other: Mend) -> bool:
    def gist(mend: Mend) -> tuple[object, ...]:
        return mend.action, mend.because, mend.status, mend.route

    return gist(one) == gist(other)


def _is_stuck(mend: Mend) -> bool:
    """Whether the guest may still be at it: then it is not to be frozen, nor given more to do."""
    return mend.failure is not None and mend.failure.code == "server.mend-timeout"


def _may_pass(failure: Failure, diagnosis: Diagnosis) -> bool:
    """Whether the same again may end otherwise: who raised it says so, and so does the catalogue
    of the cause, which is more than a symptom."""
    entry = catalogue().entries.get(diagnosis.code)
    return failure.retryable and diagnosis.retry_helps and not (entry is None or entry.symptom)


def _full_reads(snapshot: Snapshot) -> Iterator[SnapshotFailure]:
    """Why disks are read whole of which only the changes were to be expected. A reason begins with
    its code, see `quiesce.hypervisor.bitmaps`."""
    for disk in snapshot.session.disks:
        code, _, words = disk.full_read_reason.partition(": ")
        if code.startswith("bitmap."):
            message = f"{words[:1].upper()}{words[1:]}."
            fact = Evidence(
                f"disk {disk.name} is read whole", "hypervisor", snapshot.session.taken_at
            )
            yield SnapshotFailure(code, message, evidence=[fact])
