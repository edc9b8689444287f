"""A failure ends the command with the same number whether a server or this process met it."""

from __future__ import annotations

import pytest

from quiesce.cli.follow import exit_code
from quiesce.cli.remote_failure import from_problem
from quiesce.model.failure import ExitCode, VaultFailure

SOUND = {
    "vault.exists": ExitCode.CONFLICT,
    "vault.locked": ExitCode.DENIED,
    "vault.not-a-vault": ExitCode.NOT_FOUND,
    "vault.collect-running": ExitCode.CONFLICT,
    "vault.lease-locked": ExitCode.CONFLICT,
    "vault.manifest-unfit": ExitCode.JOB_FAILED,
    "vault.session-expired": ExitCode.JOB_FAILED,
    "vault.version-unsupported": ExitCode.JOB_FAILED,
}


@pytest.mark.parametrize(("code", "ends"), SOUND.items())
def test_a_sound_vault_is_not_called_damaged(code: str, ends: ExitCode) -> None:
    assert VaultFailure(code, "Said here.").exit_code is ends
    problem = {"code": code, "detail": "Said by a server.", "status": 500}
    assert from_problem(problem).exit_code is ends


@pytest.mark.parametrize("code", ["vault.damaged", "vault.corrupt-chunk", "vault.pack-missing"])
@pytest.mark.parametrize("kind", ["verify", "restore"])
def test_a_job_that_met_damage_ends_with_9(kind: str, code: str) -> None:
    job = {"kind": kind, "status": "Failed", "failure": {"code": code}}
    assert exit_code(job) is VaultFailure(code, "Said here.").exit_code is ExitCode.DAMAGED


def test_a_restore_of_what_was_left_ends_with_9() -> None:
    job = {"kind": "restore", "status": "Failed", "failure": {"code": "restore.point-incomplete"}}
    assert exit_code(job) is ExitCode.DAMAGED


def test_a_job_that_failed_of_something_else_ends_with_3() -> None:
    job = {"kind": "restore", "status": "Failed", "failure": {"code": "restore.target-exists"}}
    assert exit_code(job) is ExitCode.JOB_FAILED
