"""What a snapshot keeps of its setbacks, and when a route is tried once more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_parts import (
    ROOT,
    RecordedGuest,
    RecordedHypervisor,
    RecordedMender,
    RecordedRoute,
    Stage,
)

from quiesce.model.diagnosis import MendAction
from quiesce.model.failure import (
    AgentFailure,
    ExtensionFailure,
    Failure,
    FreezeFailure,
    JobFailure,
    NetworkFailure,
    PolicyFailure,
    ScriptFailure,
    VmFailure,
)
from quiesce.model.policy import RoutePreference, SnapshotOptions
from quiesce.model.snapshot import Consistency, FreezeReport, MountFreeze, Route, Snapshot
from quiesce.model.vm import PowerState
from quiesce.snapshot import untouched
from quiesce.snapshot.attempts import ROUTE_FAILURES
from quiesce.snapshot.ports import Again, Finish, Hypervisor, Readiness, ScriptRun
from quiesce.snapshot.take import Routes, take_snapshot
from quiesce.snapshot.untouched import GuestStopped, PowerWatch

TASK = "0123456789ab"
BLOCKED = NetworkFailure("network.blocked", "198.51.100.10:443 does not answer.")
HUNG = AgentFailure("agent.hung", "The agent does not answer.")
STUCK = FreezeFailure("freeze.failed", "/data could not be frozen.")

WAYS = ("mender.trying", "route.snapshot", "guest.prepare")


@pytest.fixture
def stage() -> Stage:
    return Stage()


def snapshot_of(
    stage: Stage,
    preference: RoutePreference = RoutePreference.GUEST_THEN_HOST,
    *,
    mender: RecordedMender | None = None,
    host: bool = True,
    guest: bool = True,
    mends_off: Collection[MendAction] = (),
    hypervisor: Hypervisor | None = None,
) -> Snapshot:
    return take_snapshot(
        hypervisor or RecordedHypervisor(stage),
        Routes(
            host=RecordedGuest(stage) if host else None,
            guest=RecordedRoute(stage) if guest else None,
        ),
        TASK,
        bases={},
        options=SnapshotOptions(route=preference),
        log=lambda level, text: None,
        mender=mender,
        mends_off=mends_off,
    )


# --- every downgrade keeps its failure


@pytest.mark.parametrize("call", ["guest.prepare", "guest.freeze"])
def test_a_freeze_that_failed_on_the_only_route_stays_with_the_point(stage: Stage, call: str):
    stage.failing[call] = STUCK
    snapshot = snapshot_of(stage, guest=False)
    assert snapshot.consistency.level is Consistency.CRASH
    assert snapshot.setbacks == (STUCK.report(),)


def test_a_point_of_a_guest_that_thawed_itself_tells_how_long_each_mount_was_held(stage: Stage):
    stage.report = FreezeReport((ROOT,), held=False, hold_seconds=10)
    [setback] = snapshot_of(stage, guest=False).setbacks
    assert setback.code == "freeze.held-too-long"
    assert "/ (ext4) froze in 2.0 ms and was held for 30 ms" in setback.evidence[0].fact


def test_a_mount_that_was_left_out_is_named_with_its_reason(stage: Stage):
    left_out = MountFreeze("/data", "zfs", skipped="zfs has no freeze operation", downgrades=True)
    stage.report = FreezeReport((ROOT, left_out), held=True, hold_seconds=10)
    [setback] = snapshot_of(stage).setbacks
    assert setback.code == "freeze.mount-left-out"
    assert "/data (zfs) was not frozen: zfs has no freeze operation" in setback.evidence[0].fact


def test_a_post_script_that_failed_keeps_its_own_words(stage: Stage):
    run = ScriptRun("/etc/quiesce/pre.sh", 0, 0.1)
    stage.readiness = Readiness("1.0", (ROOT,), scripts_configured=True, pre_script=run)
    stage.finish = Finish(ScriptRun("/etc/quiesce/post.sh", 3, 0.1, stderr="no such database"))
    [setback] = snapshot_of(stage).setbacks
    assert setback.code == "script.post-failed"
    assert setback.evidence[0].raw == "no such database"


def test_an_agent_lost_before_the_thaw_was_confirmed_stays_with_the_point(stage: Stage):
    stage.failing["guest.thaw"] = HUNG
    assert snapshot_of(stage, guest=False).setbacks == (HUNG.report(),)


@pytest.mark.parametrize(
    ("power", "code"),
    [
        (PowerState.SHUT_DOWN, "vm.shut-down-inside-guest"),
        (PowerState.PAUSED, "vm.paused"),
        (PowerState.CRASHED, "vm.crashed"),
    ],
)
def test_a_guest_that_does_not_run_is_named(stage: Stage, power: PowerState, code: str):
    stage.power = power
    assert [each.code for each in snapshot_of(stage).setbacks] == [code]


def test_a_vm_that_is_simply_off_has_had_no_setback(stage: Stage):
    stage.power = PowerState.OFF
    assert snapshot_of(stage).setbacks == ()


# --- one more try


def test_while_another_route_is_left_nothing_is_mended_before_it_is_tried(stage: Stage):
    mender = RecordedMender(stage)
    stage.failing["route.snapshot"] = BLOCKED
    assert snapshot_of(stage, mender=mender).session.route is Route.HOST
    assert mender.told == [(Route.GUEST, "network.blocked")]
    assert not [call for call in stage.tape if call.startswith("mender.mend")]


def test_a_freeze_that_did_not_hold_is_tried_by_the_other_route_and_its_point_given_up(
    stage: Stage,
):
    short = FreezeReport((ROOT,), held=False, hold_seconds=10)
    held = stage.report

    class Second(RecordedMender):
        def failed(self, route, failure):
            super().failed(route, failure)
            stage.report = held

    stage.report = short
    snapshot = snapshot_of(stage, mender=Second(stage))
    assert snapshot.session.route is Route.HOST
    assert snapshot.consistency.level is Consistency.FILE_SYSTEM
    assert [each.code for each in snapshot.setbacks] == ["freeze.held-too-long"]
    first, second = (i for i, call in enumerate(stage.tape) if call == "hypervisor.take")
    assert "hypervisor.release committed=False" in stage.tape[first:second]


def test_a_route_that_was_mended_is_tried_once_more_and_says_what_went_before(stage: Stage):
    mender = RecordedMender(stage)
    mender.answers[Route.HOST] = Again(SnapshotOptions(skip_mounts=("/data",)))
    stage.failing["guest.freeze"] = [STUCK, None]
    snapshot = snapshot_of(stage, mender=mender, guest=False)
    assert snapshot.consistency.level is Consistency.FILE_SYSTEM
    assert [each.code for each in snapshot.setbacks] == ["freeze.failed"]
    assert "The next try succeeded." in snapshot.warnings[0]
    assert [each.skip_mounts for each in stage.options] == [(), ("/data",)]


def test_a_route_that_fails_again_is_not_tried_a_third_time(stage: Stage):
    mender = RecordedMender(stage)
    mender.answers[Route.HOST] = Again(SnapshotOptions())
    stage.failing["guest.prepare"] = HUNG
    snapshot = snapshot_of(stage, mender=mender, guest=False)
    assert snapshot.consistency.level is Consistency.CRASH
    assert stage.tape.count("guest.prepare") == 2
    assert len(snapshot.setbacks) == 2


def test_the_first_route_may_be_mended_when_the_second_cannot_be(stage: Stage):
    mender = RecordedMender(stage)
    mender.answers[Route.GUEST] = Again(SnapshotOptions())
    stage.failing["route.snapshot"] = [BLOCKED, None]
    stage.failing["guest.prepare"] = HUNG
    assert snapshot_of(stage, mender=mender).session.route is Route.GUEST


def test_a_demanded_route_fails_only_after_its_mending(stage: Stage):
    mender = RecordedMender(stage)
    stage.failing["route.snapshot"] = BLOCKED
    with pytest.raises(NetworkFailure):
        snapshot_of(stage, RoutePreference.GUEST, mender=mender)
    assert "mender.mend guest" in stage.tape
    assert "hypervisor.take" not in stage.tape


def test_a_job_cancelled_while_something_is_mended_leaves_nothing(stage: Stage):
    stage.failing["guest.prepare"] = HUNG
    stage.failing["mender.mend host"] = JobFailure("job.cancelled", "cancelled")
    with pytest.raises(JobFailure):
        snapshot_of(stage, mender=RecordedMender(stage), guest=False)
    assert stage.tape[-1] == "hypervisor.release committed=False"


def test_a_pre_script_that_forbids_the_backup_is_never_mended_nor_tried_again(stage: Stage):
    mender = RecordedMender(stage)
    mender.answers[Route.HOST] = Again(SnapshotOptions())
    stage.failing["guest.prepare"] = ScriptFailure("script.pre-failed", "pre.sh ended with 1")
    with pytest.raises(ScriptFailure):
        snapshot_of(stage, mender=mender, guest=False)
    assert stage.tape.count("guest.prepare") == 1
    assert mender.told == []


# --- what the policy switches off


def test_without_the_other_route_the_first_one_alone_is_tried(stage: Stage):
    stage.failing["route.snapshot"] = BLOCKED
    snapshot = snapshot_of(stage, mends_off=(MendAction.OTHER_ROUTE,))
    assert snapshot.consistency.level is Consistency.CRASH
    assert "guest.prepare" not in stage.tape


def test_without_the_offline_backup_a_paused_vm_is_a_failure(stage: Stage):
    stage.power = PowerState.PAUSED
    with pytest.raises(VmFailure) as raised:
        snapshot_of(stage, mends_off=(MendAction.OFFLINE,))
    assert raised.value.code == "vm.paused"
    assert "hypervisor.take" not in stage.tape


# --- a guest that stops meanwhile


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


def test_each_try_of_a_route_is_told_before_it_is_begun(stage: Stage):
    class Told(RecordedMender):
        def trying(self, route):
            stage.tape.append(f"mender.trying {route}")

    stage.failing["route.snapshot"] = BLOCKED
    snapshot_of(stage, mender=Told(stage))
    begun = [call for call in stage.tape if call.split()[0] in WAYS]
    assert begun == [
        "mender.trying guest",
        "route.snapshot",
        "mender.trying host",
        "guest.prepare",
    ]


def test_the_wait_for_an_agent_ends_when_its_guest_has_shut_down(stage: Stage):
    now = 0.0
    watch = PowerWatch(RecordedHypervisor(stage), monotonic=lambda: now)
    said = watch.log(lambda level, text: None, unless=lambda: False)
    said("debug", "Nothing new.")
    stage.power = PowerState.SHUT_DOWN
    now = 60.0
    with pytest.raises(GuestStopped) as stopped:
        said("debug", "Nothing new.")
    assert stopped.value.code == "vm.shut-down-inside-guest"


def test_a_vm_that_another_product_pauses_for_a_moment_is_waited_for(stage: Stage):
    now = 0.0
    watch = PowerWatch(RecordedHypervisor(stage), monotonic=lambda: now)
    said = watch.log(lambda level, text: None, unless=lambda: False)
    stage.power = PowerState.PAUSED
    now = 60.0
    said("debug", "Nothing new.")
    stage.power = PowerState.RUNNING
    now = 120.0
    said("debug", "Nothing new.")
    stage.power = PowerState.PAUSED
    now = 180.0
    said("debug", "Nothing new.")
    now = 240.0
    with pytest.raises(GuestStopped):
        said("debug", "Nothing new.")


def test_nobody_looks_at_the_hypervisor_while_the_guest_is_frozen(stage: Stage):
    now = 0.0
    watch = PowerWatch(RecordedHypervisor(stage), monotonic=lambda: now)
    said = watch.log(lambda level, text: None, unless=lambda: True)
    stage.power = PowerState.SHUT_DOWN
    now = 60.0
    said("debug", "Nothing new.")


# --- over all of it

FAILURES = st.sampled_from(
    [
        BLOCKED,
        HUNG,
        STUCK,
        AgentFailure("agent.silent", "nothing was heard"),
        ExtensionFailure("extension.crashed", "it ended"),
        ScriptFailure("script.pre-failed", "pre.sh ended with 1"),
    ]
)
GUEST_CALLS = ("guest.prepare", "guest.freeze", "guest.thaw", "guest.finish")
CALLS = (*GUEST_CALLS, "route.snapshot", "route.report")
SOMETIMES = st.lists(st.one_of(st.none(), FAILURES), min_size=1, max_size=3)
AGAIN = Again(SnapshotOptions())


@given(
    preference=st.sampled_from(RoutePreference),
    host=st.booleans(),
    guest=st.booleans(),
    failing=st.dictionaries(st.sampled_from(CALLS), SOMETIMES),
    mended=st.sets(st.sampled_from([Route.HOST, Route.GUEST])),
    mends_off=st.sets(st.sampled_from([MendAction.OTHER_ROUTE, MendAction.OFFLINE])),
)
def test_whatever_fails_and_is_mended_the_guest_is_thawed_and_there_is_a_point_if_there_can_be(
    preference: RoutePreference,
    host: bool,
    guest: bool,
    failing: dict[str, list[Failure | None]],
    mended: set[Route],
    mends_off: set[MendAction],
):
    stage = Stage()
    # Of a session's end only what its port may raise.
    allowed: dict[str, tuple[type[Failure], ...]] = {
        "guest.freeze": (AgentFailure, FreezeFailure),
        "guest.thaw": (AgentFailure, FreezeFailure),
        "guest.finish": (AgentFailure, ExtensionFailure, FreezeFailure),
    }
    for call, failures in failing.items():
        families = allowed.get(call, (Failure,))
        stage.failing[call] = [each if isinstance(each, families) else None for each in failures]
    mender = RecordedMender(stage)
    mender.answers = dict.fromkeys(mended, AGAIN)
    outcome: Snapshot | Failure
    try:
        outcome = snapshot_of(
            stage, preference, mender=mender, host=host, guest=guest, mends_off=mends_off
        )
    except Failure as failure:
        outcome = failure
    tape = stage.tape

    for first_call in ("guest.prepare", "route.snapshot"):
        assert tape.count(first_call) <= 2, "one retry per route"
    for route in (Route.HOST, Route.GUEST):
        assert tape.count(f"mender.mend {route}") <= 1
    if MendAction.OTHER_ROUTE in mends_off:
        assert not ("guest.prepare" in tape and "route.snapshot" in tape)
    if preference is RoutePreference.HOST:
        assert "route.snapshot" not in tape
    _check_thaws(tape)
    if isinstance(outcome, Snapshot):
        assert tape[-1] == "hypervisor.open"
        frozen = outcome.freeze is not None
        assert frozen or outcome.consistency.level is Consistency.CRASH
        assert frozen or outcome.setbacks, "a downgrade keeps its failure"
        return
    forbidden = isinstance(outcome, ScriptFailure | PolicyFailure)
    demanded = preference is RoutePreference.GUEST and isinstance(outcome, ROUTE_FAILURES)
    assert forbidden or demanded, outcome
    assert not tape or tape[-1] == "hypervisor.release committed=False"


def _check_thaws(tape: list[str]) -> None:
    """After each freeze that succeeded comes the instant, then the thaw, before all else."""
    for position, call in enumerate(tape):
        if call == "guest.freeze" and tape[position + 1 : position + 2] == ["hypervisor.take"]:
            assert tape[position + 2] == "guest.thaw"
        if call == "guest.thaw":
            assert tape[position + 1] == "guest.finish"
