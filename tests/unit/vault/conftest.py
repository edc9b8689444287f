from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_scene import CLOUDS, Clouds, Place, clouds_of_run, place_in
from vault_scene import FakeClock, Scene

from quiesce.vault import LocalStore


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def scene(tmp_path: Path, clock: FakeClock) -> Scene:
    return Scene.create(LocalStore.create(tmp_path / "vault"), clock)


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
