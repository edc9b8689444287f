from __future__ import annotations

from pathlib import Path

import pytest
from vault_scene import FakeClock, Scene

from quiesce.vault import LocalStore


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def scene(tmp_path: Path, clock: FakeClock) -> Scene:
    return Scene.create(LocalStore.create(tmp_path / "vault"), clock)
