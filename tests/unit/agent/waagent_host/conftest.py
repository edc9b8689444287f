"""A host and two VMs, none of which has asked yet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from waagent_scene import MAIL, WEB, Neighbours, Scene

from quiesce.agent.waagent.host import AgentHost
from quiesce.agent.waagent.settings import Command, Settings


@pytest.fixture
def scene() -> Scene:
    return Scene(neighbours=Neighbours(web=WEB, mail=MAIL))


@pytest.fixture
def host(scene: Scene) -> Iterator[AgentHost]:
    """It asks both VMs for a network test."""
    with scene.running() as running:
        for vm in ("web", "mail"):
            attempt = f"{vm}-attempt"
            door = scene.doors.open(vm, attempt, [], take=None, reported=None)  # type: ignore[arg-type]
            settings = Settings(Command.PROBE, attempt=attempt, door=door, task="t")
            running._agent(vm).ask(running.offered_version, settings)
        yield running
