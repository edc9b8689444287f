"""The extension freezes and thaws real file systems, and thaws them whatever happens."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from guest_bench import Bench, Writer, freeze, run, thaw, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


PYTHONS = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3")) or [Path(sys.executable)]


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: path.parts[-3])
def test_a_killed_session_is_thawed_and_ended_on(bench: Bench, python: Path) -> None:
    bench.python = str(python)
    notes = bench.scripts()
    mount = bench.mount()
    session = bench.session(mount)
    assert not session.frozen()["warnings"]
    writer = Writer(mount)
    assert writer.blocked()
    session.kill(session.pid)
    assert not writer.blocked(5)
    assert session.await_state("failed")["failure"]["code"] == "session.lost"
    assert notes.read_text() == "pre\npost\n"


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_freeze_holds_writers_up_and_the_thaw_lets_them_go(bench: Bench, kind: str) -> None:
    mount = bench.mount(kind)
    session = bench.session(mount)
    session.frozen()
    writer = Writer(mount)
    assert writer.blocked()
    session.say("thaw")
    report = session.await_state("thawed")["freeze"]
    assert not writer.blocked(5)
    assert report["held"] is True
    assert report["thawed_by"] == "request"
    (one,) = report["mounts"]
    assert one["mount"] == str(mount)
    assert one["frozen_ms"] >= 300
    assert 0 < one["freeze_ms"] < one["frozen_ms"]
    session.say("finish")
    assert session.await_state("done")["failure"] is None
    session.recover()
    assert not session.folder.exists()


def test_the_watchdog_thaws_at_the_deadline_when_nobody_says_thaw(bench: Bench) -> None:
    mount = bench.mount()
    session = bench.session(mount, hold=1.5)
    session.frozen()
    report = session.await_state("thawed")["freeze"]
    assert report["held"] is False
    assert report["thawed_by"] == "watchdog"
    assert 1400 <= report["mounts"][0]["frozen_ms"] < 10_000
    assert not Writer(mount).blocked(5)


def test_the_watchdog_thaws_at_the_deadline_when_the_session_is_stopped(bench: Bench) -> None:
    mount = bench.mount()
    session = bench.session(mount, hold=1.5)
    session.frozen()
    session.kill(session.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    released = Writer(mount).released_at()
    assert released - stopped < 10
    session.say("thaw")  # a host that comes too late learns that the freeze was not held
    session.kill(session.pid, signal.SIGCONT)
    assert session.await_state("thawed")["freeze"]["held"] is False


def test_twenty_killed_sessions_leave_nothing_frozen_and_are_thawed_at_once(
    bench: Bench, record_property: pytest.Function
) -> None:
    mount = bench.mount()
    notes = bench.scripts()
    latest = 0.0
    for _ in range(20):
        notes.write_text("")
        session = bench.session(mount, hold=30)
        session.frozen()
        writer = Writer(mount)
        assert writer.blocked(0.05)
        killed = time.monotonic()
        session.kill(session.pid)
        latest = max(latest, writer.released_at() - killed)
        state = session.await_state("failed")
        assert state["failure"]["code"] == "session.lost"
        assert state["freeze"]["held"] is False
        assert notes.read_text() == "pre\npost\n"
        session.recover()
    record_property("worst_thaw_lateness_seconds", round(latest, 4))
    print(f"worst thaw after SIGKILL of the session: {latest * 1000:.1f} ms")
    assert latest < 15, "only the hold's end thawed it"


def test_recovery_thaws_when_session_and_watchdog_were_both_killed(bench: Bench) -> None:
    mount = bench.mount()
    notes = bench.scripts()
    session = bench.session(mount)
    session.frozen()
    writer = Writer(mount)
    session.kill(session.watchdog, signal.SIGSTOP)  # so that it cannot see the session's death
    session.kill(session.pid)
    session.kill(session.watchdog)
    assert writer.blocked()
    answer = session.recover()
    assert answer["thawed"] == [str(mount)]
    assert not writer.blocked(5)
    assert notes.read_text() == "pre\npost\n"
    assert session.recover()["found"] is False


def test_a_dead_watchdog_ends_the_freeze_at_once(bench: Bench) -> None:
    mount = bench.mount()
    session = bench.session(mount)
    session.frozen()
    session.kill(session.watchdog)
    state = session.await_state("failed")
    assert state["failure"]["code"] == "freeze.watchdog-lost"
    assert not Writer(mount).blocked(5)


def test_a_stopped_watchdog_is_replaced_by_the_session(bench: Bench) -> None:
    mount = bench.mount()
    session = bench.session(mount, hold=1.0)
    session.frozen()
    session.kill(session.watchdog, signal.SIGSTOP)
    assert session.await_state("thawed")["freeze"]["thawed_by"] == "watchdog"
    assert not Writer(mount).blocked(5)
    session.kill(session.watchdog, signal.SIGCONT)


@pytest.mark.parametrize("victim", ["session", "watchdog"])
def test_a_signal_to_end_thaws_first(bench: Bench, victim: str) -> None:
    mount = bench.mount()
    session = bench.session(mount)
    session.frozen()
    session.kill(session.pid if victim == "session" else session.watchdog, signal.SIGTERM)
    state = session.await_state("failed")
    assert state["failure"]["code"] == "session.terminated"
    assert state["freeze"]["thawed_by"] == "signal"
    assert not Writer(mount).blocked(5)


def test_somebody_elses_freeze_is_busy_and_stays(bench: Bench) -> None:
    theirs, ours = bench.mount(), bench.mount()
    freeze(theirs)
    session = bench.session(theirs, ours)
    session.await_state("ready")
    session.say("freeze")
    state = session.await_state("failed")
    assert state["failure"]["code"] == "freeze.busy"
    assert str(theirs) in state["failure"]["message"]
    writer = Writer(theirs)
    assert writer.blocked(), "the other's freeze was thawed"
    assert not Writer(ours).blocked(5)
    thaw(theirs)
    assert not writer.blocked(5)


def test_a_freeze_that_somebody_else_thawed_is_not_held(bench: Bench) -> None:
    mount = bench.mount()
    session = bench.session(mount)
    session.frozen()
    thaw(mount)
    session.say("thaw")
    state = session.await_state("thawed")
    assert state["freeze"]["held"] is False
    assert any("Somebody else thawed" in warning for warning in state["warnings"])


def test_a_file_system_in_a_loop_file_is_frozen_before_the_one_that_holds_it(
    bench: Bench,
) -> None:
    outer = bench.mount("xfs")
    inner = bench.mount("ext4", inside=outer)
    (inner / "dirty").write_bytes(os.urandom(4 << 20))
    session = bench.session(outer, inner)
    state = session.frozen()
    order = [one["mount"] for one in state["mounts"] if one["action"] == "freeze"]
    assert order == [str(inner), str(outer)]
    writers = Writer(inner), Writer(outer)
    assert all(writer.blocked() for writer in writers)
    session.say("thaw")
    assert session.await_state("thawed")["freeze"]["held"] is True
    assert not any(writer.blocked(5) for writer in writers)


def test_a_freeze_that_blocks_is_given_up_and_thawed_when_it_succeeds_late(bench: Bench) -> None:
    """The loop's file lies on a file system that somebody else froze: its freeze cannot end."""
    outer = bench.mount("ext4")
    inner = bench.mount("ext4", inside=outer)
    other = bench.mount("ext4")
    session = bench.session(inner, other, hold=2.0)
    plan = session.await_state("ready")["mounts"]
    run("sync", "-f", inner)
    freeze(outer)
    session.say("freeze")
    state = session.await_state("failed")
    assert state["failure"]["code"] == "freeze.timeout"
    assert str(inner) in state["failure"]["message"]
    assert sum(one["action"] == "freeze" for one in plan) == 2
    assert not Writer(other).blocked(5)
    thaw(outer)
    assert not Writer(inner).blocked(5)
    wait_for("the watchdog's end", lambda: session.recover()["found"] is False)
    assert not Writer(inner).blocked(5)


