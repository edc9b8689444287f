"""One attempt, from the settings to the report: what the host does on the host route, done here.

Whatever can be slow comes before the freeze: names resolved, TLS spoken, the request's bytes made.
While the guest is frozen there is one request, on the connection that stands; nothing is written
but to /run, nothing is logged, no process is started. Should this process die, the watchdog thaws
at the hold's end and the session ends by itself.
"""

import os
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import attempts
from .delivery import ask, deliver
from .detach import leave_control_group
from .dial import Way
from .endpoint import Answer, Connection, prepare, require_success
from .failure import Fact, Failure, unexpected
from .folder import Folder, require_task
from .handler_settings import Order
from .local_session import LocalSession
from .log import Log
from .mounts import printable
from .proxy import origin_of, proxy_for
from .recover import recover
from .report import Report, StatusFile
from .settings import read_settings

_CONNECT_SECONDS = 15.0
_REQUEST_SECONDS = 30.0
"""For the snapshot requests after the thaw, each."""
_PREPARE_SECONDS = 3600.0
"""Longer than a pre-script may take (1800 s at most, and once more for each retry)."""
_WAIT_SECONDS = 60.0
"""How long the session waits for this process's next word."""
_LATE_SECONDS = 10.0
_SCRIPTS_KNOWN_SECONDS = 2.0
"""From a session's birth until it has read the operator's configuration."""
_GLANCE_SECONDS = 0.05
_END_PATIENCE_SECONDS = 240.0
_SHARE_OF_HOLD = 0.75
"""When the snapshot must have been answered. The rest is for the thaw itself."""
_LEAST_SHARE = 0.02
"""Of the hold: with less than that left, the request is not even sent."""
_LONGEST_HOLD_SECONDS = 300.0


