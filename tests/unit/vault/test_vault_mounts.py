"""A vault on a real small file system that fills up, turns read-only, and vanishes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dated_store import DatedStore
from vault_scene import FakeClock, Scene, disk_of

from quiesce.model.failure import Failure
from quiesce.vault import LocalStore


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    image, folder = tmp_path / "image", tmp_path / "mount"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    yield folder
    if os.path.ismount(folder):
        subprocess.run(["umount", folder], check=True)


@pytest.mark.root
def test_full_read_only_and_vanished_are_told_apart_and_cost_no_point(
    mount: Path, clock: FakeClock
) -> None:
    scene = Scene.create(LocalStore.create(mount / "vault"), clock)
    point = scene.backup("one", disk_of(1, 2, 3))

    def code_of_backup(job: str, disk: bytes) -> tuple[str, str]:
        with pytest.raises(Failure) as caught:
            scene.backup(job, disk)
        return caught.value.code, caught.value.evidence[0].fact.split()[0]

    assert code_of_backup("big", disk_of(*range(10, 700))) == ("storage.full", "ENOSPC")
    assert os.listdir(mount / "vault" / "tmp") == []
    assert scene.reopened().vault.points() == (point,)
    subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
    assert code_of_backup("late", disk_of(5)) == ("storage.read-only", "EROFS")
    assert scene.reopened().restore(point) == disk_of(1, 2, 3)
    subprocess.run(["umount", mount], check=True)
    assert code_of_backup("later", disk_of(5))[0] == "storage.vanished"
    assert list(mount.iterdir()) == []


@pytest.mark.root
def test_a_vault_without_a_free_byte_makes_room_for_itself(mount: Path, clock: FakeClock) -> None:
    scene = Scene.create(DatedStore(LocalStore.create(mount / "vault"), clock), clock)
    kept = scene.backup("one", disk_of(1, 2, 3))
    gone = scene.backup("two", disk_of(*range(10, 100)))
    with pytest.raises(Failure):
        scene.backup("big", disk_of(*range(200, 700)))
    fill(mount / "somebody-else")
    with pytest.raises(OSError, match="No space left"):
        (mount / "one-byte").write_bytes(b"x")

    scene.delete(gone)
    fill(mount / "somebody-else-again")
    scene.collect_fully()

    assert scene.reopened().vault.points() == (kept,)
    assert scene.reopened().restore(kept) == disk_of(1, 2, 3)
    assert len(scene.packs()) == 1
    assert os.statvfs(mount).f_bavail * 4096 > 8 * 1024 * 1024
    scene.backup("three", disk_of(*range(300, 340)))


def fill(path: Path) -> None:
    """Take every block of the file system, as root may."""
    with path.open("wb", buffering=0) as file:
        for piece in (1024 * 1024, 4096, 1):
            try:
                while True:
                    file.write(b"x" * piece)
                    os.fsync(file.fileno())
            except OSError:
                continue
