"""Takes one point of one VM: the task *Take snapshot*, by the guest route, the host route, or of a
VM that does not run.

    hypervisor.prepare     everything slow, while the guest runs freely
    by_guest or by_host    freeze, the instant, thaw; each tells its own order
    hypervisor.open        the point becomes readable

The policy says which route is tried first and whether the other one may follow. A route that
failed and was got round stays with the snapshot as a setback. Whatever fails before `open` has
returned, the session is torn down by `recover`, the same code that cleans up after a crash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from quiesce.model.failure import (
    AgentFailure,
    Evidence,
    ExtensionFailure,
    Failure,
    FreezeFailure,
    NetworkFailure,
    PolicyFailure,
    StorageFailure,
    VmFailure,
)
from quiesce.model.policy import RoutePreference, SnapshotOptions
from quiesce.model.snapshot import Consistency, ConsistencyLabel, Route, Snapshot
from quiesce.model.vm import PowerState, VmState
from quiesce.snapshot.by_guest import Instant, by_guest
from quiesce.snapshot.by_host import by_host, unfrozen
from quiesce.snapshot.ports import Guest, GuestRoute, Hypervisor, Log
from quiesce.snapshot.story import crash_warning, reason_of

_UNTOUCHED = {
    PowerState.OFF: ConsistencyLabel(Consistency.OFFLINE),
    PowerState.SHUT_DOWN: ConsistencyLabel(
        Consistency.OFFLINE, "the VM was shut down inside the guest"
    ),
    PowerState.PAUSED: ConsistencyLabel(
        Consistency.CRASH, "vm.paused: a paused guest cannot be asked to freeze"
    ),
    PowerState.CRASHED: ConsistencyLabel(
        Consistency.CRASH, "vm.crashed: the guest's kernel has panicked"
    ),
}
"""Power states in which the agent cannot answer, with what a point taken then is worth."""

_ROUTE_FAILURES = (AgentFailure, ExtensionFailure, FreezeFailure, NetworkFailure, StorageFailure)
"""What one route may fail with and the other be spared. A pre-script that forbids the backup
forbids it on both; so does a hypervisor that cannot snapshot."""

_ORDER = {
    RoutePreference.GUEST_THEN_HOST: (Route.GUEST, Route.HOST),
    RoutePreference.HOST_THEN_GUEST: (Route.HOST, Route.GUEST),
    RoutePreference.GUEST: (Route.GUEST,),
    RoutePreference.HOST: (Route.HOST,),
}


@dataclass(frozen=True, slots=True)
class Routes:
    """The ways to a frozen guest that this VM has: an agent that obeys at once (host route) and
    one that polls (guest route)."""

    host: Guest | None = None
    guest: GuestRoute | None = None

    def order(self, preference: RoutePreference) -> tuple[Route, ...]:
        """:raise PolicyFailure: policy.route-impossible"""
        if preference is RoutePreference.GUEST and self.guest is None:
            raise PolicyFailure(
                "policy.route-impossible",
                "The policy demands the guest route, and this VM has none: its agent is not the "
                "Azure Linux agent.",
                evidence=[Evidence("route = guest", "policy")],
            )
        there = {Route.HOST: self.host, Route.GUEST: self.guest}
        return tuple(route for route in _ORDER[preference] if there[route] is not None)


def take_snapshot(
    hypervisor: Hypervisor,
    routes: Routes,
    task_id: str,
    *,
    bases: Mapping[str, Sequence[str]],
    options: SnapshotOptions,
    log: Log,
) -> Snapshot:
    """One point of the VM, opened for reading, with the best consistency that could be proven.

    An agent or a freeze that fails lowers the consistency and is said in `warnings`; it does not
    cost the point, unless the policy demands the guest route. A pre-script that forbids the
    backup, a VM that cannot be reached and a hypervisor that cannot snapshot do.

    :raise Failure: nothing is left in the hypervisor or the guest then.
    """
    state = hypervisor.state()
    if state.power is PowerState.MIGRATING:
        raise VmFailure(
            "vm.migrating",
            "The VM is being migrated; its disks cannot be held now.",
            retryable=True,
        )
    try:
        untouched = _UNTOUCHED.get(state.power)
        if untouched is None:
            order = routes.order(options.route)
            hypervisor.prepare(task_id, bases=bases, options=options)
            return _Attempts(hypervisor, routes, task_id, bases, options, log).run(order, state)
        hypervisor.prepare(task_id, bases=bases, options=options)
        hypervisor.take(task_id)
        warnings = crash_warning(untouched, log)
        return Snapshot(hypervisor.open(task_id), untouched, freeze=None, warnings=warnings)
    except BaseException as stopped:
        try:
            recover(hypervisor, routes, task_id, committed=False, log=log)
        except Failure as left:
            stopped.add_note(f"cleaning up failed too: {left}")
            log("error", f"Cleaning up failed too: {left}")
        raise


def recover(
    hypervisor: Hypervisor, routes: Routes, task_id: str, *, committed: bool, log: Log
) -> None:
    """End a session whose process may be gone: thaw first, then tear down. Idempotent.

    A guest that cannot be reached is no reason to fail: its watchdog thaws it and its session
    ends itself. That is logged.

    :raise Failure: the hypervisor still holds something; repeating it goes on from there
    """
    unreached: list[Failure] = []
    for guest in (routes.guest, routes.host):
        if guest is None:
            continue
        try:
            if guest is routes.guest or hypervisor.state().power is PowerState.RUNNING:
                guest.recover(task_id)
        except Failure as failure:
            unreached.append(failure)
    hypervisor.release(task_id, committed=committed)
    for silent in unreached:
        log("info", f"The guest was left to end its session by itself: {silent}")


class _Attempts:
    """The routes of one task, tried one after the other."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        routes: Routes,
        task_id: str,
        bases: Mapping[str, Sequence[str]],
        options: SnapshotOptions,
        log: Log,
    ) -> None:
        self._hypervisor = hypervisor
        self._routes = routes
        self._task_id = task_id
        self._bases = bases
        self._options = options
        self._log = log
        self._setbacks: list[Failure] = []
        self._spent = False
        """Whether the guest asked for a point that cannot be vouched for."""

    def run(self, order: tuple[Route, ...], state: VmState) -> Snapshot:
        for position, route in enumerate(order):
            spare = position + 1 < len(order)
            self._prepare_anew()
            try:
                if route is Route.GUEST:
                    snapshot = self._by_guest(state)
                else:
                    snapshot = self._by_host(spare=spare)
            except _ROUTE_FAILURES as failure:
                if self._options.route is RoutePreference.GUEST:
                    raise
                self._setbacks.append(failure)
                self._log("warning", f"The {route} route failed: {failure}")
            else:
                return self._with_setbacks(snapshot)
        if self._setbacks:
            why = self._setbacks[-1]
        else:
            why = AgentFailure("agent.channel-missing", "No guest agent socket is set for this VM.")
        self._prepare_anew()
        return self._with_setbacks(unfrozen(self._hypervisor, self._task_id, why, self._log))

    def _prepare_anew(self) -> None:
        if self._spent:
            self._hypervisor.release(self._task_id, committed=False)
            self._hypervisor.prepare(self._task_id, bases=self._bases, options=self._options)
            self._spent = False

    def _by_host(self, *, spare: bool) -> Snapshot:
        assert self._routes.host is not None
        return by_host(
            self._hypervisor,
            self._routes.host,
            self._task_id,
            self._options,
            spare=spare,
            log=self._log,
        )

    def _by_guest(self, state: VmState) -> Snapshot:
        assert self._routes.guest is not None
        self._log("info", "The VM's agent is asked for the snapshot.")
        instant = Instant(self._hypervisor, self._task_id)
        disks = [disk.name for disk in state.disks]
        try:
            return by_guest(
                self._hypervisor,
                self._routes.guest,
                instant,
                self._task_id,
                disks,
                self._options,
                self._log,
            )
        except _ROUTE_FAILURES:
            self._withdraw(self._routes.guest)
            self._spent = instant.asked
            raise

    def _withdraw(self, route: GuestRoute) -> None:
        try:
            route.recover(self._task_id)
        except Failure as failure:
            self._log("info", f"The guest was left to end its session by itself: {failure}")

    def _with_setbacks(self, snapshot: Snapshot) -> Snapshot:
        if not self._setbacks:
            return snapshot
        way = {Route.GUEST: "the guest route", Route.HOST: "the host route"}
        got = way[snapshot.session.route]
        said = tuple(
            f"{reason_of(failure)} The point was taken by {got} instead."
            for failure in self._setbacks
        )
        return replace(
            snapshot,
            warnings=(*said, *snapshot.warnings),
            setbacks=tuple(failure.report() for failure in self._setbacks),
        )
