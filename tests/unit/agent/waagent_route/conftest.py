"""A host that waits for moments only; for an agent's first request longer, which most tests are
to see."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from waagent_scene import Scene

from quiesce.agent.waagent.host import AgentHost


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def host(scene: Scene) -> Iterator[AgentHost]:
    with scene.running(
        grace=3, poll=1, first_report=1, handler=1.5, silence=60, stage=1, slack=0.2
    ) as running:
        running._agent("web")._intervals.extend([0.05] * 9)
        yield running
