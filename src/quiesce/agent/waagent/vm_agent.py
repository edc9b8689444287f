"""The agent of one VM as this server knows it: what is published for it, what it has asked for,
and what it has reported."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from quiesce.agent.waagent.certificates import VmIdentity
from quiesce.agent.waagent.goal import Dossier, Goal, Plugin, next_number
from quiesce.agent.waagent.ports import AgentBook, AgentRecord, Doors
from quiesce.agent.waagent.report import Report, read_report
from quiesce.agent.waagent.settings import Command, Settings
from quiesce.agent.waagent.status import AgentStatus, agent_status
from quiesce.model.agent import AgentCondition, AgentState
from quiesce.model.failure import Failure

_USUAL_POLL_SECONDS = 6.0
"""The default of `Extensions.GoalStatePeriod`."""
_POLLS_REMEMBERED = 9
_SAME_POLL_SECONDS = 0.5
"""The agent asks for the goal state several times in one round."""
_LONGEST_PERIOD_SECONDS = 300.0
_STALE_SECONDS = 60.0
_STALE_PERIODS = 3
_STATUS_URL_AGE = timedelta(hours=20)
"""Its address is good for a day or more."""

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known of an agent at one instant. `fetched_at` is when it took the incarnation that
    is published now, None before; `status_at` when `status` came; `peer` where it called from;
    `report_at` when `report` came, by the monotonic clock."""

    condition: AgentCondition
    goal: Goal
    last_seen: datetime | None
    last_poll: datetime | None
    period_seconds: float
    peer: str
    fetched_at: datetime | None
    status: AgentStatus | None
    status_at: datetime | None
    report: Report | None
    report_at: float
    unreadable: Failure | None
    closed: bool


