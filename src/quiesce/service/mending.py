"""What Quiesce does about a cause by itself: planned from the catalogue, carried out step by step.

A step never raises because it did not work: that is its status, with the failure whole. What runs
in the guest goes through an agent that answers; the agent that is broken is mended through the
other one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import structlog

from quiesce.diagnosis.catalogue import catalogue
from quiesce.diagnosis.engine import can_stand, excluded, standing
from quiesce.hypervisor.names import generation_task
from quiesce.model.diagnosis import Diagnosis, Fact, Mend, MendAction, MendStatus, Verdict
from quiesce.model.failure import (
    AgentFailure,
    Evidence,
    ExtensionFailure,
    Failure,
    VmFailure,
    report_of,
)
from quiesce.model.snapshot import Route
from quiesce.model.vm import PowerState
from quiesce.service.agents_at_hand import AgentsAtHand, is_ours
from quiesce.service.job_book import backup_slot
from quiesce.service.patience import Show, errand
from quiesce.service.sweep import sweep
from quiesce.service.work import Parts

log = structlog.get_logger(__name__)

WORDS: Mapping[MendAction, str] = {
    MendAction.THAW: "End what a lost session has left in the guest, and thaw it.",
    MendAction.RESTART_AGENT: "Restart the agent through the other one.",
    MendAction.AUTO_RESTART: "Let systemd restart the agent whenever it ends.",
    MendAction.ENABLE_EXTENSIONS: "Switch on again what the agent's configuration forbids.",
    MendAction.SET_ENDPOINT: "Exempt the host's address from the agent's proxy.",
    MendAction.REINSTALL_EXTENSION: "End what hangs of the extension, remove it, install it anew.",
    MendAction.RENEW_ACCESS: "Give the guest new access: a new goal state, with a new certificate.",
    MendAction.CLEAN_STALE: "Remove snapshots and bitmaps of ours that belong to no job.",
    MendAction.WAIT: "Wait for it to end.",
    MendAction.OTHER_ROUTE: "Take the point by the other route.",
    MendAction.OFFLINE: "Back up the disks of the VM that does not run.",
    MendAction.SKIP_MOUNT: "Leave the mount out of the freeze, and say so in the label.",
    MendAction.START_PROVIDER: "Let Windows' provider of shadow copies be started again.",
    MendAction.VSS_COPY: "Let shadow copies leave SQL Server's own backups alone.",
    MendAction.FULL_READ: "Read everything, and start the change tracking anew.",
}

IN_THE_SNAPSHOT = frozenset(
    {MendAction.OTHER_ROUTE, MendAction.OFFLINE, MendAction.SKIP_MOUNT, MendAction.FULL_READ}
)
"""These are ways to take a point, and happen there or not at all."""
ON_CONFIRMATION = frozenset({MendAction.VSS_COPY})
"""No job does these by itself: they change what other backups of the guest are based on."""

_THE_GUESTS_OWN = frozenset(
    {
        MendAction.RESTART_AGENT,
        MendAction.AUTO_RESTART,
        MendAction.ENABLE_EXTENSIONS,
        MendAction.SET_ENDPOINT,
        MendAction.START_PROVIDER,
        MendAction.VSS_COPY,
    }
)
"""Services and settings that are not Quiesce's: for a proven cause only."""

_PASSING = frozenset({"guest.overloaded", "vm.migrating", "schedule.crowded"})
"""Loads, which fall, and a migration, which ends."""


def _silent(_: str) -> None:
    return


