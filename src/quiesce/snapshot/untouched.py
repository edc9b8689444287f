"""A VM whose guest does not run: its point needs neither a freeze nor an agent."""

from __future__ import annotations

import time
from collections.abc import Callable

from quiesce.model.failure import Evidence, Failure, VmFailure
from quiesce.model.snapshot import Consistency, ConsistencyLabel, Snapshot
from quiesce.model.vm import PowerState
from quiesce.snapshot.ports import Hypervisor, Log
from quiesce.snapshot.story import crash_warning

UNTOUCHED = {
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

_WHY = {
    PowerState.SHUT_DOWN: ("vm.shut-down-inside-guest", "The guest itself has shut down."),
    PowerState.PAUSED: ("vm.paused", "The VM is paused; its guest cannot be asked to freeze."),
    PowerState.CRASHED: ("vm.crashed", "The guest's kernel has panicked."),
}
_LOOK_SECONDS = 3.0
_PAUSED_SECONDS = 1.0
"""For which others pause a VM, for a snapshot of their own."""


class GuestStopped(VmFailure):
    """The guest does not run any more, while its agent was waited for."""

    def __init__(self, power: PowerState) -> None:
        gone = ("vm.gone", "The VM's process ended while its backup began.")
        code, words = _WHY.get(power, gone)
        super().__init__(
            code,
            words,
            evidence=[Evidence(f"power state {power}, after it was running", "hypervisor")],
        )
        self.power = power


def why_untouched(power: PowerState) -> VmFailure | None:
    """What is wrong with a VM in this state; None for one that is simply off."""
    if power not in _WHY:
        return None
    return VmFailure(*_WHY[power], evidence=[Evidence(f"power state {power}", "hypervisor")])


def untouched(
    hypervisor: Hypervisor, task_id: str, power: PowerState, why: VmFailure | None, log: Log
) -> Snapshot:
    """The point of a prepared hypervisor whose guest does not run. `why` stays as its setback."""
    hypervisor.take(task_id)
    label = _label(power, PowerWatch(hypervisor).power())
    warnings = crash_warning(label, log)
    return Snapshot(
        hypervisor.open(task_id),
        label,
        freeze=None,
        warnings=warnings,
        setbacks=() if why is None else (why.report(),),
    )


def _label(before: PowerState, after: PowerState | None) -> ConsistencyLabel:
    """What the point is worth, by the state before it was begun and the one when it was there."""
    label = UNTOUCHED[before]
    if label.level is Consistency.OFFLINE and after not in (PowerState.OFF, PowerState.SHUT_DOWN):
        now = "its state is not known" if after is None else f"it is {after}"
        return ConsistencyLabel(
            Consistency.CRASH,
            f"the VM was {before} when its backup began, and {now} after the point was taken",
        )
    return label


class PowerWatch:
    """Looks after the VM while its agent is waited for, whenever the wait says something (`Log`):
    an agent that was shut down with its guest never answers."""

    def __init__(
        self, hypervisor: Hypervisor, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._hypervisor = hypervisor
        self._monotonic = monotonic
        self._looked_at = monotonic()
        self._paused_before = False

    def log(self, log: Log, *, unless: Callable[[], bool]) -> Log:
        """`log`, which also raises GuestStopped. It does not look once `unless` holds: the
        hypervisor has one monitor, and the frozen guest must not wait for it."""

        def said(level: str, text: str) -> None:
            log(level, text)
            now = self._monotonic()
            if now - self._looked_at >= _LOOK_SECONDS and not unless():
                self._looked_at = now
                self.check()

        return said

    def check(self) -> None:
        """:raise GuestStopped: when it is paused, at the second look: others pause a VM for a
        moment, for a snapshot of their own
        """
        power = self.power()
        paused_before, self._paused_before = self._paused_before, power is PowerState.PAUSED
        if power in UNTOUCHED and (power is not PowerState.PAUSED or paused_before):
            raise GuestStopped(power)

    def lasting_power(self) -> PowerState | None:
        """As `power`; a paused VM is looked at once more a second later."""
        power = self.power()
        if power is not PowerState.PAUSED:
            return power
        time.sleep(_PAUSED_SECONDS)
        return self.power()

    def power(self) -> PowerState | None:
        """None when the hypervisor does not say: whoever takes the point will hear why."""
        try:
            return self._hypervisor.state().power
        except Failure:
            return None
