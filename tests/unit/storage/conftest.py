from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from storage_site import Site, running

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("storage", deadline=None)
settings.load_profile("storage")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running(tmp_path / "storage") as site:
        yield site
