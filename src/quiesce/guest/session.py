"""One session: from the pre-script over freeze and thaw to the post-script.

Between freeze and thaw this process starts nothing, logs nothing and writes to no disk; its state
goes to /run, which lies in memory. Whatever goes wrong ends in `_end`, where everything is thawed
and the post-script runs; should this process die, the watchdog does the same.
"""

import os
import time
from typing import List, NamedTuple, Optional, Tuple

from . import scripts, watchdog
from .detach import leave_control_group
from .events import Event, Events, Kind
from .failure import Fact, Failure, defect
from .folder import Folder, Lock
from .freeze import Freezer, Thawer, freeze_failure, open_mount, still_mounted, too_slow
from .ledger import By, Ledger, Phase, Thaw
from .log import Log
from .mounts import printable, read_mounts, storage_of
from .plan import Decision, Wishes, plan
from .settings import read_settings
from .state import Document, State, freeze_report
from .unfreezable import Watch

_WORDS = {By.REQUEST: watchdog.THAW, By.ABORT: watchdog.ABORT, By.SIGNAL: watchdog.SIGNAL}
_ANSWER_SECONDS = 5.0
_FLUSH_SECONDS = 3.0
_RETRY_SECONDS = 0.05
_FREEZE_SHARE = 0.7
"""Of the hold: a freeze that takes longer leaves the snapshot no time, so it is given up."""


class Order(NamedTuple):
    """What the host asked for. Times in seconds."""

    hold: float
    wait: float
    wishes: Wishes


def decide(wishes: Wishes, configured: scripts.Scripts) -> Tuple[List[Decision], List[str]]:
    """The plan of this guest now, with what its own settings add; and warnings."""
    settings = read_settings()
    if not settings.freeze:
        wishes = wishes._replace(none="fsfreeze is False in /etc/azure/vmbackup.conf")
    elif not configured.freeze:
        wishes = wishes._replace(none="fsFreezeEnabled is false in " + scripts.CONFIG_PATH)
    wishes = wishes._replace(skip=wishes.skip + settings.skip)
    return plan(read_mounts(), storage_of, wishes), list(settings.warnings)


