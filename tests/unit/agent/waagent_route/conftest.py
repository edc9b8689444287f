"""A host that waits for moments only."""

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
        grace=0.4, poll=0.6, first_report=0.5, handler=0.8, silence=60, stage=0.4, slack=0.2
    ) as running:
        running._agent("web")._intervals.extend([0.05] * 9)
        yield running