class Driver:
    """Carries out one order. `direct`: hosts that are never reached through a proxy."""

    def __init__(self, order: Order, status: StatusFile, direct: Tuple[str, ...], log: Log) -> None:
        self._order = order
        self._status = status
        self._direct = direct
        self._log = log
        self._report = Report.begun(order)
        self._way: Optional[Way] = None
        self._connection: Optional[Connection] = None
        self._warnings: List[str] = []

    def run(self) -> None:
        """Until the report is handed over. Never raises."""
        try:
            self._carry_out()
        except Failure as failure:
            self._fail(failure)
        except Exception as error:  # noqa: BLE001 - the server is owed a report whatever happened
            self._report.fail(unexpected(error))
        self._hand_over()

    def _fail(self, failure: Failure) -> None:
        """A network that failed is looked at hop by hop; by now the session has ended."""
        if failure.code.startswith("network.") and not self._report.document["hops"]:
            self._probe()
            for hop in self._report.document["hops"]:
                if hop["ok"] is False:
                    failure.evidence += (Fact(hop["detail"], "probe: " + hop["name"], hop["raw"]),)
        self._report.fail(failure)

    def refuse(self, failure: Failure) -> None:
        """Report that the order is not even begun. Never raises."""
        self._report.fail(failure)
        try:
            self._find_way()
        except Failure as worse:
            self._log.say("no way to the storage endpoint: {}".format(worse))
        self._hand_over()

    def _carry_out(self) -> None:
        order = self._order
        if order.secret_failure is not None:
            raise order.secret_failure
        self._find_way()
        if order.deadline and time.time() > order.deadline:
            raise self._stale()
        if order.command == "snapshot":
            if self._way is None:
                raise Failure("extension.settings-invalid", "The server named no storage endpoint.")
            self._snapshot(self._way)
        elif order.command == "probe":
            self._probe()
        elif order.command == "examine":
            from . import papers

            self._report.papers = papers.collect()
        elif order.command == "mend":
            from . import mending

            self._report.document["mended"] = mending.mend(order.action, order.word)
        self._report.document["stage"] = "done"

    def _find_way(self) -> None:
        order = self._order
        if order.endpoint_url:
            origin = origin_of(order.endpoint_url)
            self._way = Way(origin, order.ca_pem, proxy_for(origin, order.proxy, self._direct))

    def _stale(self) -> Failure:
        """Too late by the guest's clock; it may be the clock that is wrong."""
        self._probe()
        for hop in self._report.document["hops"]:
            if hop["code"] == "network.clock-skew":
                fact = Fact(hop["detail"], "probe: " + hop["name"], hop["raw"])
                return Failure("network.clock-skew", hop["detail"], [fact])
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        deadline = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._order.deadline))
        return Failure(
            "job.stale-command",
            "The command came too late: it was valid until {}.".format(deadline),
            [Fact("the guest's clock says {}".format(now), "guest")],
            "Look at the guest's clock (`timedatectl`), then back up again.",
            retryable=True,
        )

    def _probe(self) -> None:
        from . import probe

        self._report.document["hops"] = probe.run(
            probe.Question(self._way, "".join(self._direct[:1]))
        )

    # -- the snapshot

    def _snapshot(self, way: Way) -> None:
        order = self._order
        require_task(order.attempt)
        if not 0 < order.hold_seconds <= _LONGEST_HOLD_SECONDS:
            raise Failure("extension.settings-invalid", "The hold must be at most 300 s, above 0.")
        requests = [
            (name, prepare(way, "PUT", url + "&comp=snapshot"))
            for name, url in order.snapshot_urls.items()
        ]
        connection = self._connection = Connection(way)
        # Tried first, so that no pre-script runs for an endpoint that is out of reach.
        connection.open(time.monotonic() + _CONNECT_SECONDS)
        connection.close()
        session = LocalSession(order.attempt)
        try:
            self._take_point(session, connection, requests, way)
        except Exception:
            self._end(session, failed=True)
            raise
        self._end(session, failed=False)

    def _take_point(
        self,
        session: LocalSession,
        connection: Connection,
        requests: List[Tuple[str, bytes]],
        way: Way,
    ) -> None:
        self._begin(session)
        self._publish("connecting")
        connection.open(time.monotonic() + _CONNECT_SECONDS)
        session.open_control()
        self._publish("freezing")
        answer = self._while_frozen(session, connection, requests[0][1])
        thawed = session.wait(
            time.monotonic() + _LATE_SECONDS, lambda now: now in ("thawed", "finishing")
        )
        self._report.document["session"] = thawed
        session.say("finish")  # the post-script need not wait for what follows
        self._publish("thawed")
        self._taken(answer, way)
        self._ask_for_the_others(connection, requests[1:], way)

    def _ask_for_the_others(
        self, connection: Connection, requests: List[Tuple[str, bytes]], way: Way
    ) -> None:
        """Each disk's share of the point, which the first request has taken of all of them."""
        for name, request in requests:
            try:
                require_success(ask(connection, request, _REQUEST_SECONDS), way)
            except Failure as failure:
                text = "The point was taken of all disks, but it was not confirmed for {}: {} [{}]"
                self._warnings.append(text.format(printable(name), failure, failure.code))
                return  # the others would be waited for as long

    def _begin(self, session: LocalSession) -> None:
        order = self._order
        session.begin(order.hold_seconds, _WAIT_SECONDS, list(order.skip_mounts))
        self._tell_of_scripts(session)
        state = session.wait(time.monotonic() + _PREPARE_SECONDS, lambda now: now == "ready")
        self._report.document["session"] = state
        self._require_going(state)

    def _tell_of_scripts(self, session: LocalSession) -> None:
        """A server that knows of a pre-script waits for it for hours, else for minutes."""
        until = time.monotonic() + _SCRIPTS_KNOWN_SECONDS
        state = session.state()
        while state["state"] == "preparing" and not state["scripts"]["configured"]:
            if time.monotonic() >= until:
                break
            time.sleep(_GLANCE_SECONDS)
            state = session.state()
        self._report.document["session"] = state
        self._publish("preparing")

    def _while_frozen(
        self, session: LocalSession, connection: Connection, request: bytes
    ) -> Answer:
        """Freeze, ask, thaw. :raise Failure: whatever went wrong; the thaw was asked for"""
        hold = min(self._order.hold_seconds, read_settings().hold_seconds or _LONGEST_HOLD_SECONDS)
        self._log.say("freezing for at most {:g} s".format(hold))
        self._log.flush()
        if not connection.stands():
            connection.open(time.monotonic() + _CONNECT_SECONDS)
        session.say("freeze")
        state = session.wait(time.monotonic() + 2 * hold + _LATE_SECONDS, _is_frozen_or_past)
        if state["state"] != "frozen":
            self._require_going(state)
            raise _missed("the guest was thawed before the snapshot could be asked for")
        until = session.thaw_deadline - hold * (1 - _SHARE_OF_HOLD)
        try:
            if until - time.monotonic() < hold * _LEAST_SHARE:
                raise _missed("freezing took so long that no time is left for the snapshot")
            try:
                return connection.exchange(request, until)
            except Failure as failure:
                if failure.code != "network.connection-lost":
                    raise
                # The request is answered the same however often it is asked.
                connection.open(until)
                return connection.exchange(request, until)
        finally:
            session.say("thaw")

    def _taken(self, answer: Answer, way: Way) -> None:
        require_success(answer, way)
        said = printable(answer.headers.get("x-ms-snapshot", "")[:64])
        if not said:
            got = "{} {}".format(answer.status, printable(answer.reason[:200]))
            raise Failure(
                "storage.endpoint-refused",
                "The storage endpoint answered without a snapshot.",
                [Fact(got, str(way.origin))],
                retryable=True,
            )
        self._report.document["taken_at"] = said
        self._log.say("snapshot taken: " + said)

    def _require_going(self, state: Dict[str, Any]) -> None:
        """:raise Failure: the session's own, when it has ended"""
        if state["state"] not in ("finishing", "done", "failed"):
            return
        said = state["failure"] or {}
        facts = [Fact(**one) for one in said.get("evidence", [])]
        raise Failure(
            said.get("code", "session.lost"),
            said.get("message", "The session ended before the snapshot was taken."),
            facts,
            said.get("remedy", ""),
            said.get("retryable", True),
        )

    def _end(self, session: LocalSession, failed: bool) -> None:
        """The post-script, whatever went before, and the session's last word for the report.

        :raise Failure: how the session ended, unless a failure is on its way already
        """
        folder = Folder(self._order.attempt)
        if not folder.exists():
            return
        try:
            session.say("finish")
        except Failure as failure:
            self._log.say("finish: {}".format(failure))  # it is ending by itself
        try:
            state = session.wait(time.monotonic() + _PREPARE_SECONDS, lambda now: False)
            state["warnings"] = state["warnings"] + self._warnings
            self._report.document["session"] = state
            failed = failed or _only_a_script(state)
            if state["failure"] and not failed:
                self._require_going(state)
        except Failure as failure:
            if not failed:
                raise
            self._log.say("the session's end: {}".format(failure))
        finally:
            self._clean_up(folder, failed)

    def _clean_up(self, folder: Folder, failed: bool) -> None:
        """Remove what the session left. That it cannot be ended yet, since a disk does not answer,
        is never why an attempt failed that has failed before; and the server, which waits for the
        next word, must not take the half minute that this may need for silence.

        :raise Failure: session.active
        """
        if failed:
            self._publish("thawed")
        try:
            recover(folder, self._log)
        except Failure as left:
            if not failed:
                raise
            self._log.say("the session is left to end itself: {}".format(left))

    # -- the report

    def _publish(self, stage: str) -> None:
        """Never called while something is frozen."""
        self._report.document["stage"] = stage
        self._log.say(stage)
        try:
            self._status.write(self._report)
        except OSError as error:
            self._log.say("the status file cannot be written: {}".format(error))

    def _hand_over(self) -> None:
        """By both ways, since either may be what is broken. Papers go into the status file only
        when the other way has failed: the agent sends that file again and again."""
        report = self._report
        said = report.failure
        if report.papers is None:
            self._publish(report.stage)
        self._log.say("{message} [{code}]".format(**said) if said else "done")
        self._log.flush()
        undelivered = deliver(self._order, report, self._way, self._connection, self._log)
        if report.papers is not None:
            if undelivered:
                report.shorten_papers()
            self._publish(report.stage)
        self._log.flush()


