"""Several images into one file system: looked at before the first is written."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from quiesce.block.room import require_room
from quiesce.model.failure import RestoreFailure

MIB = 1 << 20


@pytest.fixture
def ten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in a file system with 10 MiB free."""
    figures = SimpleNamespace(f_bavail=10, f_frsize=MIB)
    monkeypatch.setattr(os, "statvfs", lambda folder: figures)
    return tmp_path


def test_two_disks_that_fit_one_by_one_must_fit_together(ten: Path) -> None:
    for size in (6, 5, 10):
        require_room([(ten / "sda.img", size * MIB)])
    require_room([(ten / "sda.img", 6 * MIB), (ten / "sdb.img", 4 * MIB)])
    with pytest.raises(RestoreFailure) as caught:
        require_room([(ten / "sda.img", 6 * MIB), (ten / "sdb.img", 5 * MIB)])
    assert caught.value.code == "restore.no-space"
    assert f"{10 * MIB} bytes free, {11 * MIB} needed" in caught.value.evidence[0].fact


def test_a_replaced_image_makes_room_for_the_next_and_not_for_its_own(ten: Path) -> None:
    (ten / "sda.img").write_bytes(os.urandom(4 * MIB))
    require_room([(ten / "sda.img", 8 * MIB), (ten / "sdb.img", 6 * MIB)])
    with pytest.raises(RestoreFailure):
        require_room([(ten / "sdb.img", 6 * MIB), (ten / "sda.img", 8 * MIB)])
    with pytest.raises(RestoreFailure):
        require_room([(ten / "sda.img", 12 * MIB)])


def test_an_image_with_a_second_name_makes_no_room(ten: Path) -> None:
    (ten / "sda.img").write_bytes(os.urandom(4 * MIB))
    (ten / "kept").hardlink_to(ten / "sda.img")
    with pytest.raises(RestoreFailure):
        require_room([(ten / "sda.img", 8 * MIB), (ten / "sdb.img", 6 * MIB)])


def test_a_folder_that_is_not_there_is_told_of(ten: Path) -> None:
    with pytest.raises(RestoreFailure) as caught:
        require_room([(ten / "missing" / "sda.img", 0)])
    assert caught.value.code == "restore.target-not-writable"
