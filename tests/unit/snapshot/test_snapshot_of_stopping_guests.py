"""A guest that stops or is started while its point is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from recorded_parts import RecordedHypervisor, Stage
from recorded_snapshot import snapshot_of

from quiesce.model.failure import AgentFailure
from quiesce.model.snapshot import Consistency, Route
from quiesce.model.vm import PowerState
from quiesce.snapshot import untouched
from quiesce.snapshot.untouched import GuestStopped, PowerWatch


class StoppingHypervisor(RecordedHypervisor):
    """Its guest stops after its state was asked for so many times."""

    def __init__(self, stage: Stage, power: PowerState, after: int = 1) -> None:
        super().__init__(stage)
        self.power, self.left = power, after

    def state(self):
        state = super().state()
        self.left -= 1
        return state if self.left >= 0 else replace(state, power=self.power)


@pytest.mark.parametrize(
    ("power", "level"),
    [
        (PowerState.SHUT_DOWN, Consistency.OFFLINE),
        (PowerState.OFF, Consistency.OFFLINE),
        (PowerState.PAUSED, Consistency.CRASH),
        (PowerState.CRASHED, Consistency.CRASH),
    ],
)
def test_a_guest_that_stops_while_its_agent_is_waited_for_is_taken_as_it_is(
    stage: Stage, power: PowerState, level: Consistency
):
    stage.failing["route.snapshot"] = AgentFailure("agent.silent", "nothing was heard")
    snapshot = snapshot_of(stage, hypervisor=StoppingHypervisor(stage, power))
    assert snapshot.consistency.level is level
    assert "guest.prepare" not in stage.tape, "no agent of it is waited for any more"
    released = stage.tape.index("hypervisor.release committed=False")
    assert stage.tape[released + 1 :] == [
        "hypervisor.prepare",
        "hypervisor.take",
        "hypervisor.open",
    ]
    assert [each.code.partition(".")[0] for each in snapshot.setbacks] == ["agent", "vm"]


def test_a_vm_that_was_paused_for_a_moment_when_a_route_failed_is_no_stopped_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    stage.failing["route.snapshot"] = AgentFailure("agent.silent", "nothing was heard")
    hypervisor = StoppingHypervisor(stage, PowerState.PAUSED)

    def a_second_passes(_: float) -> None:
        hypervisor.power = PowerState.RUNNING

    monkeypatch.setattr(untouched.time, "sleep", a_second_passes)
    snapshot = snapshot_of(stage, hypervisor=hypervisor)
    assert snapshot.session.route is Route.HOST
    assert snapshot.consistency.level is Consistency.FILE_SYSTEM


@pytest.mark.parametrize("power", [PowerState.OFF, PowerState.SHUT_DOWN])
def test_a_vm_that_was_started_while_its_point_was_taken_is_not_called_offline(
    stage: Stage, power: PowerState
):
    stage.power = power

    class Started(RecordedHypervisor):
        def take(self, task_id):
            stage.power = PowerState.RUNNING
            return super().take(task_id)

    snapshot = snapshot_of(stage, hypervisor=Started(stage))
    assert snapshot.consistency.level is Consistency.CRASH
    assert "running after the point was taken" in snapshot.consistency.reason
    assert snapshot.warnings


def waiting(stage: Stage, *, frozen: bool = False) -> Callable[[float], None]:
    """Call it with seconds since the wait began, at which the agent still says nothing new."""
    now = [0.0]
    watch = PowerWatch(RecordedHypervisor(stage), monotonic=lambda: now[0])
    said = watch.log(lambda level, text: None, unless=lambda: frozen)

    def nothing_new(seconds: float) -> None:
        now[0] = seconds
        said("debug", "Nothing new.")

    return nothing_new


def test_the_wait_for_an_agent_ends_when_its_guest_has_shut_down(stage: Stage):
    nothing_new = waiting(stage)
    nothing_new(0.0)
    stage.power = PowerState.SHUT_DOWN
    with pytest.raises(GuestStopped) as stopped:
        nothing_new(60.0)
    assert stopped.value.code == "vm.shut-down-inside-guest"


def test_a_vm_that_another_product_pauses_for_a_moment_is_waited_for(stage: Stage):
    nothing_new = waiting(stage)
    for seconds, stage.power in (
        (60.0, PowerState.PAUSED),
        (120.0, PowerState.RUNNING),
        (180.0, PowerState.PAUSED),
    ):
        nothing_new(seconds)
    with pytest.raises(GuestStopped):
        nothing_new(240.0)


def test_nobody_looks_at_the_hypervisor_while_the_guest_is_frozen(stage: Stage):
    nothing_new = waiting(stage, frozen=True)
    stage.power = PowerState.SHUT_DOWN
    nothing_new(60.0)