def _only_a_script(state: Dict[str, Any]) -> bool:
    """A post-script that failed does not undo the point; the server finds it in the session."""
    return str((state["failure"] or {}).get("code", "")).startswith("script.")


def _is_frozen_or_past(now: str) -> bool:
    return now in ("frozen", "thawed", "finishing")


def _missed(why: str) -> Failure:
    return Failure(
        "freeze.held-too-long",
        "No snapshot was asked for: {}.".format(why),
        [Fact(why, "driver")],
        retryable=True,
    )


def begin(
    order: Order, status: StatusFile, direct: Tuple[str, ...], named: Callable[[], None]
) -> None:
    """In the detached process: be the one that runs, end an older attempt, carry out. `named` is
    called once the others can see this driver, or it is clear that they never will."""
    os.setpgid(0, 0)
    sys.dont_write_bytecode = True  # an import while the guest is frozen would wait for ever
    log = Log(order.attempt or "driver")
    driver = Driver(order, status, direct, log)
    try:
        try:
            lock = attempts.claim(order.attempt, status.path)
        finally:
            named()
        if lock is None:
            return None  # another start of the handler was quicker
        for warning in leave_control_group():
            log.say(warning)
        attempts.end_older(lock, log, _END_PATIENCE_SECONDS)
    except Failure as failure:
        return driver.refuse(failure)
    except Exception as error:  # noqa: BLE001 - the server is owed a report whatever happened
        return driver.refuse(unexpected(error))
    return driver.run()
