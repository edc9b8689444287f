"""Every downgrade of a point keeps its failure."""

from __future__ import annotations

import pytest
from recorded_parts import ROOT, Stage
from recorded_snapshot import BLOCKED, HUNG, STUCK, snapshot_of

from quiesce.model.diagnosis import MendAction
from quiesce.model.failure import VmFailure
from quiesce.model.snapshot import Consistency, FreezeReport, MountFreeze
from quiesce.model.vm import PowerState
from quiesce.snapshot.ports import Finish, Readiness, ScriptRun


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
