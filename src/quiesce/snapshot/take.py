"""Takes one point of one VM: the task *Take snapshot*, by the guest route, the host route, or of a
VM that does not run.

    hypervisor.prepare     everything slow, while the guest runs freely
    by_guest or by_host    freeze, the instant, thaw; each tells its own order
    hypervisor.open        the point becomes readable

The policy says which route is tried first and whether the other one may follow. What failed and
did not cost the point stays with the snapshot as a setback. Whatever fails before `open` has
returned, the session is torn down by `recover`, the same code that cleans up after a crash.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from quiesce.model.diagnosis import MendAction
from quiesce.model.failure import Evidence, Failure, PolicyFailure, VmFailure
from quiesce.model.policy import RoutePreference, SnapshotOptions
from quiesce.model.snapshot import Route, Snapshot
from quiesce.model.vm import PowerState
from quiesce.snapshot.attempts import Attempts, with_setbacks
from quiesce.snapshot.ports import Guest, GuestRoute, Hypervisor, Log, Mender, NoMender
from quiesce.snapshot.untouched import UNTOUCHED, GuestStopped, untouched, why_untouched

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
    mender: Mender | None = None,
    mends_off: Collection[MendAction] = (),
) -> Snapshot:
    """One point of the VM, opened for reading, with the best consistency that could be proven.

    An agent or a freeze that fails lowers the consistency and is said in `warnings`, with the
    failure whole in `setbacks`; it does not cost the point, unless the policy demands the guest
    route. A pre-script that forbids the backup, a VM that cannot be reached and a hypervisor that
    cannot snapshot do. A guest that stops running is taken as what it is then.

    `mends_off`: OTHER_ROUTE leaves the second route untried; OFFLINE makes a failure of a guest
    that does not run, unless its VM is simply off.

    :raise Failure: nothing is left in the hypervisor or the guest then.
    """
    state = hypervisor.state()
    if state.power is PowerState.MIGRATING:
        raise VmFailure(
            "vm.migrating",
            "The VM is being migrated; its disks cannot be held now.",
            retryable=True,
        )

    def prepare() -> None:
        hypervisor.prepare(task_id, bases=bases, options=options)

    def not_running(power: PowerState, why: VmFailure | None) -> Snapshot:
        if why is not None and MendAction.OFFLINE in mends_off:
            raise why
        prepare()
        return untouched(hypervisor, task_id, power, why, log)

    try:
        if state.power in UNTOUCHED:
            return not_running(state.power, why_untouched(state.power))
        order = routes.order(options.route)
        if MendAction.OTHER_ROUTE in mends_off:
            order = order[:1]
        prepare()
        attempts = Attempts(
            hypervisor, routes.host, routes.guest, task_id, prepare, log, mender or NoMender()
        )
        try:
            return attempts.run(order, state, options)
        except GuestStopped as stopped:
            log("warning", f"{stopped} Its disks are taken as they are.")
            hypervisor.release(task_id, committed=False)
            snapshot = not_running(stopped.power, stopped)
            return with_setbacks(snapshot, attempts.setbacks, frozen_by=None)
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
