"""By which route a point is taken, and what becomes of the other one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from recorded_parts import Stage
from recorded_snapshot import BLOCKED, snapshot_of

from quiesce.model.failure import (
    AgentFailure,
    ExtensionFailure,
    FreezeFailure,
    JobFailure,
    NetworkFailure,
    PolicyFailure,
    ScriptFailure,
    SnapshotFailure,
)
from quiesce.model.policy import RoutePreference
from quiesce.model.snapshot import Consistency, Route, Snapshot


@pytest.fixture
def go(stage: Stage) -> Callable[..., Snapshot]:
    return partial(snapshot_of, stage)


def test_by_the_guest_route_the_guest_asks_for_the_point_and_nobody_else_freezes_it(stage, go):
    snapshot = go()
    assert stage.tape == [
        "hypervisor.prepare",
        "route.snapshot",
        "hypervisor.take",
        "route.report",
        "hypervisor.open",
    ]
    assert snapshot.session.route is Route.GUEST
    assert snapshot.consistency.level is Consistency.FILE_SYSTEM
    assert snapshot.setbacks == ()
    assert snapshot.warnings == ()


def test_a_guest_that_cannot_reach_the_endpoint_is_frozen_by_the_host_and_the_job_says_why(
    stage, go
):
    stage.failing["route.snapshot"] = BLOCKED
    snapshot = go()
    assert snapshot.session.route is Route.HOST
    assert snapshot.consistency.level is Consistency.FILE_SYSTEM
    assert [setback.code for setback in snapshot.setbacks] == ["network.blocked"]
    assert "198.51.100.10:443 does not answer" in snapshot.warnings[0]
    assert stage.tape.count("hypervisor.prepare") == 1, "nothing was asked for: nothing is spent"
    assert stage.tape.index("route.recover") < stage.tape.index("guest.prepare")


def test_a_point_that_the_guest_asked_for_and_then_fell_silent_about_is_never_used(stage, go):
    stage.failing["route.report"] = ExtensionFailure("extension.timeout", "no report")
    snapshot = go()
    assert snapshot.session.route is Route.HOST
    first, second = (i for i, call in enumerate(stage.tape) if call == "hypervisor.take")
    assert "hypervisor.release committed=False" in stage.tape[first:second]
    assert "hypervisor.prepare" in stage.tape[first:second]


def test_without_a_host_agent_the_failed_guest_route_leaves_a_crash_consistent_point(stage, go):
    stage.failing["route.snapshot"] = BLOCKED
    snapshot = go(host=False)
    assert snapshot.session.route is Route.HOST
    assert snapshot.consistency.level is Consistency.CRASH
    assert "network.blocked" in snapshot.consistency.reason


def test_a_policy_that_demands_the_guest_route_gets_no_other_point(stage, go):
    stage.failing["route.snapshot"] = BLOCKED
    with pytest.raises(NetworkFailure):
        go(RoutePreference.GUEST)
    assert "hypervisor.take" not in stage.tape
    assert stage.tape[-1] == "hypervisor.release committed=False"


def test_a_policy_that_demands_the_guest_route_of_a_vm_without_one_is_told_so(stage, go):
    with pytest.raises(PolicyFailure) as raised:
        go(RoutePreference.GUEST, guest=False)
    assert raised.value.code == "policy.route-impossible"


def test_a_policy_that_wants_the_host_route_never_bothers_the_guests_agent(stage, go):
    assert go(RoutePreference.HOST).session.route is Route.HOST
    assert not [call for call in stage.tape if call.startswith("route.")]


@pytest.mark.parametrize("call", ["guest.prepare", "guest.freeze"])
def test_host_first_goes_to_the_guest_route_before_it_settles_for_less(stage, go, call):
    stage.failing[call] = FreezeFailure("freeze.failed", "not frozen")
    snapshot = go(RoutePreference.HOST_THEN_GUEST)
    assert snapshot.session.route is Route.GUEST
    assert snapshot.consistency.level is Consistency.FILE_SYSTEM
    assert [setback.code for setback in snapshot.setbacks] == ["freeze.failed"]
    assert stage.tape.count("hypervisor.take") == 1


def test_a_vm_with_one_route_is_taken_by_it_without_a_word_about_the_other(stage, go):
    assert go(guest=False).warnings == ()
    stage.tape.clear()
    assert go(RoutePreference.HOST_THEN_GUEST, host=False).warnings == ()


def test_both_routes_failing_leaves_a_crash_consistent_point_and_both_reasons(stage, go):
    stage.failing["route.snapshot"] = BLOCKED
    stage.failing["guest.prepare"] = AgentFailure("agent.hung", "no answer")
    snapshot = go()
    assert snapshot.consistency.level is Consistency.CRASH
    text = " ".join(snapshot.warnings)
    assert "network.blocked" in text
    assert "agent.hung" in text


def test_a_report_of_a_point_that_nobody_asked_for_is_not_believed(stage, go):
    snapshot = go(asks=False)
    assert snapshot.session.route is Route.HOST
    assert snapshot.setbacks[0].code == "storage.snapshot-not-asked"


def test_a_hypervisor_that_cannot_snapshot_is_named_and_not_the_guest(stage, go):
    stage.failing["hypervisor.take"] = SnapshotFailure("snapshot.take-failed", "QEMU refused")
    with pytest.raises(SnapshotFailure) as raised:
        go()
    assert raised.value.code == "snapshot.take-failed"
    assert stage.tape[-1] == "hypervisor.release committed=False"


def test_the_hypervisors_own_words_stay_the_cause_of_what_it_could_not_do(stage, go):
    failure = SnapshotFailure("snapshot.take-failed", "QEMU refused")
    failure.__cause__ = SnapshotFailure("hypervisor.command-refused", "No medium in drive")
    stage.failing["hypervisor.take"] = failure
    with pytest.raises(SnapshotFailure) as raised:
        go()
    assert raised.value.report().cause.code == "hypervisor.command-refused"


def test_a_pre_script_that_forbids_the_backup_forbids_it_on_every_route(stage, go):
    stage.failing["route.snapshot"] = ScriptFailure("script.pre-failed", "pre.sh ended with 1")
    with pytest.raises(ScriptFailure):
        go()
    assert "hypervisor.take" not in stage.tape


def test_a_cancelled_job_withdraws_the_task_from_the_guest(stage, go):
    stage.failing["route.snapshot"] = JobFailure("job.cancelled", "cancelled")
    with pytest.raises(JobFailure):
        go()
    assert "route.recover" in stage.tape
    assert stage.tape[-1] == "hypervisor.release committed=False"
