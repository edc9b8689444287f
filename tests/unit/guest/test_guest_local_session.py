"""How the driver looks at its session."""

from __future__ import annotations

from pathlib import Path

import pytest

from quiesce.guest import folder, local_session
from quiesce.guest.folder import Folder, Lock
from quiesce.guest.local_session import LocalSession

POLL_SECONDS = 0.005
"""What decision 0008 promises."""


@pytest.mark.parametrize("waits_in", ["freezing", "frozen"])
def test_it_looks_every_five_milliseconds_while_writers_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits_in: str
) -> None:
    monkeypatch.setattr(folder, "RUN_FOLDER", str(tmp_path))
    theirs = Folder("task-1")
    theirs.make()
    theirs.write_state({"state": waits_in})
    alive = Lock(theirs.session)
    alive.take()
    alive.hold_for(4242)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 200:
            theirs.write_state({"state": "thawed"})

    monkeypatch.setattr(local_session.time, "sleep", sleep)
    LocalSession("task-1").wait(float("inf"), lambda now: now == "thawed")
    alive.release()
    assert len(slept) == 200
    assert max(slept) == POLL_SECONDS
