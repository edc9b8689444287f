"""When a route is tried once more, and what always holds whatever fails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_parts import ROOT, RecordedMender, Stage
from recorded_snapshot import BLOCKED, HUNG, STUCK, snapshot_of

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
)
from quiesce.model.policy import RoutePreference, SnapshotOptions
from quiesce.model.snapshot import Consistency, FreezeReport, Route, Snapshot
from quiesce.snapshot.attempts import ROUTE_FAILURES
from quiesce.snapshot.ports import Again

WAYS = ("mender.trying", "route.snapshot", "guest.prepare")


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
