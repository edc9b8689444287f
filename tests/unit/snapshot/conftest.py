"""A stage for recorded parts."""

from __future__ import annotations

import pytest
from recorded_parts import Stage


@pytest.fixture
def stage() -> Stage:
    return Stage()
