"""Following one goal state into the guest and back: has the agent taken it, has it started the
extension, how far is the extension. Every part has a deadline, and what was seen is evidence."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from quiesce.agent.waagent.deadlines import Deadlines
from quiesce.agent.waagent.evidence import (
    evidence_of,
    handler_failure,
    instant_text,
    no_extensions,
    settings_failure,
)
from quiesce.agent.waagent.goal import Goal
from quiesce.agent.waagent.recognition import Stranger
from quiesce.agent.waagent.report import Stage
from quiesce.agent.waagent.vm_agent import Sight, VmAgent
from quiesce.model.agent import AgentCondition
from quiesce.model.failure import AgentFailure, Evidence, ExtensionFailure, Failure, JobFailure

Log = Callable[[str, str], None]

_LOOK_SECONDS = 1.0
_BLOB_SECONDS = 2.0
_SAID_AGAIN_SECONDS = 15.0
"""A long wait says now and then that it goes on."""
_TERMINAL = ("success", "error")

_WORDS = {
    Stage.PREPARING: "The extension prepares the guest.",
    Stage.CONNECTING: "The extension connects to the storage endpoint.",
    Stage.FREEZING: "The extension freezes the guest.",
    Stage.SNAPSHOT: "The guest is frozen and asks for the snapshot.",
    Stage.THAWED: "The guest is thawed.",
}


class Following:
    """`before` is what was known of the agent when `goal` was published. `recovered`: what waits is
    taken up again by the next server, so that this one's end is no failure of it."""

    def __init__(
        self,
        agent: VmAgent,
        goal: Goal,
        before: Sight,
        *,
        hold_seconds: float,
        recovered: bool,
        deadlines: Deadlines,
        strangers: Callable[[], Sequence[Stranger]],
        log: Log,
    ) -> None:
        self._agent, self._goal, self._before = agent, goal, before
        self._hold_seconds, self._deadlines = hold_seconds, deadlines
        self._strangers, self._log, self._recovered = strangers, log, recovered
        self._station = ""
        self._since = self._begun = self._said = self._looked = time.monotonic()

    def until(self, reached: Callable[[Sight], bool]) -> Sight:
        """What is known once that holds.

        :raise AgentFailure: agent.never-seen, .stale, .silent, .extensions-disabled, .disk-full;
            .channel-busy, when a mere look has to give way
        :raise ExtensionFailure: by the agent's or the extension's words; extension.timeout, .stuck
        :raise JobFailure: job.interrupted, when something else was asked of the VM meanwhile, or
            the server stops
        """
        self._log("info", f"Goal state {self._goal.incarnation} is published for the VM's agent.")
        while True:
            sight = self._look()
            if reached(sight):
                return sight
            self._give_up_on_bad_news(sight)
            self._note(sight)
            left = self._allowed(sight) - (time.monotonic() - self._since)
            if left < 0:
                raise self._late(sight) from sight.unreadable
            self._agent.wait(min(_LOOK_SECONDS, left + 0.01))

    def _look(self) -> Sight:
        now = time.monotonic()
        if now - self._looked > _BLOB_SECONDS:
            self._looked = now
            self._agent.look_at_blob()
        sight = self._agent.sight()
        if sight.closed and not self._recovered:
            raise JobFailure(
                "job.interrupted",
                "The server stops and does not wait for the VM's agent any more.",
                evidence=evidence_of(sight),
                retryable=True,
            )
        if sight.goal.incarnation != self._goal.incarnation:
            raise JobFailure(
                "job.interrupted",
                "Something else was asked of the VM's agent meanwhile.",
                evidence=evidence_of(sight),
                retryable=True,
            )
        if self._agent.unwanted:
            raise AgentFailure(
                "agent.channel-busy",
                "This look at the guest took long and gave way to what else is asked of its agent.",
                evidence=[
                    Evidence("another task of this VM waited for its agent", "this server"),
                    *evidence_of(sight),
                ],
                retryable=True,
            )
        return sight

    def _note(self, sight: Sight) -> None:
        station, words = self._where(sight)
        now = time.monotonic()
        if station != self._station:
            self._station, self._since, self._said = station, now, now
            if words:
                self._log("info", words)
        elif now - self._said > _SAID_AGAIN_SECONDS:
            self._said = now
            self._log("info", f"Waiting for {now - self._since:.0f} s: {words or 'the agent.'}")
        else:
            self._log("debug", "Nothing new.")

    def _where(self, sight: Sight) -> tuple[str, str]:
        if sight.report is not None:
            return sight.report.stage, _WORDS.get(sight.report.stage, "")
        if self._worked_off(sight):
            return "worked off", "The agent has started the extension."
        if self._went_on(sight):
            return "gone on", "The agent has gone on and has not said what came of the goal state."
        if sight.fetched_at is not None:
            took = (sight.fetched_at - self._goal.published_at).total_seconds()
            return "taken", f"The agent has taken the goal state, after {max(0.0, took):.1f} s."
        return "published", ""

    def _allowed(self, sight: Sight) -> float:
        deadlines = self._deadlines
        if sight.report is not None:
            return deadlines.of_stage(sight.report, self._hold_seconds, sight.period_seconds)
        if self._worked_off(sight) or self._went_on(sight):
            return deadlines.first_report + 2 * sight.period_seconds
        if sight.fetched_at is not None:
            return deadlines.silence if self._silent_for(sight) else deadlines.handler
        if self._mute_before():
            return deadlines.grace
        return sight.period_seconds + deadlines.poll

    def _late(self, sight: Sight) -> Failure:
        facts = evidence_of(sight, self._strangers())
        if sight.report is not None:
            return ExtensionFailure(
                "extension.timeout",
                f"The extension stays in the stage {sight.report.stage} for longer than it may.",
                evidence=facts,
                retryable=True,
            )
        if self._worked_off(sight):
            return ExtensionFailure(
                "extension.stuck",
                "The agent has started the extension, and the extension reports nothing.",
                evidence=facts,
                retryable=True,
            )
        if self._went_on(sight):
            return ExtensionFailure(
                "extension.stuck",
                "The agent has taken the goal state and gone on; nobody says what came of it.",
                evidence=facts,
                retryable=True,
            )
        if sight.fetched_at is not None and not self._silent_for(sight):
            return ExtensionFailure(
                "extension.timeout",
                "The agent has taken the goal state and does not come to an end with it.",
                evidence=facts,
                retryable=True,
            )
        last = instant_text(sight.last_seen)
        if sight.fetched_at is None and self._before.condition is AgentCondition.NEVER_SEEN:
            code, words = (
                "agent.never-seen",
                "No agent of this VM has ever asked for its goal state.",
            )
        elif sight.fetched_at is None and self._mute_before():
            code, words = "agent.stale", f"The VM's agent is silent; it was last heard of {last}."
        else:
            code = "agent.silent"
            words = f"The VM's agent did not take its goal state in time; last heard of {last}."
            if sight.fetched_at is not None:
                words = f"The VM's agent fell silent at its work; it was last heard of {last}."
        return AgentFailure(code, words, evidence=facts, retryable=True)

    def _give_up_on_bad_news(self, sight: Sight) -> None:
        status = sight.status
        fresh = (
            status is not None
            and sight.fetched_at is not None
            and sight.status_at is not None
            and sight.status_at > sight.fetched_at
        )
        if status is None or not fresh:
            return
        if not status.processed and sight.report is None and not status.handlers:
            raise no_extensions(sight)
        if not self._worked_off(sight):
            return
        ours = status.ours
        if ours is None:
            if status.outcome.lower() == "failed":
                raise ExtensionFailure(
                    "extension.enable-failed",
                    "The agent could not work its goal state off.",
                    evidence=evidence_of(sight),
                )
            return
        if ours.status in ("NotReady", "Unresponsive"):
            raise handler_failure(ours, sight)
        about_this = ours.sequence == self._goal.sequence and self._goal.attempt
        if about_this and sight.report is None and ours.settings_status in _TERMINAL:
            raise settings_failure(ours, sight) from sight.unreadable

    def _worked_off(self, sight: Sight) -> bool:
        return (
            sight.fetched_at is not None
            and sight.status is not None
            and sight.status.acknowledged >= self._goal.incarnation
        )

    def _went_on(self, sight: Sight) -> bool:
        if sight.fetched_at is None or sight.last_poll is None:
            return False
        return (sight.last_poll - sight.fetched_at).total_seconds() > self._deadlines.round

    def _mute_before(self) -> bool:
        return self._before.condition in (AgentCondition.NEVER_SEEN, AgentCondition.STALE)

    def _silent_for(self, sight: Sight) -> bool:
        """Whether the agent has been silent, at its work, for too long."""
        if sight.last_seen is None:
            return True
        silence = (self._agent.now() - sight.last_seen).total_seconds()
        return silence > self._deadlines.silence
