from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_agent import ScriptedAgent, ScriptedGuest
from scripted_windows import Windows

from quiesce.agent.qga import QemuGuestAgent


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for unix sockets, wherever pytest keeps its own folders."""
    with tempfile.TemporaryDirectory(prefix="qa-") as name:
        yield Path(name)


@pytest.fixture
def peer(folder: Path) -> Iterator[ScriptedAgent]:
    agent = ScriptedAgent(folder / "qga.sock")
    yield agent
    agent.close()


@pytest.fixture
def agent(peer: ScriptedAgent) -> Iterator[QemuGuestAgent]:
    client = QemuGuestAgent(peer.path)
    yield client
    client.disconnect()


@pytest.fixture
def guest_peer(folder: Path) -> Iterator[ScriptedGuest]:
    guest = ScriptedGuest(folder / "guest.sock")
    yield guest
    guest.close()


@pytest.fixture
def inside(guest_peer: ScriptedGuest) -> Windows:
    return Windows(guest_peer)
