"""How an attempt of the driver ends: killed, reset, superseded, disabled or uninstalled."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from driver_stand import RUN, DuringSnapshot, Stand
from guest_bench import Writer, wait_for
from loopback import Reply, Request, snapshot_taken

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

SLEEPS_UNLESS_QUICK = "test -e /run/notes.quick || { touch /run/notes.sleeps; sleep 60; }"


def test_a_driver_that_is_killed_while_frozen_is_thawed_by_the_watchdog(stand: Stand) -> None:
    notes = stand.bench.scripts()
    killed: list[float] = []

    def kill(request: Request) -> Reply:
        if "comp=snapshot" in request.target and not killed:
            os.kill(stand.driver()["pid"], signal.SIGKILL)
            killed.append(time.monotonic())
        return snapshot_taken(request)

    during = stand.answer = DuringSnapshot(stand.mount, kill)
    stand.begin(1, hold_seconds=3)
    wait_for("the snapshot", lambda: bool(killed))
    assert during.was_blocked
    assert during.writer is not None
    assert during.writer.released_at() - killed[0] < 15
    assert stand.handler.report(1)["stage"] == "freezing"
    stand.enable(1)  # the agent's next goal state
    report = stand.handler.await_stage(1, "failed")
    assert report["failure"]["code"] == "session.lost"
    assert notes.read_text() == "pre\npost\n"
    assert not [path for path in RUN.iterdir() if path.is_dir()]


def test_a_driver_killed_at_any_instant_is_repaired_by_the_next_goal_state(stand: Stand) -> None:
    notes = stand.bench.scripts()
    stages = set()
    stand.begin(1, hold_seconds=2)
    began = time.monotonic()
    stand.handler.await_stage(1, "done")
    whole_seconds = time.monotonic() - began  # on this machine, as busy as it is
    for sequence in range(2, 14):
        notes.write_text("")
        stand.begin(sequence, hold_seconds=2)
        time.sleep(whole_seconds * (sequence - 1) / 12)
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, ValueError):
            os.kill(stand.driver()["pid"], signal.SIGKILL)
        stages.add(stand.handler.report(sequence)["stage"])
        stand.enable(sequence)
        stand.handler.await_stage(sequence, "done", "failed")
        wait_for("the driver's end", lambda: not (RUN / f"attempt-{sequence}").exists())  # noqa: B023
        assert not Writer(stand.mount).blocked(5)
        assert notes.read_text() in ("", "pre\npost\n")
    print(f"killed at {sorted(stages)}")
    assert len(stages) >= 3, "the kills did not fall into different stages"


def test_the_other_agents_session_ends_an_attempt_that_was_given_up(stand: Stand) -> None:
    """The server goes over to the host route while the guest is still at the first one."""
    notes = stand.bench.scripts(pre=SLEEPS_UNLESS_QUICK)
    stand.begin(1)
    wait_for("the pre-script", notes.with_suffix(".sleeps").exists)
    notes.with_suffix(".quick").touch()
    session = stand.bench.session(stand.mount)
    session.frozen()
    session.say("finish")
    session.await_state("done")
    notes.with_suffix(".quick").unlink()
    notes.with_suffix(".sleeps").unlink()
    assert notes.read_text() == "pre\npost\n" * 2
    assert stand.handler.report(1)["failure"]["code"] == "job.superseded"


def test_an_attempt_is_begun_once(stand: Stand) -> None:
    stand.begin(1)
    first = stand.handler.await_stage(1, "done")
    wait_for("the report", lambda: stand.reported("attempt-1") is not None)
    seen = len(stand.storage.requests)
    stand.enable(1)
    stand.enable(1)
    assert stand.handler.report(1) == first
    assert len(stand.storage.requests) == seen


def test_an_attempt_is_not_begun_again_after_the_guest_was_reset(stand: Stand) -> None:
    """What lies on the disk survives; the session's and the driver's files do not."""
    notes = stand.bench.scripts(pre="sleep 60")
    stand.begin(1)
    wait_for("the pre-script", lambda: notes.read_text() == "pre\n")
    session = RUN / "attempt-1"
    script, _, _ = (session / "pre-script").read_text().partition(" ")
    for pid in stand.driver()["pid"], (session / "session").read_text(), script:
        os.kill(int(pid), signal.SIGKILL)
    shutil.rmtree(RUN)
    stand.enable(1)
    report = stand.handler.await_stage(1, "failed")
    assert report["failure"]["code"] == "session.lost"
    assert stand.storage.snapshots == []


def test_a_newer_attempt_ends_the_one_that_runs(stand: Stand) -> None:
    notes = stand.bench.scripts(pre=SLEEPS_UNLESS_QUICK)
    stand.begin(1)
    wait_for("the pre-script", notes.with_suffix(".sleeps").exists)
    notes.with_suffix(".quick").touch()
    stand.begin(2)
    assert stand.handler.await_stage(2, "done", "failed")["failure"] is None
    assert stand.handler.report(1)["failure"]["code"] == "job.superseded"
    notes.with_suffix(".quick").unlink()
    notes.with_suffix(".sleeps").unlink()


def test_idle_ends_the_attempt_that_runs_and_its_freeze(stand: Stand) -> None:
    notes = stand.bench.scripts()
    held, released = threading.Event(), threading.Event()

    def hang(request: Request) -> Reply:
        if "comp=snapshot" in request.target:
            held.set()
            released.wait(30)
        return snapshot_taken(request)

    stand.answer = hang
    stand.begin(1, hold_seconds=20)
    assert held.wait(20)
    writer = Writer(stand.mount)
    assert writer.blocked()
    stand.handler.settings(2, {"command": "idle"})
    stand.enable(2)
    stand.handler.await_stage(2, "done")
    assert not writer.blocked(5)
    released.set()
    assert stand.handler.report(1)["failure"]["code"] == "job.superseded"
    assert notes.read_text() == "pre\npost\n"


def test_disable_ends_a_running_attempt_before_it_returns(stand: Stand) -> None:
    notes = stand.bench.scripts(pre="sleep 60")
    stand.begin(1)
    wait_for("the pre-script", lambda: notes.read_text() == "pre\n")
    assert stand.handler.call("disable").returncode == 0
    assert notes.read_text() == "pre\npost\n"
    assert stand.handler.report(1)["failure"]["code"] == "job.superseded"
    assert not [path for path in RUN.iterdir() if path.is_dir()]


def test_uninstall_leaves_nothing_outside_the_package(stand: Stand) -> None:
    stand.begin(1)
    stand.handler.await_stage(1, "done")
    wait_for("the report", lambda: stand.reported("attempt-1") is not None)
    assert stand.handler.call("disable").returncode == 0
    assert stand.handler.call("uninstall").returncode == 0
    assert not RUN.exists()
    assert not Path("/var/log/quiesce").exists()


def test_uninstall_leaves_the_other_agents_session_alone(stand: Stand) -> None:
    session = stand.bench.session(stand.mount)
    session.frozen()
    assert stand.handler.call("disable").returncode == 0
    assert stand.handler.call("uninstall").returncode == 0
    assert Writer(stand.mount).blocked()
    session.say("finish")
    assert session.await_state("done")["freeze"]["held"] is True