class VmAgent:
    """Thread-safe. What the servers' thread calls (`heard`, `polled`, `fetched`, `take_health`)
    takes no time: it waits for no disk, no database and no peer."""

    def __init__(self, vm: str, *, book: AgentBook, doors: Doors, now: Clock) -> None:
        self.vm = vm
        self._book, self._doors, self._now = book, doors, now
        self.now = now
        self._changed = threading.Condition()
        self._publishing = threading.RLock()
        self._turn = threading.Lock()
        self._known_since = now()
        kept = book.load(vm)
        self.dossier = _read(kept) or Dossier.new(now())
        self._last_seen = self._saved_seen = kept.seen_at if kept else None
        self._last_poll: datetime | None = None
        self._intervals: deque[float] = deque(maxlen=_POLLS_REMEMBERED)
        self._endpoint = self._peer = ""
        self._fetched: tuple[int, datetime] | None = None
        self._status: AgentStatus | None = None
        self._status_at: datetime | None = None
        self._unready_words = ""
        self._blob: bytes | None = None
        self._attempt = ""
        self._report: Report | None = None
        self._report_at = 0.0
        self._unreadable: Failure | None = None
        self._look_since: float | None = None
        self.unwanted = False
        self.closed = False
        if not self.dossier.goal.status_url:
            # An agent that is told no place for its status reports none, not even by the host
            # plugin, and what has never reported would never be asked for anything.
            self.renew()

    # ------------------------------------------------------------ what the agent does

    def heard(self, peer: str, endpoint: str) -> None:
        """It made a request; `endpoint` is the host address as it knows it."""
        with self._changed:
            self._last_seen, self._peer, self._endpoint = self._now(), peer, endpoint

    def polled(self) -> None:
        """It asked for its goal state."""
        with self._changed:
            now, before = self._now(), self._last_poll
            apart = (now - before).total_seconds() if before else 0.0
            if before is None or apart > _SAME_POLL_SECONDS:
                self._last_poll = now
                if 0.0 < apart < _LONGEST_PERIOD_SECONDS:
                    self._intervals.append(apart)
                self._changed.notify_all()

    def fetched(self, incarnation: int) -> None:
        """It took that incarnation's extensions."""
        with self._changed:
            if self._fetched is None or self._fetched[0] != incarnation:
                self._fetched = (incarnation, self._now())
                self._changed.notify_all()

    def take_status(self, raw: bytes, at: datetime | None = None) -> None:
        """It reported, at that time or now. Takes its time: not for the servers' thread.

        :raise AgentFailure: agent.answer-invalid
        """
        status = agent_status(raw)
        ours = status.ours
        with self._changed:
            self._status, self._status_at, self._unready_words = status, at or self._now(), ""
            if ours is not None and ours.report and self._attempt:
                self._take(ours.report.encode("utf-8", "replace"), self._attempt)
            self._changed.notify_all()

    def take_health(self, ready: bool, words: str) -> None:
        """It reported on its provisioning, before it is up."""
        with self._changed:
            self._unready_words = "" if ready else words or "it reports that it is not ready"

    def take_report(self, attempt: str, raw: bytes) -> None:
        """The extension wrote its report at the storage endpoint."""
        with self._changed:
            self._take(raw, attempt)
            self._changed.notify_all()

    def look_at_blob(self) -> None:
        """Take the status that the agent has left at the storage endpoint, when it is new."""
        found = self._doors.status_of(self.vm)
        if found is None or found[0] == self._blob:
            return
        self._blob, written_at = found
        if self._status_at is not None and written_at <= self._status_at:
            return
        try:
            self.take_status(self._blob, written_at)
        except Failure:
            return
        with self._changed:
            self._last_seen = max(self._last_seen or written_at, written_at)

    # ------------------------------------------------------------ what is known of it

    def sight(self) -> Sight:
        with self._changed:
            goal, fetched = self.dossier.goal, self._fetched
            return Sight(
                condition=self._condition(),
                goal=goal,
                last_seen=self._last_seen,
                last_poll=self._last_poll,
                period_seconds=self._period(),
                peer=self._peer,
                fetched_at=fetched[1] if fetched and fetched[0] >= goal.incarnation else None,
                status=self._status,
                status_at=self._status_at,
                report=self._report,
                report_at=self._report_at,
                unreadable=self._unreadable,
                closed=self.closed,
            )

    def state(self) -> AgentState:
        self.look_at_blob()
        with self._changed:
            status = self._status
            return AgentState(
                condition=self._condition(),
                version=status.version if status else "",
                operating_system=status.operating_system if status else "",
                last_seen=self._last_seen,
                goal_incarnation=self.dossier.goal.incarnation,
                acknowledged_incarnation=status.acknowledged if status else 0,
                endpoint=self._endpoint,
                message=self._words(),
                handlers=tuple(each.state for each in status.handlers) if status else (),
                last_poll=self._last_poll,
                period_seconds=self._period(),
                took_goal=self._took_goal(),
            )

    def taking(self) -> str:
        """The task whose snapshot it is asked for now; empty when it is asked for none."""
        with self._changed:
            goal, attempt = self.dossier.goal, self._attempt
        asked = attempt and goal.attempt == attempt and goal.command == Command.SNAPSHOT
        return goal.task if asked else ""

    def wait(self, seconds: float) -> None:
        """Until something about the agent changes, at most that long."""
        with self._changed:
            self._changed.wait(seconds)

    # ------------------------------------------------------------ what it is asked for

    def claim(self, *, look: bool = False) -> bool:
        """Be the only one who asks something of this VM, until `yield_turn`. A mere `look` is to
        give its turn up when it is `unwanted`."""
        if not self._turn.acquire(blocking=False):
            return False
        with self._changed:
            self._look_since = time.monotonic() if look else None
        return True

    def press(self, seconds: float) -> bool:
        """Whether a mere look has the turn; one that has had it that long is unwanted from now."""
        with self._changed:
            since = self._look_since
            if since is not None and time.monotonic() - since >= seconds and not self.unwanted:
                self.unwanted = True
                self._changed.notify_all()
            return since is not None

    def yield_turn(self) -> None:
        with self._changed:
            self._look_since, self.unwanted = None, False
            self._turn.release()
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody will hear it any more: whoever waits for it is told so."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def ask(self, version: str, settings: Settings) -> Goal:
        """Publish the extension with these settings. Raises what the book and the doors do."""
        with self._publishing:
            now = self._now()
            identity = self.dossier.identity
            if identity is None or identity.expires_soon(now):
                identity = VmIdentity.create(self.vm, now)
            number = next_number(self.dossier.goal.incarnation, now)
            goal = Goal(
                number,
                now,
                plugin=Plugin.ENABLED,
                version=version,
                sequence=number,
                settings=settings.runtime_settings(identity),
                command=settings.command.value,
                task=settings.task,
                attempt=settings.attempt,
            )
            return self._publish(goal, identity)

    def ask_to_uninstall(self, version: str) -> Goal:
        with self._publishing:
            now = self._now()
            number = next_number(self.dossier.goal.incarnation, now)
            goal = Goal(number, now, plugin=Plugin.UNINSTALL, version=version)
            return self._publish(goal, self.dossier.identity)

    def withdraw(self, attempt: str) -> None:
        """Ask for nothing more, if that attempt is still what is asked for."""
        with self._publishing:
            goal = self.dossier.goal
            if goal.attempt == attempt and goal.command != Command.IDLE:
                self.ask(goal.version, Settings(Command.IDLE))

    def renew(self) -> None:
        """Publish again what is about to expire, unless something is being asked for. What a dead
        server has asked for is not asked again."""
        with self._publishing:
            now, dossier = self._now(), self.dossier
            goal, identity = dossier.goal, dossier.identity
            old_url = now - goal.status_url_at > _STATUS_URL_AGE
            old_key = identity is not None and identity.expires_soon(now)
            if not (old_url or old_key) or self._turn.locked():
                return
            left_over = goal.command not in ("", Command.IDLE)
            if goal.plugin is Plugin.ENABLED and (old_key or left_over):
                self.ask(goal.version, Settings(Command.IDLE))
            else:
                number = next_number(goal.incarnation, now)
                # Without settings there is nothing for the key to open.
                kept = None if old_key else identity
                self._publish(replace(goal, incarnation=number, published_at=now), kept)

    def begin(self, attempt: str) -> None:
        """From now on, reports on this attempt are taken and those on others are not."""
        with self._changed:
            self._attempt, self._report, self._unreadable = attempt, None, None

    def keep(self, *, at_least: timedelta = timedelta(0)) -> None:
        """Save when the agent was last seen, if what is saved is older than `at_least`."""
        with self._changed:
            seen, saved = self._last_seen, self._saved_seen
        if seen is None or (saved is not None and seen - saved <= at_least):
            return
        with self._publishing:
            self._book.save(AgentRecord(self.vm, self.dossier.to_body(), seen))
        self._saved_seen = seen

    # ------------------------------------------------------------

    def _publish(self, goal: Goal, identity: VmIdentity | None) -> Goal:
        goal = replace(
            goal, status_url=self._doors.status_url(self.vm), status_url_at=goal.published_at
        )
        dossier = replace(self.dossier, goal=goal, identity=identity)
        # Saved first: a number that a guest has seen must not be given away again.
        self._book.save(AgentRecord(self.vm, dossier.to_body(), self._last_seen))
        with self._changed:
            self.dossier = dossier
            self._changed.notify_all()
        return goal

    def _take(self, raw: bytes, attempt: str) -> None:
        if attempt != self._attempt:
            return
        try:
            report = read_report(raw)
        except Failure as unreadable:
            self._unreadable = unreadable
            return
        known = self._report
        newer = known is None or (report.stage.rank >= known.stage.rank and not known.stage.ended)
        if report.attempt == attempt and newer:
            self._report, self._report_at = report, time.monotonic()

    def _condition(self) -> AgentCondition:
        if self._last_seen is None:
            return AgentCondition.NEVER_SEEN
        allowed = max(_STALE_SECONDS, _STALE_PERIODS * self._period())
        if (self._now() - self._last_seen).total_seconds() > allowed:
            return AgentCondition.STALE
        if self._unready_words or self._status is None or not self._status.ready:
            return AgentCondition.NOT_READY
        return AgentCondition.READY

    def _took_goal(self) -> bool | None:
        goal, status = self.dossier.goal, self._status
        fetched = self._fetched is not None and self._fetched[0] >= goal.incarnation
        if fetched or (status is not None and status.acknowledged >= goal.incarnation):
            return True
        age = (self._now() - goal.published_at).total_seconds()
        # What a former server published it may have taken before this one began to listen; and it
        # must have had its turn to ask.
        fair = goal.published_at >= self._known_since and age > _STALE_PERIODS * self._period()
        return False if fair else None

    def _words(self) -> str:
        if self._unready_words:
            return self._unready_words
        if self._status is not None:
            return self._status.message
        return "It has not reported its status yet." if self._last_seen else ""

    def _period(self) -> float:
        return statistics.median(self._intervals) if self._intervals else _USUAL_POLL_SECONDS


def _read(kept: AgentRecord | None) -> Dossier | None:
    """None also for a record that cannot be read: the numbers go on from the clock, and the agent
    takes its new goal state as any other."""
    if kept is None:
        return None
    try:
        dossier = Dossier.from_body(kept.body)
        if dossier.identity is not None:
            dossier.identity.require_usable()
        return dossier
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