class Session:
    def __init__(self, folder: Folder, order: Order, log: Log) -> None:
        self._folder = folder
        self._order = order
        self._log = log
        self._alive = Lock(folder.session)
        self._alive.take()
        self._alive.hold_for(os.getpid())
        self._document = Document(folder.task, os.getpid())
        self._publish()
        self._events = Events(folder.control)
        self._scripts = scripts.Scripts()
        self._hold = order.hold
        self._freeze_seconds = order.hold
        self._frozen: List[Decision] = []
        self._fds: List[int] = []
        self._watch = Watch()
        self._ledger: Optional[Ledger] = None
        self._link: Optional[watchdog.Link] = None
        self._freezer: Optional[Freezer] = None

    def run(self) -> None:
        """Live until done or failed. Never raises."""
        failure: Optional[Failure] = None
        try:
            self._prepare()
            if self._await_freeze():
                self._freeze()
                if self._await_thaw():
                    self._await_finish()
        except Failure as known:
            failure = known
        except Exception as error:  # noqa: BLE001 - thaw and post-script come whatever happened
            failure = defect(error)
        self._end(failure)

    # -- before the freeze

    def _prepare(self) -> None:
        self._document.warnings += leave_control_group()
        settings = read_settings()
        self._hold = min(self._order.hold, settings.hold_seconds or self._order.hold)
        self._freeze_seconds = min(
            self._hold * _FREEZE_SHARE, settings.freeze_seconds or self._hold
        )
        self._scripts = scripts.read_config()
        self._document.configured = self._scripts.configured
        self._publish()  # recovery must know of the scripts even if this dies in the first one
        self._run_pre_script()
        self._open_mounts()
        self._start_watchdog()
        self._log.say("ready: {} mounts to freeze".format(len(self._frozen)))
        self._flush_log()
        self._move(State.READY)

    def _run_pre_script(self) -> None:
        if self._scripts.pre is None:
            return
        ran, failure = scripts.run(self._scripts.pre, "pre", self._folder.note_pre_script)
        self._folder.forget_pre_script()
        self._document.runs["pre"] = ran
        self._log.say("pre-script {} ended with {}".format(ran.path, ran.exit_code))
        if failure is not None:
            if not self._scripts.continue_on_failure:
                raise failure
            self._document.warnings.append("{} [{}]".format(failure.message, failure.code))

    def _open_mounts(self) -> None:
        decisions, warnings = decide(self._order.wishes, self._scripts)
        self._document.warnings += warnings
        kept = []
        for one in decisions:
            if one.freeze:
                try:
                    self._fds.append(open_mount(one.mount))
                    self._frozen.append(one)
                except Failure:
                    if still_mounted(one.mount):
                        raise
                    one = one._replace(freeze=False, reason="unmounted meanwhile")
            if not one.in_memory:
                kept.append(one)
        self._document.decisions = kept
        self._watch = Watch([one.mount for one in kept if one.watch])

    def _start_watchdog(self) -> None:
        self._ledger = Ledger(self._folder.ledger, len(self._fds), create=True)
        its_lock = Lock(self._folder.watchdog)
        its_lock.take()
        self._link = watchdog.start(
            self._fds, self._ledger, self._hold, [self._alive.fd], self._orphaned
        )
        its_lock.hold_for(self._link.pid)
        its_lock.release()  # the watchdog's copy keeps it locked
        self._events.listen_to(self._link.socket)
        word = self._hear(watchdog.READY, _ANSWER_SECONDS * 2)
        if len(word) > 1:
            self._document.warnings.append(
                "The watchdog's memory is not locked ({}).".format(word[1:])
            )
        self._freezer = Freezer(self._fds, self._ledger, self._events.freezer_done)

    def _await_freeze(self) -> bool:
        """True when the host says freeze, False when it goes on without one."""
        until = time.monotonic() + self._order.wait
        while True:
            event = self._events.next(until)
            if event.kind is Kind.CONTROL and event.word in ("freeze", "finish"):
                return event.word == "freeze"
            self._raise_if_over(event)
            if event.kind is Kind.TIMEOUT:
                raise Failure(
                    "session.abandoned",
                    "Nobody asked for the freeze within {:g} s.".format(self._order.wait),
                    [Fact("no word on the control FIFO", self._folder.control)],
                    "See why the server did not go on; then back up again.",
                    retryable=True,
                )

    # -- the freeze

    def _freeze(self) -> None:
        assert self._freezer is not None
        self._move(State.FREEZING)
        began = time.monotonic()
        self._freezer.go_on()  # write back
        self._await_freezer(began + self._hold)
        self._watch.flush(min(time.monotonic() + _FLUSH_SECONDS, began + self._hold))
        self._send(watchdog.ARM)
        self._hear(watchdog.ARMED, _ANSWER_SECONDS)
        self._freezer.go_on()  # freeze
        self._await_freezer(time.monotonic() + self._freeze_seconds)
        if self._freezer.refused is not None:
            index = self._freezer.refused
            raise freeze_failure(self._frozen[index].mount, self._known.freeze_error(index))
        if not self._freezer.complete:
            raise self._too_slow()
        self._move(State.FROZEN)

    def _await_freezer(self, until: float) -> None:
        while True:
            event = self._events.next(until)
            if event.kind is Kind.FREEZER:
                return
            self._raise_if_over(event)
            if event.kind in (Kind.TIMEOUT, Kind.WATCHDOG):
                raise self._too_slow()

    def _await_thaw(self) -> bool:
        """Thawed afterwards; False when the host has said finish already."""
        # The watchdog is first; should it be stopped, this process thaws a little later.
        until = self._known.deadline + 1.0
        while True:
            event = self._events.next(until)
            if event.kind is Kind.CONTROL and event.word in ("thaw", "finish"):
                self._watch.look_again()
                self._thaw(By.REQUEST)
            elif event.kind is Kind.TIMEOUT:
                self._thaw_here(By.WATCHDOG)
            else:
                self._raise_if_over(event)
                if event.kind is not Kind.WATCHDOG:
                    continue
            self._report_freeze()
            self._move(State.THAWED)
            return event.word != "finish"

    def _await_finish(self) -> None:
        self._log.say("thawed: {}".format(self._document.freeze))
        self._flush_log()
        until = time.monotonic() + self._order.wait
        while True:
            event = self._events.next(until)
            if event.kind is Kind.CONTROL and event.word == "finish":
                return
            if event.kind is Kind.WATCHDOG:
                continue
            self._raise_if_over(event)
            if event.kind is Kind.TIMEOUT:
                self._document.warnings.append(
                    "Nobody said finish within {:g} s; the session ended by itself.".format(
                        self._order.wait
                    )
                )
                return

    def _raise_if_over(self, event: Event) -> None:
        """:raise Failure: the event ends the session, wherever it stands"""
        if event.kind is Kind.CONTROL and event.word == "abort":
            raise Failure("session.aborted", "The server ended the session.", retryable=True)
        signalled = event.kind is Kind.WATCHDOG and event.word == watchdog.SIGNALLED.decode()
        if event.kind is Kind.SIGNAL or signalled:
            raise Failure(
                "session.terminated",
                "The session was ended by a signal, as at a shutdown of the guest.",
                [Fact("signal received", "watchdog" if signalled else "session")],
                retryable=True,
            )
        if event.kind is Kind.WATCHDOG and not event.word:
            raise watchdog.lost("its connection closed")

    # -- thaw and end

    def _thaw(self, by: By) -> None:
        """Have everything thawed: by the watchdog, or here when it does not answer."""
        try:
            self._send(_WORDS[by])
            self._hear(watchdog.THAWED, _ANSWER_SECONDS + len(self._fds))
        except Failure:
            self._thaw_here(by)

    def _thaw_here(self, by: By) -> None:
        self._document.warnings.append("The watchdog did not answer; the session thawed itself.")
        thawer = Thawer(self._fds, self._known)
        # While a freeze call is in the kernel this process must not end: it could succeed late.
        while thawer.thaw(by) and not self._watchdog_lives():
            time.sleep(_RETRY_SECONDS)

    def _watchdog_lives(self) -> bool:
        assert self._link is not None
        try:
            return os.waitpid(self._link.pid, os.WNOHANG) == (0, 0)
        except ChildProcessError:
            return False

    def _end(self, failure: Optional[Failure]) -> None:
        self._document.failure = failure
        ledger = self._ledger
        if ledger is not None and (ledger.owed() or ledger.deadline):
            if ledger.closed_by is By.NOBODY:
                ended = failure is not None and failure.code == "session.terminated"
                self._thaw(By.SIGNAL if ended else By.ABORT)
            if self._document.freeze is None:
                self._report_freeze()
        self._move(State.FINISHING)
        self._finish(self._document)
        if self._link is not None:
            try:
                self._send(watchdog.BYE)
            except Failure:
                return  # it is dead already, and nothing is frozen

    def _orphaned(self) -> None:
        """In the watchdog, when the session has died: end it in the session's place."""
        said = self._folder.read_state()
        if said is not None and said.get("state") in ("done", "failed"):
            return
        watchdog.set_oom_score(0)
        document = self._document
        document.pid = os.getpid()
        document.state = State.FINISHING
        document.failure = Failure(
            "session.lost",
            "The session's process in the guest died; its watchdog ended the session.",
            [Fact("the session died in state {}".format((said or {}).get("state")), "watchdog")],
            "Look for what killed it: journalctl -k (out of memory), journalctl -b.",
            retryable=True,
        )
        if self._known.deadline:
            self._report_freeze()
        self._publish()
        self._finish(document)

    def _finish(self, document: Document) -> None:
        """The post-script, unless it has been started before, and the last word."""
        post = self._scripts.post
        scripts.end_running(self._folder.pre_script)  # after an error nobody expected
        if post is not None and self._folder.claim_post_script():
            ran, failure = scripts.run(post, "post")
            document.runs["post"] = ran
            self._log.say("post-script {} ended with {}".format(ran.path, ran.exit_code))
            if failure is not None:
                if document.failure is None and not self._scripts.continue_on_failure:
                    document.failure = failure
                else:
                    document.warnings.append("{} [{}]".format(failure.message, failure.code))
        failed = document.failure
        self._log.say("failed: {} [{}]".format(failed, failed.code) if failed else "done")
        self._flush_log()
        self._move(State.FAILED if failed else State.DONE)

    # -- small words

    @property
    def _known(self) -> Ledger:
        assert self._ledger is not None
        return self._ledger

    def _move(self, new: State) -> None:
        self._document.move(new)
        self._publish()

    def _publish(self) -> None:
        self._folder.write_state(self._document.as_json())

    def _flush_log(self) -> None:
        problem = self._log.flush()
        if problem and problem not in self._document.warnings:
            self._document.warnings.append(problem)

    def _report_freeze(self) -> None:
        ledger = self._known
        report = freeze_report(self._frozen, ledger, self._hold, time.monotonic())
        report["mounts"] += self._watch.report()
        self._document.freeze = report
        for index, one in enumerate(self._frozen):
            point = printable(one.mount.point)
            if ledger.thaw(index) is Thaw.WAS_NOT_FROZEN and ledger.phase(index) is Phase.FROZEN:
                self._document.warnings.append(
                    "Somebody else thawed {} before its time.".format(point)
                )
            elif index in ledger.owed():
                self._document.warnings.append(
                    "{} does not answer; the watchdog goes on thawing it.".format(point)
                )

    def _send(self, word: bytes) -> None:
        assert self._link is not None
        try:
            self._link.socket.send(word)
        except OSError as error:
            raise watchdog.lost(str(error)) from error

    def _hear(self, word: bytes, seconds: float) -> str:
        """Wait for this word of the watchdog; what the host says meanwhile waits.

        :raise Failure: freeze.watchdog-lost
        """
        heard = self._events.hear(word.decode(), time.monotonic() + seconds)
        if heard is None:
            raise watchdog.lost("no answer within {:g} s".format(seconds))
        return heard

    def _too_slow(self) -> Failure:
        # While still writing back, no call is under way and nothing is frozen: the first is named.
        ledger = self._known
        under_way = [i for i in range(ledger.count) if ledger.phase(i) is Phase.FREEZING]
        return too_slow(self._frozen[(under_way or [0])[0]].mount, self._freeze_seconds)
