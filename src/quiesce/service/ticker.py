"""The one thread that looks at the schedule, and mends what fell between two chairs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import structlog

from quiesce.model.failure import Failure, PolicyFailure
from quiesce.service.clock import Clock
from quiesce.service.jobs import Jobs
from quiesce.service.protections import Protection, Protections
from quiesce.service.schedule import due_run, mended_after_clock_jump
from quiesce.service.workflow import Workflows

log = structlog.get_logger(__name__)


class Ticker:
    def __init__(
        self,
        clock: Clock,
        protections: Protections,
        jobs: Jobs,
        workflows: Workflows,
        every_seconds: float,
        *,
        chores: Sequence[Callable[[], object]] = (),
    ) -> None:
        """`chores` are what else needs to be seen to at every tick."""
        self._clock = clock
        self._protections = protections
        self._jobs = jobs
        self._workflows = workflows
        self._every_seconds = every_seconds
        self._chores = chores
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="schedule", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def tick(self) -> tuple[str, ...]:
        """Start every run that is due now; returns the VMs whose run was started.

        A VM whose backup is active keeps its run due: it is made up when that one has ended.
        """
        started = []
        for protection in self._protections.scheduled():
            try:
                if self._serve(protection):
                    started.append(protection.vm)
            except Failure as failure:
                log.warning("run not started", vm=protection.vm, reason=str(failure))
            except Exception as error:
                # One VM must not keep the others from being served.
                log.error("run not started", vm=protection.vm, exc_info=error)
        return tuple(started)

    def _serve(self, protection: Protection) -> bool:
        policy, now = protection.policy, self._clock.now()
        if policy.at is None:
            return False
        served = mended_after_clock_jump(policy.at, policy.zone, protection.served_until, now)
        if served != protection.served_until:
            log.warning("the clock was set back; schedule goes on", vm=protection.vm)
            self._protections.serve(protection.vm, served)
        due = due_run(policy.at, policy.zone, served, now)
        if due is None:
            return False
        try:
            job = self._jobs.start_backup(protection.vm, trigger="schedule")
        except PolicyFailure as busy:
            log.info("run waits for the active backup", vm=protection.vm, code=busy.code)
            return False
        # Killed between these two lines, the run is due again at the next start and made once
        # more: a backup too many rather than one too few.
        self._protections.serve(protection.vm, due)
        log.info("run started", vm=protection.vm, job=job.id, due=due.isoformat())
        return True

    def _run(self) -> None:
        while True:
            for work in (self._workflows.reconcile, self.tick, *self._chores):
                try:
                    work()
                except Exception as error:
                    log.error("the schedule's tick failed", exc_info=error)
            if self._stopped.wait(self._every_seconds):
                return
