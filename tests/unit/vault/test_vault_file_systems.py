"""Folders on file systems that say or refuse what others do not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from vault_scene import Scene, disk_of

from quiesce.vault import LocalStore
from quiesce.vault.contents.contents import utc_now
from quiesce.vault.stores.store import EARLIEST, LATEST

DISK = disk_of(1, 2, 3)
TIMES = [-(1 << 40), 316_000_000_000, 253_402_300_000 - 3600]
"""A time long before 1970, in the year 11983, and in the last hour that a `datetime` can hold."""


@pytest.fixture
def in_memory() -> Iterator[Scene]:
    """On tmpfs, whose times have 64 bits."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Scene.create(LocalStore.create(Path(folder) / "vault"), utc_now)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", TIMES)
@pytest.mark.parametrize("folder", ["packs", "index", "points", "deleted", "garbage", "keys"])
def test_a_file_may_have_any_time(in_memory: Scene, folder: str, seconds: int) -> None:
    scene = in_memory
    kept = scene.backup("kept", DISK)
    scene.delete(scene.backup("gone", disk_of(4, 5), vm="mail"))
    scene.vault.contents.records.put_marks([bytes(32)], utc_now())
    for path in (scene.folder / folder).rglob("*"):
        if path.is_file():
            os.utime(path, (seconds, seconds))
    times = {info.modified_at for info in scene.store.list(f"{folder}/")}
    assert times <= {EARLIEST, LATEST}
    assert times
    assert scene.reopened().restore(kept) == DISK
    assert scene.reopened().vault.verify("chunks").intact
    scene.reopened().vault.collect(scene.reopened().vault.plan_collect())
    assert scene.reopened().restore(kept) == DISK
