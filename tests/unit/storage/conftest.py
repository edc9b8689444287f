from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from storage_site import Site, running


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running(tmp_path / "storage") as site:
        yield site
