from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_scene import CLOUDS, Clouds, Place, clouds_of_run, place_in
from copy_scene import CopyScene
from dated_store import DatedStore
from paper_bucket import PaperBucket, host_of
from paper_store import PaperStore
from repack_scene import KEPT, OLD
from small_vault import MAIL, WEB, small_packs, small_scene
from vault_scene import FakeClock, Scene

from quiesce.vault import LocalStore
from quiesce.vault.stores.locking import LockingStore


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def paper(clock: FakeClock) -> PaperStore:
    return PaperStore(clock)


@pytest.fixture
def scene(tmp_path: Path, clock: FakeClock) -> Scene:
    return Scene.create(DatedStore(LocalStore.create(tmp_path / "vault"), clock), clock)


@pytest.fixture
def web_and_mail(paper: PaperStore, clock: FakeClock) -> Iterator[Scene]:
    """Two VMs and about a dozen packs."""
    with small_packs():
        scene = small_scene(paper, clock)
        scene.backup("web-1", WEB)
        scene.backup("mail-1", MAIL, vm="mail")
        yield scene.reopened()


@pytest.fixture
def mostly_dead(paper: PaperStore, clock: FakeClock) -> Iterator[Scene]:
    """A vault whose older packs hold two chunks that somebody needs, and many that nobody does."""
    with small_packs():
        scene = small_scene(paper, clock)
        old = scene.backup("old", OLD)
        scene.clock.advance(hours=4)
        scene.backup("kept", KEPT, vm="mail")
        scene.clock.advance(hours=4)
        scene.delete(old)
        scene.clock.advance(hours=4)
        yield scene.reopened()


@pytest.fixture
def copies(clock: FakeClock) -> CopyScene:
    return CopyScene(clock)


@pytest.fixture
def target(clock: FakeClock) -> PaperStore:
    """Where a copy goes."""
    return PaperStore(clock)


@pytest.fixture(scope="session")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clouds]:
    yield from clouds_of_run(tmp_path_factory.mktemp("clouds"))


@pytest.fixture(params=CLOUDS)
def cloud_place(
    request: pytest.FixtureRequest,
    clouds: Clouds,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    """A new bucket in each cloud."""
    return place_in(clouds.get(request.param), tmp_path, monkeypatch)


@pytest.fixture(params=("folder", *CLOUDS))
def place(
    request: pytest.FixtureRequest,
    clouds: Clouds,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    """A folder, and a new bucket in each cloud."""
    if request.param == "folder":
        return Place(str(tmp_path / "vault"), tmp_path / "cache")
    return place_in(clouds.get(request.param), tmp_path, monkeypatch)


@pytest.fixture
def bucket(clock: FakeClock) -> PaperBucket:
    return PaperBucket(clock)


@pytest.fixture
def host(bucket: PaperBucket, clock: FakeClock) -> LockingStore:
    return host_of(bucket, clock)
