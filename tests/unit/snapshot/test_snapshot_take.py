"""Taking a snapshot: the order that protects the guest, and what a point is worth after trouble.

The hypervisor and the guest here only record what is asked of them; the real ones are met in
tests/e2e. What is under test is the order of the calls and the label of the outcome.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from recorded_parts import ROOT, RecordedGuest, RecordedHypervisor, RecordedRoute, Stage

from quiesce.model.failure import (
    AgentFailure,
    ExtensionFailure,
    FreezeFailure,
    JobFailure,
    NetworkFailure,
    PolicyFailure,
    ScriptFailure,
    SnapshotFailure,
    VmFailure,
)
from quiesce.model.policy import RoutePreference, SnapshotOptions
from quiesce.model.snapshot import (
    Consistency,
    FreezeReport,
    MountFreeze,
    Route,
    Snapshot,
)
from quiesce.model.vm import PowerState
from quiesce.snapshot.ports import (
    Finish,
    Readiness,
    ScriptRun,
)
from quiesce.snapshot.take import Routes, recover, take_snapshot

TASK = "0123456789ab"


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def take(stage: Stage) -> Callable[..., Snapshot]:
    def take(*, with_guest: bool = True) -> Snapshot:
        return take_snapshot(
            RecordedHypervisor(stage),
            Routes(host=RecordedGuest(stage) if with_guest else None),
            TASK,
            bases={},
            options=SnapshotOptions(),
            log=lambda level, text: None,
        )

    return take


def test_only_the_instant_itself_happens_while_the_guest_is_frozen(stage, take):
    take()
    assert stage.tape == [
        "hypervisor.prepare",
        "guest.prepare",
        "guest.freeze",
        "hypervisor.take",
        "guest.thaw",
        "guest.finish",
        "hypervisor.open",
    ]


def test_a_freeze_without_scripts_is_file_system_consistent_and_says_why_not_better(take):
    label = take().consistency
    assert label.level is Consistency.FILE_SYSTEM
    assert "no pre- and post-scripts" in label.reason


def test_scripts_that_succeed_around_the_freeze_prove_application_consistency(stage, take):
    run = ScriptRun("/etc/pre.sh", 0, 0.1)
    stage.readiness = Readiness("1.0", (ROOT,), scripts_configured=True, pre_script=run)
    stage.finish = Finish(post_script=run)
    assert take().consistency.level is Consistency.APPLICATION


def test_a_failed_post_script_costs_application_consistency(stage, take):
    run = ScriptRun("/etc/pre.sh", 0, 0.1)
    stage.readiness = Readiness("1.0", (ROOT,), scripts_configured=True, pre_script=run)
    stage.finish = Finish(post_script=ScriptRun("/etc/post.sh", 3, 0.1))
    label = take().consistency
    assert label.level is Consistency.FILE_SYSTEM
    assert "/etc/post.sh ended with 3" in label.reason


def test_a_script_that_took_too_long_is_told_from_one_that_failed(stage, take):
    run = ScriptRun("/etc/pre.sh", None, 2.0, code="script.timeout")
    stage.readiness = Readiness("1.0", (ROOT,), scripts_configured=True, pre_script=run)
    assert take().consistency.reason == "script.timeout: /etc/pre.sh timed out"


def test_a_point_whose_guest_thawed_itself_is_only_crash_consistent(stage, take):
    stage.report = FreezeReport((ROOT,), held=False, hold_seconds=10)
    snapshot = take()
    assert snapshot.consistency.level is Consistency.CRASH
    assert "freeze.held-too-long" in snapshot.consistency.reason
    assert any("crash-consistent" in warning for warning in snapshot.warnings)


def test_a_written_mount_that_was_left_out_costs_consistency_and_a_duplicate_does_not(stage, take):
    duplicate = MountFreeze("/srv", "ext4", skipped="same file system as /")
    stage.report = FreezeReport((ROOT, duplicate), held=True, hold_seconds=10)
    assert take().consistency.level is Consistency.FILE_SYSTEM
    skipped = MountFreeze("/data", "xfs", skipped="MountsToSkip", downgrades=True)
    stage.report = FreezeReport((ROOT, skipped), held=True, hold_seconds=10)
    label = take().consistency
    assert label.level is Consistency.CRASH
    assert "/data: MountsToSkip" in label.reason


@pytest.mark.parametrize(
    "failure",
    [
        AgentFailure("agent.hung", "The agent does not answer."),
        FreezeFailure("freeze.busy", "Another product has frozen /."),
    ],
)
def test_a_guest_that_cannot_be_prepared_still_gets_a_point_with_the_reason(stage, take, failure):
    stage.failing["guest.prepare"] = failure
    snapshot = take()
    assert snapshot.consistency.level is Consistency.CRASH
    assert failure.code in snapshot.consistency.reason
    assert stage.tape[-2:] == ["hypervisor.take", "hypervisor.open"]
    silent = isinstance(failure, AgentFailure)
    assert ("guest.recover" in stage.tape) is not silent, "a silent agent is not asked twice"


def test_a_pre_script_that_forbids_the_backup_leaves_nothing_behind(stage, take):
    stage.failing["guest.prepare"] = ScriptFailure("script.pre-failed", "pre.sh ended with 1")
    with pytest.raises(ScriptFailure):
        take()
    assert stage.tape[-2:] == ["guest.recover", "hypervisor.release committed=False"]


def test_the_guest_is_thawed_and_its_post_script_runs_when_freezing_failed(stage, take):
    stage.failing["guest.freeze"] = FreezeFailure("freeze.timeout", "/data did not freeze")
    snapshot = take()
    assert snapshot.consistency.level is Consistency.CRASH
    assert "freeze.timeout" in snapshot.consistency.reason
    assert "guest.finish" in stage.tape


def test_the_guest_is_thawed_before_anything_else_when_the_hypervisor_fails(stage, take):
    stage.failing["hypervisor.take"] = VmFailure("vm.gone", "QEMU is gone")
    with pytest.raises(VmFailure) as raised:
        take()
    assert raised.value.code == "vm.gone"
    assert stage.tape[3:] == [
        "hypervisor.take",
        "guest.thaw",
        "guest.recover",
        "hypervisor.release committed=False",
    ]


def test_an_agent_lost_during_the_freeze_costs_consistency_not_the_point(stage, take):
    stage.failing["guest.thaw"] = AgentFailure("agent.hung", "no answer to thaw")
    snapshot = take()
    assert snapshot.consistency.level is Consistency.CRASH
    assert "agent.hung" in snapshot.consistency.reason


@pytest.mark.parametrize(
    ("power", "level"),
    [
        (PowerState.OFF, Consistency.OFFLINE),
        (PowerState.SHUT_DOWN, Consistency.OFFLINE),
        (PowerState.PAUSED, Consistency.CRASH),
    ],
)
def test_a_vm_that_does_not_run_is_snapshot_without_asking_its_agent(stage, take, power, level):
    stage.power = power
    assert take().consistency.level is level
    assert not [call for call in stage.tape if call.startswith("guest.")]


def test_a_migrating_vm_is_left_alone(stage, take):
    stage.power = PowerState.MIGRATING
    with pytest.raises(VmFailure) as raised:
        take()
    assert raised.value.retryable
    assert stage.tape == []


def test_a_vm_without_an_agent_gets_a_crash_consistent_point(take):
    snapshot = take(with_guest=False)
    assert snapshot.consistency.level is Consistency.CRASH
    assert "agent.channel-missing" in snapshot.consistency.reason


def test_recovery_frees_the_hypervisor_even_when_the_guest_cannot_be_reached(stage):
    stage.failing["guest.recover"] = AgentFailure("agent.hung", "no answer")
    told: list[str] = []
    recover(
        RecordedHypervisor(stage),
        Routes(host=RecordedGuest(stage)),
        TASK,
        committed=False,
        log=lambda level, text: told.append(text),
    )
    assert stage.tape[-1] == "hypervisor.release committed=False"
    assert ["agent.hung" in text for text in told] == [True]


def test_a_guest_whose_session_vanished_while_frozen_is_thawed_before_the_point_is_read(
    stage, take
):
    stage.failing["guest.thaw"] = FreezeFailure("freeze.failed", "nobody holds the freeze")
    stage.failing["guest.finish"] = ExtensionFailure("extension.session-lost", "no session")
    snapshot = take()
    assert snapshot.consistency.level is Consistency.CRASH
    assert stage.tape[-3:] == ["guest.finish", "guest.recover", "hypervisor.open"]


# --- two routes


@pytest.fixture
def go(stage: Stage) -> Callable[..., Snapshot]:
    def go(
        preference: RoutePreference = RoutePreference.GUEST_THEN_HOST,
        *,
        host: bool = True,
        guest: bool = True,
        asks: bool = True,
    ) -> Snapshot:
        route = RecordedRoute(stage)
        route.asks = asks
        return take_snapshot(
            RecordedHypervisor(stage),
            Routes(
                host=RecordedGuest(stage) if host else None,
                guest=route if guest else None,
            ),
            TASK,
            bases={},
            options=SnapshotOptions(route=preference),
            log=lambda level, text: None,
        )

    return go


BLOCKED = NetworkFailure("network.connect-timeout", "198.51.100.10:443 does not answer.")


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
    assert [setback.code for setback in snapshot.setbacks] == ["network.connect-timeout"]
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
    assert "network.connect-timeout" in snapshot.consistency.reason


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
    assert "network.connect-timeout" in text
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