class Mending:
    """Stateless, over the parts that jobs work with. `job` is the one on whose behalf it acts:
    nothing is mended in a VM that another job takes its snapshot of."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._steps: Mapping[MendAction, Callable[[AgentsAtHand], str]] = {
            MendAction.THAW: self._thaw,
            MendAction.RESTART_AGENT: self._restart_agent,
            MendAction.AUTO_RESTART: self._auto_restart,
            MendAction.ENABLE_EXTENSIONS: self._enable_extensions,
            MendAction.SET_ENDPOINT: self._set_endpoint,
            MendAction.REINSTALL_EXTENSION: self._reinstall,
            MendAction.RENEW_ACCESS: self._renew,
            MendAction.CLEAN_STALE: self._clean,
            MendAction.START_PROVIDER: lambda case: case.qga().mend("start-provider"),
            MendAction.VSS_COPY: lambda case: case.qga().mend("vss-copy"),
            MendAction.WAIT: self._wait,
        }

    def plan(self, vm: str, diagnosis: Diagnosis, off: Collection[MendAction]) -> tuple[Mend, ...]:
        """What would be done about a cause, in that order; `off` is what the policy forbids. Does
        nothing. Nothing is done about what the facts contradict; about a symptom whose cause is not
        proven, only what its own entry names and what changes nothing of the guest's own."""
        planned: dict[MendAction, Mend] = {}
        proven = diagnosis.verdict is Verdict.PROVEN
        for code in (diagnosis.code, *diagnosis.also):
            if code == diagnosis.code and diagnosis.contradicted:
                continue
            guessed = code == diagnosis.code and not proven
            entry = catalogue().entries.get(code)
            for action in () if entry is None else entry.mend_by:
                if guessed and action in _THE_GUESTS_OWN:
                    continue
                status = MendStatus.SWITCHED_OFF if action in off else MendStatus.PLANNED
                step = Mend(action, code, WORDS[action], status, route=diagnosis.route)
                planned.setdefault(action, step)
        return tuple(planned.values())

    def carry_out(
        self,
        vm: str,
        mend: Mend,
        *,
        route: Route | None = None,
        job: str = "",
        show: Show = _silent,
        seconds: float = math.inf,
    ) -> Mend:
        """Do what is planned. The same step again does no harm. `route` is the one that failed, if
        that is not in the step; without either, the agent that does not answer is taken for the
        broken one. `show` is called all through long waits, and what it raises is raised. The step
        is given up after `seconds`, and after Patience.step at the latest, unless it is a wait.

        Returns the step as done, with what was done, or as failed, with why. One that is not
        planned, or happens in taking a snapshot only, is returned as it is.

        :raise NotFoundFailure: vm.unknown
        :raise PolicyFailure: policy.in-progress
        """
        address = self._parts.vms.address(vm)
        if self._parts.book.holder(backup_slot(address.name)) != job:
            self._parts.book.check_idle(address.name)
        step = self._steps.get(mend.action)
        if step is None or mend.status is not MendStatus.PLANNED:
            return mend

        def work(say: Show) -> str:
            return step(AgentsAtHand(self._parts, address, mend, mend.route or route, job, say))

        if mend.action is not MendAction.WAIT:
            seconds = min(seconds, self._parts.patience.step)
        try:
            words = errand(work, f"{mend.words} ({mend.because})", show, seconds=seconds)
        except Failure as failure:
            if failure.code == "job.cancelled":
                raise
            return self._ended(mend, MendStatus.FAILED, mend.words, failure)
        except Exception as defect:
            log.error("a defect stopped a mend", vm=vm, action=mend.action, exc_info=defect)
            return self._ended(mend, MendStatus.FAILED, mend.words, defect)
        return self._ended(mend, MendStatus.DONE, words)

    def _ended(
        self, mend: Mend, status: MendStatus, words: str, error: Exception | None = None
    ) -> Mend:
        report = None if error is None else report_of(error)
        now = self._parts.clock.now()
        return replace(mend, status=status, words=words, at=now, failure=report)

    # --- the agents

    def _restart_agent(self, case: AgentsAtHand) -> str:
        if case.broken is Route.GUEST:
            done = case.qga().mend("restart-waagent")
            # Not before: the old process may have asked once more until it was ended.
            case.await_waagent(case.now())
        else:
            done = case.waagent().mend(case.vm, "restart-qga")
            case.await_qga()
        return done

    def _auto_restart(self, case: AgentsAtHand) -> str:
        return case.by_any_agent(f"auto-restart-{case.broken_name}")

    def _enable_extensions(self, case: AgentsAtHand) -> str:
        if case.broken is Route.GUEST:
            done = case.qga().mend("enable-extensions")
            case.await_waagent(case.now())
        else:
            # It may start programs itself, unless it is just this that is forbidden.
            done = case.by_any_agent("allow-qga")
            case.await_qga()
        return done

    def _set_endpoint(self, case: AgentsAtHand) -> str:
        return case.by_any_agent("exempt-host", self._parts.host_address)

    # --- the extension

    def _reinstall(self, case: AgentsAtHand) -> str:
        # A driver that hangs keeps its agent from coming to the end of anything.
        try:
            case.by_any_agent("end-extension")
        except (AgentFailure, ExtensionFailure) as failure:
            if is_ours(failure):
                raise
        if case.broken is Route.GUEST:
            case.waagent().uninstall(case.vm)
            case.waagent().install(case.vm)
        else:
            case.qga().uninstall()
            case.qga().install()
        return "The extension was removed and installed anew."

    def _renew(self, case: AgentsAtHand) -> str:
        case.waagent().install(case.vm)
        return "A new goal state was published, and the guest has worked it off."

    def _thaw(self, case: AgentsAtHand) -> str:
        try:
            seen = [session.task_id for session in case.qga().status().sessions]
            others = set(self._parts.book.active_ids()) - {case.job}
            lost = [task for task in seen if task not in others]
            for task in lost:
                case.qga().recover(task)
        except (AgentFailure, ExtensionFailure) as failure:
            if is_ours(failure):
                raise
            seen = []
        if not seen:
            return case.by_any_agent("end-extension")
        if not lost:
            raise AgentFailure(
                "agent.channel-busy",
                "What runs in the guest belongs to backups that go on; nothing was ended.",
                evidence=[Evidence(f"the job {task} is active", "this server") for task in seen],
                retryable=True,
            )
        return f"Ended in the guest, thawed: {', '.join(lost)}."

    # --- the hypervisor

    def _clean(self, case: AgentsAtHand) -> str:
        parts = self._parts
        released = list(sweep(parts, case.vm, keep=case.job))
        hypervisor = parts.composition.hypervisor(case.address)
        survey = hypervisor.survey(
            bases=parts.points.generations(case.vm), active=parts.book.active_ids()
        )
        owners = (generation_task(name) for disk in survey.disks for name in disk.stale)
        for task_id in dict.fromkeys(owner for owner in owners if owner is not None):
            hypervisor.release(task_id, committed=False)
            released.append(task_id)
        return f"Released what was left of {len(released)} backup(s)."

    def _wait(self, case: AgentsAtHand) -> str:
        """Until the facts do not show the cause any more; at least for one pause."""
        patience = self._parts.patience
        title = catalogue().entries[case.mend.because].title
        bound = patience.cause if case.mend.because in _PASSING else patience.others
        # The looks in between take their time, too.
        waited, until = 0.0, time.monotonic() + bound
        while waited < bound and time.monotonic() < until:
            case.show_for(patience.look, f"Waiting: {title}")
            waited += patience.look
            if not self._lasts(case):
                return f"Waited for {waited:.0f} s: {title}."
        raise VmFailure(
            case.mend.because,
            f"It has not ended within {bound:.0f} s: {title}.",
            retryable=True,
        )

    def _lasts(self, case: AgentsAtHand) -> bool:
        if case.mend.because == "vm.migrating":
            state = self._parts.composition.hypervisor(case.address).state()
            return state.power is PowerState.MIGRATING
        if case.mend.because == "session.active":
            return self._session_lasts(case)
        job = self._parts.book.get(case.job) if case.job else None
        return _shows(case.mend.because, tuple(self._parts.looks.facts(case.vm, job=job).facts))

    def _session_lasts(self, case: AgentsAtHand) -> bool:
        """No fact tells of sessions. As long as nobody can say that it has ended, it has not."""
        if case.qga_if_any() is None:
            return True
        try:
            return bool(case.qga().status().sessions)
        except (AgentFailure, ExtensionFailure):
            return True

    def is_still_there(self, vm: str, mend: Mend, job: str) -> bool:
        """Whether a new look shows the step's cause; True for one that shows by a failure alone,
        and, where the guest could not be looked into, for one that nothing excludes.

        :raise NotFoundFailure: vm.unknown
        """
        if not can_stand(mend.because):
            return True
        facts = tuple(self._parts.looks.facts(vm, job=self._parts.book.get(job)).facts)
        if _shows(mend.because, facts):
            return True
        examined = any(fact.name == "guest.examined" and fact.value is True for fact in facts)
        return not examined and not excluded(mend.because, facts, mend.route)


def _shows(code: str, facts: Sequence[Fact]) -> bool:
    return any(code in (each.code, *each.also) for each in standing(facts))


def told(mend: Mend) -> str:
    """One line of a job's story."""
    end = f": {mend.failure.message} [{mend.failure.code}]" if mend.failure else ""
    if mend.status is MendStatus.DONE:
        return f"Mended ({mend.action}, because of {mend.because}): {mend.words}"
    return f"Not mended ({mend.action}, because of {mend.because}), {mend.status}{end}"
