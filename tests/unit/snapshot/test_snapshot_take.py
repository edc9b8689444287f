"""Taking a snapshot: the order that protects the guest, and what a point is worth after trouble.

The hypervisor and the guest here only record what is asked of them; the real ones are met in
tests/e2e. What is under test is the order of the calls and the label of the outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from recorded_parts import ROOT, RecordedGuest, RecordedHypervisor, Stage
from recorded_snapshot import TASK, snapshot_of

from quiesce.model.failure import (
    AgentFailure,
    ExtensionFailure,
    FreezeFailure,
    ScriptFailure,
    VmFailure,
)
from quiesce.model.snapshot import Consistency, FreezeReport, MountFreeze, Snapshot
from quiesce.model.vm import PowerState
from quiesce.snapshot.ports import Finish, Readiness, ScriptRun
from quiesce.snapshot.take import Routes, recover


@pytest.fixture
def take(stage: Stage) -> Callable[..., Snapshot]:
    return partial(snapshot_of, stage, guest=False)


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
    snapshot = take(host=False)
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