def test_a_bind_mount_is_frozen_once(bench: Bench) -> None:
    mount = bench.mount()
    (mount / "sub").mkdir()
    bind = bench.folder / "bind"
    bind.mkdir()
    run("mount", "--bind", mount / "sub", bind)
    session = bench.session(mount)
    state = session.frozen()
    twin = next(one for one in state["mounts"] if one["mount"] == str(bind))
    assert twin["action"] == "skip"
    assert twin["reason"] == f"the same file system as {mount}"
    assert twin["downgrades"] is False
    assert Writer(bind).blocked()
    session.say("thaw")
    assert session.await_state("thawed")["freeze"]["held"] is True
    run("umount", "-l", bind)


def test_a_mount_that_is_detached_between_plan_and_freeze_does_no_harm(bench: Bench) -> None:
    gone, stays = bench.mount(), bench.mount()
    session = bench.session(gone, stays)
    session.await_state("ready")
    run("umount", "-l", gone)
    session.say("freeze")
    session.await_state("frozen")
    assert Writer(stays).blocked()
    session.say("thaw")
    assert session.await_state("thawed")["freeze"]["held"] is True


def test_a_mount_with_a_hostile_name_is_frozen(bench: Bench) -> None:
    mount = bench.mount()
    bench.folder.joinpath("a b\n#\\").mkdir()
    hostile = bench.folder / "a b\n#\\"
    run("mount", "--move", mount, hostile)
    shown = str(bench.folder) + "/a b\\n#\\"
    session = bench.session(Path(shown))
    assert session.frozen()["mounts"][0]["mount"] == shown
    session.say("thaw")
    assert session.await_state("thawed")["freeze"]["held"] is True
    session.say("finish")
    session.await_state("done")
    run("umount", "-l", hostile)


def test_a_skipped_mount_goes_on_and_costs_consistency(bench: Bench) -> None:
    kept, skipped = bench.mount(), bench.mount()
    session = bench.session(kept, skipped, skip=(skipped,))
    state = session.frozen()
    assert not Writer(skipped).blocked(5)
    (one,) = [one for one in state["mounts"] if one["mount"] == str(skipped)]
    assert (one["action"], one["downgrades"]) == ("skip", True)


def test_a_second_session_is_refused_while_one_is_active(bench: Bench) -> None:
    mount = bench.mount()
    session = bench.session(mount)
    session.await_state("ready")
    answer = bench.extension("session", "--task", "other", "--hold", "5", "--only", "nothing")
    assert answer["failure"]["code"] == "session.active"
    assert session.task in str(answer["failure"]["evidence"])
    assert session.state()["state"] == "ready"


def test_nothing_is_left_running_after_a_session(bench: Bench) -> None:
    session = bench.session(bench.mount())
    session.frozen()
    pids = session.pid, session.watchdog
    session.say("finish")
    report = session.await_state("done")["freeze"]
    assert report["held"] is True
    wait_for("both processes' end", lambda: not any(_lives(pid) for pid in pids))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
