"""Nothing of an attempt goes on once the server has withdrawn it, whoever was killed when."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from driver_stand import RUN, Stand
from guest_bench import Writer, run, wait_for
from loopback import Reply, Request, snapshot_taken

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def kill_while_frozen(stand: Stand, *who: str, hold_seconds: float) -> None:
    """Begin attempt-1; when it asks for the snapshot, kill its driver and these of its session."""
    killed: list[float] = []

    def kill(request: Request) -> Reply:
        if "comp=snapshot" in request.target and not killed:
            session = [int((RUN / "attempt-1" / name).read_text()) for name in who]
            for number in (signal.SIGSTOP, signal.SIGKILL):  # none sees another die, and thaws
                for pid in [stand.driver()["pid"], *session]:
                    os.kill(pid, number)
            killed.append(time.monotonic())
        return snapshot_taken(request)

    stand.answer = kill
    stand.begin(1, hold_seconds=hold_seconds)
    wait_for("the snapshot", lambda: bool(killed))


def idle(stand: Stand, sequence: int, then: Callable[[], None] = lambda: None) -> None:
    """`then` is done when no driver lives any more, and before what was left has been closed."""
    stand.handler.settings(sequence, {"command": "idle"})
    stand.enable(sequence)
    then()
    stand.handler.await_stage(sequence, "done")


@pytest.mark.parametrize("by", ["idle", "disable", "uninstall"])
def test_what_was_left_frozen_by_three_kills_is_thawed_by(stand: Stand, by: str) -> None:
    notes = stand.bench.scripts()
    kill_while_frozen(stand, "session", "watchdog", hold_seconds=2)
    time.sleep(2.5)
    assert Writer(stand.mount).blocked(0.5), "somebody lives who thaws"
    if by == "idle":
        idle(stand, 2)
    else:
        assert stand.handler.call(by).returncode == 0
    assert not Writer(stand.mount).blocked(5)
    assert notes.read_text() == "pre\npost\n"
    report = stand.handler.report(1)
    assert (report["stage"], report["failure"]["code"]) == ("failed", "session.lost")


def test_idle_is_done_only_when_nothing_is_frozen(stand: Stand) -> None:
    kill_while_frozen(stand, hold_seconds=30)
    began = time.monotonic()
    idle(stand, 2)
    assert not Writer(stand.mount).blocked(5)
    assert time.monotonic() - began < 20, "it only waited for the hold's end"


def test_disable_ends_the_pre_script_of_an_attempt_whose_driver_was_killed(stand: Stand) -> None:
    notes = stand.bench.scripts(pre="sleep 60")
    stand.begin(1)
    wait_for("the pre-script", lambda: notes.read_text() == "pre\n")
    os.kill(stand.driver()["pid"], signal.SIGKILL)
    assert stand.handler.call("disable").returncode == 0
    assert not (RUN / "attempt-1").exists()
    assert notes.read_text() == "pre\npost\n"


def test_uninstall_leaves_nothing_of_an_attempt_whose_driver_was_killed(stand: Stand) -> None:
    notes = stand.bench.scripts(pre="sleep 60")
    stand.begin(1)
    wait_for("the pre-script", lambda: notes.read_text() == "pre\n")
    os.kill(stand.driver()["pid"], signal.SIGKILL)
    assert stand.handler.call("uninstall").returncode == 0
    assert not RUN.exists()
    assert not Path("/var/log/quiesce").exists()


def begin_one_that_waits(stand: Stand) -> tuple[Path, Callable[[], None]]:
    """attempt-2 has been begun and waits for the end of attempt-1's post-script, which goes on
    until the second value is called. The first is what the scripts have noted."""
    goes_on = Path("/run/notes.goes-on")
    goes_on.touch()
    notes = stand.bench.scripts(post=f"while [ -e {goes_on} ]; do sleep 0.1; done")
    stand.begin(1)
    wait_for("the post-script", lambda: "post" in notes.read_text())
    stand.begin(2)
    assert stand.driver()["attempt"] == "attempt-2"
    assert notes.read_text() == "pre\npost\n"
    return notes, goes_on.unlink


def test_idle_ends_an_attempt_that_waits_for_the_end_of_an_older_one(stand: Stand) -> None:
    notes, end_post_script = begin_one_that_waits(stand)
    asked = len(stand.storage.snapshots)
    idle(stand, 3, then=end_post_script)
    assert stand.handler.report(2)["failure"]["code"] == "job.superseded"
    time.sleep(3)
    assert stand.handler.call("disable").returncode == 0
    assert notes.read_text() == "pre\npost\n", "the withdrawn attempt ran its scripts"
    assert len(stand.storage.snapshots) == asked
    assert not [path for path in RUN.iterdir() if path.is_dir()]


def test_an_attempt_that_waits_for_an_older_one_is_not_taken_for_lost(stand: Stand) -> None:
    _, end_post_script = begin_one_that_waits(stand)
    stand.enable(2)  # the agent's next goal state
    assert stand.handler.report(2)["stage"] == "preparing"
    end_post_script()
    report = stand.handler.await_stage(2, "done", "failed")
    assert report["failure"] is None


def test_the_older_attempt_is_ended_although_the_one_that_waited_for_it_was_killed(
    stand: Stand,
) -> None:
    _, end_post_script = begin_one_that_waits(stand)
    os.kill(stand.driver()["pid"], signal.SIGKILL)
    idle(stand, 3, then=end_post_script)
    assert not [path for path in RUN.iterdir() if path.is_dir()]
    assert stand.handler.report(2)["failure"]["code"] == "session.lost"


def test_idle_says_why_an_attempt_could_not_be_ended(stand: Stand) -> None:
    kill_while_frozen(stand, "session", "watchdog", hold_seconds=2)
    ledger = RUN / "attempt-1" / "ledger"
    ledger.write_bytes(b"not a ledger")
    stand.handler.settings(2, {"command": "idle"})
    stand.enable(2)
    report = stand.handler.await_stage(2, "done", "failed")
    assert report["failure"] is not None
    log = Path("/var/log/quiesce/extension.log")
    wait_for("the log, which is written last", lambda: "idle: " in log.read_text())
    run("fsfreeze", "--unfreeze", stand.mount)
    shutil.rmtree(RUN / "attempt-1")


def test_a_post_script_goes_on_when_the_agent_ends_the_command_that_began_it(stand: Stand) -> None:
    """The agent ends a command with its process group after 300 s, 900 s for `disable`."""
    notes = stand.bench.scripts(post="sleep 3; echo ended >> /run/notes")
    kill_while_frozen(stand, "session", "watchdog", hold_seconds=2)
    group = stand.handler.begin("disable")
    wait_for("the post-script", lambda: "post" in notes.read_text())
    os.killpg(group, signal.SIGKILL)
    assert stand.handler.call("disable").returncode == 0
    assert notes.read_text() == "pre\npost\nended\n"
    assert not (RUN / "attempt-1").exists()


def test_a_full_run_folder_is_reported_and_nothing_is_begun(stand: Stand) -> None:
    notes = stand.bench.scripts()
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(mode=0o700)
    run("mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=40,mode=0700", "tmpfs", RUN)
    try:
        (RUN / "filler").write_bytes(b"x" * 4096)
        stand.begin(1)
        report = stand.handler.await_stage(1, "failed")
        assert report["failure"]["code"] == "agent.disk-full"
        assert "/run/quiesce" in report["failure"]["evidence"][0]["fact"]
        wait_for("the report", lambda: stand.reported("attempt-1") is not None)
        assert notes.read_text() == ""
    finally:
        run("umount", "-l", RUN)


def test_a_disk_that_is_not_answered_for_after_the_thaw_is_a_warning(stand: Stand) -> None:
    def refuse_the_second(request: Request) -> Reply:
        if "/disks/vdb" in request.target:
            return Reply(hang_up=True)
        return snapshot_taken(request)

    stand.answer = refuse_the_second
    stand.begin(1)
    report = stand.handler.await_stage(1, "done", "failed")
    assert (report["stage"], report["failure"]) == ("done", None)
    (warning,) = report["session"]["warnings"]
    assert "vdb" in warning
    assert "network.connection-lost" in warning
    assert "/disks/" not in warning, "an address of the storage endpoint's is a secret"


def test_an_attempt_that_cannot_be_begun_says_why(stand: Stand) -> None:
    RUN.mkdir(mode=0o700, exist_ok=True)
    with (RUN / "driver").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # somebody who does not say who it is
        stand.begin(1)
        report = stand.handler.await_stage(1, "done", "failed")
    assert report["failure"]["code"] == "session.active"
    assert report["failure"]["remedy"] == "", "the server's catalogue knows better"
    assert stand.storage.snapshots == []
