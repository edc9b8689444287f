"""Folders on file systems that say or refuse what others do not."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from paper_store import PaperStore
from vault_scene import FakeClock, Scene, disk_of

from quiesce.model.failure import Failure
from quiesce.vault import LocalStore
from quiesce.vault.contents.contents import utc_now
from quiesce.vault.copy.copying import execute_copy, plan_copy
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


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As vfat answers."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(Failure) as caught:
        work()
    return caught.value.code


@pytest.mark.usefixtures("no_links")
def test_where_no_links_can_be_made_there_is_no_vault_and_nothing_is_left(tmp_path: Path) -> None:
    assert code_of(lambda: LocalStore.create(tmp_path / "vault")) == "storage.links-unsupported"
    assert list((tmp_path / "vault").iterdir()) == []


def test_a_vault_that_was_carried_to_such_a_place_reads_and_copies_and_says_why_no_more(
    scene: Scene, request: pytest.FixtureRequest, clock: FakeClock
) -> None:
    point = scene.backup("job", DISK)
    request.getfixturevalue("no_links")
    there = scene.reopened()
    assert there.restore(point) == DISK
    assert code_of(lambda: there.backup("next", DISK)) == "storage.links-unsupported"
    assert list((scene.folder / "tmp").iterdir()) == []
    target = PaperStore(clock)
    plan = plan_copy(there.store, target, keys=there.vault.contents.keys, clock=clock)
    execute_copy(plan, clock=clock)
    assert Scene.at(target, clock).restore(point) == DISK


def test_a_folder_that_takes_no_new_file_is_not_blamed_on_its_file_system(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def link(source: Path, target: Path) -> None:
        if "sessions" in str(target):  # as chattr +i has it
            raise OSError(errno.EPERM, "Operation not permitted")
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    assert code_of(lambda: scene.backup("job", DISK)) == "storage.denied"
