"""The routes of one task, tried one after the other until one gives a point of a frozen guest.

    each route in the policy's order      a failure is told to the mender, and the next one tried
    each route that failed, newest first  once more, if the mender has mended something
    neither                               a point of an unfrozen guest, unless a route is demanded

A guest that stops running meanwhile (`GuestStopped`) ends all of that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from quiesce.model.failure import (
    AgentFailure,
    ExtensionFailure,
    Failure,
    FailureReport,
    FreezeFailure,
    NetworkFailure,
    StorageFailure,
)
from quiesce.model.policy import RoutePreference, SnapshotOptions
from quiesce.model.snapshot import Route, Snapshot
from quiesce.model.vm import VmState
from quiesce.snapshot.by_guest import Instant, by_guest
from quiesce.snapshot.by_host import by_host, unfrozen
from quiesce.snapshot.consistency import HELD_TOO_LONG
from quiesce.snapshot.ports import Guest, GuestRoute, Hypervisor, Log, Mender
from quiesce.snapshot.story import reason_of
from quiesce.snapshot.untouched import UNTOUCHED, GuestStopped, PowerWatch

ROUTE_FAILURES = (AgentFailure, ExtensionFailure, FreezeFailure, NetworkFailure, StorageFailure)
"""What one route may fail with and the other be spared. A pre-script that forbids the backup
forbids it on both; so does a hypervisor that cannot snapshot."""

_WAY = {Route.GUEST: "the guest route", Route.HOST: "the host route"}


@dataclass(frozen=True, slots=True)
class Setback:
    route: Route
    failure: Failure

    def report(self) -> FailureReport:
        return self.failure.report()


class Attempts:
    """One task's; `setbacks` holds what failed so far. The hypervisor is prepared before `run`."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        host: Guest | None,
        guest: GuestRoute | None,
        task_id: str,
        prepare: Callable[[], None],
        log: Log,
        mender: Mender,
    ) -> None:
        self._hypervisor, self._host, self._guest = hypervisor, host, guest
        self._task_id, self._prepare = task_id, prepare
        self._log, self._mender = log, mender
        self._watch = PowerWatch(hypervisor)
        self.setbacks: list[Setback] = []
        self._spent = False
        """Whether a point was taken that is not used: it cannot be vouched for, or another route
        may give a better one."""

    def run(self, order: Sequence[Route], state: VmState, options: SnapshotOptions) -> Snapshot:
        """
        :raise GuestStopped: there is no guest to be frozen any more
        :raise Failure: the demanded route's, or one that no route is spared
        """
        for position, route in enumerate(order, 1):
            snapshot = self._tried(route, state, options, spare=position < len(order))
            if snapshot is not None:
                return snapshot
        # The one that failed last has just shown that its way into the guest is not blocked.
        for setback in tuple(reversed(self.setbacks)):
            again = self._mender.mend(setback.route, setback.failure, options)
            self._check_power()
            if again is None:
                continue
            self._log("info", f"The {setback.route} route is tried once more.")
            snapshot = self._tried(setback.route, state, again.options, spare=False)
            if snapshot is not None:
                return snapshot
        if not self.setbacks:
            why: Failure = AgentFailure(
                "agent.channel-missing", "No guest agent socket is set for this VM."
            )
            self.setbacks.append(Setback(Route.HOST, why))
            self._mender.failed(Route.HOST, why)
        why = self.setbacks[-1].failure
        if options.route is RoutePreference.GUEST:
            raise why
        self._prepare_anew()
        snapshot = unfrozen(self._hypervisor, self._task_id, why, self._log)
        return self._told(snapshot, frozen_by=None)

    def _tried(
        self, route: Route, state: VmState, options: SnapshotOptions, *, spare: bool
    ) -> Snapshot | None:
        """None: the route failed. With another one to `spare`, so has one whose guest had thawed
        before the point was there."""
        self._prepare_anew()
        self._mender.trying(route)
        try:
            if route is Route.GUEST:
                snapshot = self._by_guest(state, options)
            else:
                assert self._host is not None
                snapshot = by_host(self._hypervisor, self._host, self._task_id, options, self._log)
            if spare:
                self._unheld(snapshot)
        except ROUTE_FAILURES as failure:
            self.setbacks.append(Setback(route, failure))
            self._log("warning", f"The {route} route failed: {failure}")
            self._mender.failed(route, failure)
            self._check_power()
            return None
        return self._told(snapshot, frozen_by=route)

    def _unheld(self, snapshot: Snapshot) -> None:
        """:raise FreezeFailure: freeze.held-too-long; the point is given up"""
        for report in snapshot.setbacks:
            if report.code == HELD_TOO_LONG:
                self._spent = True
                raise FreezeFailure(
                    report.code, report.message, evidence=report.evidence, retryable=True
                )

    def _by_guest(self, state: VmState, options: SnapshotOptions) -> Snapshot:
        assert self._guest is not None
        self._log("info", "The VM's agent is asked for the snapshot.")
        instant = Instant(self._hypervisor, self._task_id)
        disks = [disk.name for disk in state.disks]
        try:
            return by_guest(
                self._hypervisor,
                self._guest,
                instant,
                self._task_id,
                disks,
                options,
                self._watch.log(self._log, unless=lambda: instant.asked),
            )
        except (*ROUTE_FAILURES, GuestStopped):
            self._withdraw(self._guest)
            self._spent = instant.asked
            raise

    def _check_power(self) -> None:
        """Why a route failed may be that there is no guest any more; then no route is left.

        :raise GuestStopped:
        """
        power = self._watch.lasting_power()
        if power in UNTOUCHED:
            raise GuestStopped(power)

    def _prepare_anew(self) -> None:
        if self._spent:
            self._hypervisor.release(self._task_id, committed=False)
            self._prepare()
            self._spent = False

    def _withdraw(self, route: GuestRoute) -> None:
        try:
            route.recover(self._task_id)
        except Failure as failure:
            self._log("info", f"The guest was left to end its session by itself: {failure}")

    def _told(self, snapshot: Snapshot, *, frozen_by: Route | None) -> Snapshot:
        return with_setbacks(snapshot, self.setbacks, frozen_by=frozen_by)


def with_setbacks(
    snapshot: Snapshot, setbacks: Sequence[Setback], *, frozen_by: Route | None
) -> Snapshot:
    """The snapshot with what failed before it, kept whole and said in warnings. `frozen_by` is the
    route that gave it in the end; None for a point of a guest that was not frozen."""
    said = []
    for setback in setbacks:
        reason = reason_of(setback.failure)
        if frozen_by is None:
            ending = ""
        elif frozen_by is setback.route:
            ending = " The next try succeeded."
        else:
            ending = f" The point was taken by {_WAY[frozen_by]} instead."
        if reason != snapshot.consistency.reason:
            said.append(f"{reason}{ending}")
    return replace(
        snapshot,
        warnings=tuple(dict.fromkeys([*said, *snapshot.warnings])),
        setbacks=(*(setback.report() for setback in setbacks), *snapshot.setbacks),
    )
