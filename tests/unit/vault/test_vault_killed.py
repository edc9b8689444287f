"""A vault in a folder whose process is killed for real, and whose machine loses power. All works
are in `make vault-proof`."""

from __future__ import annotations

from pathlib import Path

import pytest
from kill_sweep import kill_sweep
from power_sweep import power_sweep
from sweep_works import WORKS_IN_A_FOLDER

from quiesce.vault.stores import local

WORKS = {work.name: work for work in WORKS_IN_A_FOLDER}


def test_a_backup_killed_at_any_system_call_loses_nothing_and_leaves_no_file(
    tmp_path: Path,
) -> None:
    covered = kill_sweep(WORKS["increment"], tmp_path)
    print(covered)
    assert covered.losses == []
    assert covered.outcomes["killed"] >= 20
    assert covered.outcomes["killed halfway"] >= 4


def test_a_deletion_without_power_at_any_moment_is_done_or_not(tmp_path: Path) -> None:
    covered = power_sweep(WORKS["deletion of a point"], tmp_path, parts=1)
    print(covered)
    assert covered.losses == []
    assert covered.points >= 15


def test_a_store_that_synced_no_folder_would_lose_what_it_said_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep sees what it is there to see."""
    monkeypatch.setattr(local, "sync_folder", lambda path: None)
    covered = power_sweep(WORKS["full backup"], tmp_path, parts=0, only_after_the_end=True)
    assert any("lost: ['big']" in loss for loss in covered.losses)
