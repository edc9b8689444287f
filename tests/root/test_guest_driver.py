"""The driver takes a point by itself: it freezes, asks the storage endpoint once, and thaws."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
from driver_stand import RUN, SIGNATURE, DuringSnapshot, Stand
from guest_bench import Writer, run, wait_for
from loopback import Proxy, Reply, Request, refusal, snapshot_taken

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

PYTHONS = sorted(
    Path.home().glob(".pyenv/versions/3.*/bin/python3"),
    key=lambda path: [int(part) for part in path.parts[-3].split(".")],
) or [Path(sys.executable)]
OLDEST_AND_NEWEST = PYTHONS[:1] + PYTHONS[1:][-1:]


def test_the_snapshot_is_asked_for_while_writers_wait_and_they_go_on_after_it(
    stand: Stand,
) -> None:
    notes = stand.bench.scripts()
    during = stand.answer = DuringSnapshot(stand.mount)
    stand.order(1, "attempt-1")
    began = time.monotonic()
    stand.enable(1)
    assert time.monotonic() - began < 5
    report = stand.handler.await_stage(1, "done", "failed")
    assert report["failure"] is None
    assert during.was_blocked, "the mount was not frozen when the snapshot was asked for"
    assert during.writer is not None
    assert not during.writer.blocked(5)
    assert (report["attempt"], report["task"]) == ("attempt-1", "task-1")
    assert report["taken_at"] == "2026-01-31T12:00:00.0000000Z"
    freeze = report["session"]["freeze"]
    assert (freeze["held"], freeze["thawed_by"]) == (True, "request")
    assert report["session"]["state"] == "done"
    assert notes.read_text() == "pre\npost\n"
    assert stand.handler.file(1)["status"] == "success"
    disks = [one.target.partition("?")[0] for one in stand.storage.snapshots]
    assert disks == ["/disks/vda", "/disks/vdb"]
    (frozen,) = [one for one in freeze["mounts"] if one["mount"] == str(stand.mount)]
    print(f"frozen {frozen['frozen_ms']:.0f} ms, 300 ms of them in the endpoint's answer")
    assert not [path for path in RUN.iterdir() if path.is_dir()], "the session left its files"


def test_a_post_script_that_fails_does_not_undo_the_point(stand: Stand) -> None:
    stand.bench.scripts(post="exit 3", continueBackupOnFailure=False)
    stand.order(1, "attempt-1")
    stand.enable(1)
    report = stand.handler.await_stage(1, "done", "failed")
    assert (report["stage"], report["failure"]) == ("done", None)
    assert report["session"]["failure"]["code"] == "script.post-failed"
    assert report["session"]["freeze"]["held"] is True


@pytest.mark.parametrize("python", OLDEST_AND_NEWEST, ids=lambda path: path.parts[-3])
def test_the_handler_takes_a_point_on(stand: Stand, python: Path) -> None:
    stand.order(1, "attempt-1")
    path = f"{python.parent}:{os.environ['PATH']}"
    done = stand.handler.call("enable", 1, PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    report = stand.handler.await_stage(1, "done", "failed")
    assert report["failure"] is None
    assert report["session"]["freeze"]["held"] is True
    assert report["taken_at"]


def test_the_report_reaches_the_storage_endpoint_as_a_block_blob(stand: Stand) -> None:
    stand.order(1, "attempt-1")
    stand.enable(1)
    report = stand.handler.await_stage(1, "done")
    wait_for("the report", lambda: stand.reported("attempt-1") is not None)
    (blob,) = [one for one in stand.storage.requests if "/reports/" in one.target]
    assert blob.headers["x-ms-blob-type"] == "BlockBlob"
    assert json.loads(blob.body) == report
    (log,) = [one for one in stand.storage.requests if "/logs/" in one.target]
    assert b"snapshot taken" in log.body


def test_one_connection_carries_everything_from_the_freeze_to_the_report(stand: Stand) -> None:
    stand.order(1, "attempt-1")
    stand.enable(1)
    stand.handler.await_stage(1, "done")
    wait_for("the report", lambda: stand.reported("attempt-1") is not None)
    assert stand.storage.connections == 2, "one to try the way, one for the work"


def test_a_storage_endpoint_that_hangs_costs_three_quarters_of_the_hold(stand: Stand) -> None:
    released = threading.Event()

    def hang(request: Request) -> Reply:
        if "comp=snapshot" in request.target:
            released.wait(30)
        return snapshot_taken(request)

    during = stand.answer = DuringSnapshot(stand.mount, hang)
    stand.order(1, "attempt-1", hold_seconds=4)
    stand.enable(1)
    report = stand.handler.await_stage(1, "failed")
    released.set()
    assert during.was_blocked
    assert report["failure"]["code"] == "storage.no-answer"
    freeze = report["session"]["freeze"]
    assert freeze["thawed_by"] == "request", "the watchdog had to thaw"
    assert 2700 <= freeze["mounts"][0]["frozen_ms"] < 3500
    assert report["taken_at"] is None
    assert stand.handler.file(1)["status"] == "error"


def test_what_the_storage_endpoint_says_is_kept_whole(stand: Stand) -> None:
    words = "The snapshot count against this blob has been exceeded."
    stand.answer = lambda request: refusal(409, "SnapshotCountExceeded", words)
    notes = stand.bench.scripts()
    stand.order(1, "attempt-1")
    stand.enable(1)
    report = stand.handler.await_stage(1, "failed")
    assert report["failure"]["code"] == "storage.snapshot-limit"
    assert words in json.dumps(report["failure"]["evidence"])
    assert report["session"]["freeze"]["thawed_by"] == "request"
    assert notes.read_text() == "pre\npost\n"
    assert not Writer(stand.mount).blocked(5)


def test_nothing_is_frozen_and_no_script_runs_when_the_endpoint_is_out_of_reach(
    stand: Stand,
) -> None:
    notes = stand.bench.scripts()
    stand.order(1, "attempt-1")
    stand.storage.close()
    stand.enable(1)
    report = stand.handler.await_stage(1, "failed")
    assert report["failure"]["code"] == "network.connect-refused"
    assert report["session"] is None
    assert notes.read_text() == ""
    failed = [one["name"] for one in report["hops"] if one["ok"] is False]
    assert "tcp" in failed


def test_a_connection_that_breaks_during_the_freeze_is_made_again(stand: Stand) -> None:
    broken: list[Request] = []

    def break_once(request: Request) -> Reply:
        if "comp=snapshot" in request.target and not broken:
            broken.append(request)
            return Reply(hang_up=True)
        return snapshot_taken(request)

    stand.answer = break_once
    stand.order(1, "attempt-1")
    stand.enable(1)
    report = stand.handler.await_stage(1, "done", "failed")
    assert report["failure"] is None
    assert report["session"]["freeze"]["held"] is True
    assert broken


def test_a_driver_that_is_killed_while_frozen_is_thawed_by_the_watchdog(stand: Stand) -> None:
    notes = stand.bench.scripts()
    killed: list[float] = []

    def kill(request: Request) -> Reply:
        if "comp=snapshot" in request.target and not killed:
            os.kill(stand.driver()["pid"], signal.SIGKILL)
            killed.append(time.monotonic())
        return snapshot_taken(request)

    during = stand.answer = DuringSnapshot(stand.mount, kill)
    stand.order(1, "attempt-1", hold_seconds=3)
    stand.enable(1)
    wait_for("the snapshot", lambda: bool(killed))
    assert during.was_blocked
    assert during.writer is not None
    assert during.writer.released_at() - killed[0] < 3.5
    assert stand.handler.report(1)["stage"] == "freezing"
    stand.enable(1)  # the agent's next goal state
    report = stand.handler.await_stage(1, "failed")
    assert report["failure"]["code"] == "session.lost"
    assert notes.read_text() == "pre\npost\n"
    assert not [path for path in RUN.iterdir() if path.is_dir()]


def test_a_driver_killed_at_any_instant_is_repaired_by_the_next_goal_state(stand: Stand) -> None:
    notes = stand.bench.scripts()
    stages = set()
    for sequence in range(1, 13):
        notes.write_text("")
        stand.order(sequence, f"attempt-{sequence}", hold_seconds=2)
        stand.enable(sequence)
        time.sleep(0.06 * sequence)
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


def test_the_driver_works_through_a_proxy_with_a_password(stand: Stand) -> None:
    proxy = Proxy(account="backup:ProxySecret")
    url = f"http://backup:ProxySecret@127.0.0.1:{proxy.port}"
    stand.proxy = {"http": "", "https": url, "no_proxy": "10.0.0.0/8"}
    stand.order(1, "attempt-1")
    stand.enable(1)
    assert stand.handler.await_stage(1, "done", "failed")["failure"] is None
    wait_for("the report", lambda: stand.reported("attempt-1") is not None)
    assert proxy.asked == [f"CONNECT 127.0.0.1:{stand.storage.port} HTTP/1.1"] * 2
    log = Path("/var/log/quiesce/extension.log").read_text()
    assert "ProxySecret" not in log + stand.handler.everything_written()
    proxy.close()


def test_a_proxy_that_refuses_is_named_and_nothing_is_frozen(stand: Stand) -> None:
    proxy = Proxy(status=403)
    stand.proxy = {"https": f"http://127.0.0.1:{proxy.port}"}
    stand.order(1, "attempt-1")
    stand.enable(1)
    report = stand.handler.await_stage(1, "failed")
    assert report["failure"]["code"] == "network.proxy-denied"
    assert report["session"] is None
    assert any("does not allow" in one["fact"] for one in report["failure"]["evidence"])
    proxy.close()


def test_the_other_agents_session_ends_an_attempt_that_was_given_up(stand: Stand) -> None:
    """The server goes over to the host route while the guest is still at the first one."""
    notes = stand.bench.scripts(pre="test -e /run/notes.quick || sleep 60")
    stand.order(1, "attempt-1")
    stand.enable(1)
    wait_for("the pre-script", lambda: notes.read_text() == "pre\n")
    time.sleep(0.2)
    notes.with_suffix(".quick").touch()
    session = stand.bench.session(stand.mount)
    session.frozen()
    session.say("finish")
    session.await_state("done")
    notes.with_suffix(".quick").unlink()
    assert notes.read_text() == "pre\npost\n" * 2
    assert stand.handler.report(1)["failure"]["code"] == "job.superseded"


def test_the_probe_and_an_examination_can_be_asked_for(stand: Stand) -> None:
    stand.order(1, "attempt-1", command="probe")
    stand.enable(1)
    report = stand.handler.await_stage(1, "done", "failed")
    assert report["failure"] is None
    hops = {one["name"]: one for one in report["hops"]}
    assert (hops["tls"]["ok"], hops["http"]["ok"]) == (True, True)
    stand.order(2, "attempt-2", command="examine")
    stand.enable(2)
    stand.handler.await_stage(2, "done")
    blob = stand.reported("attempt-2")
    assert blob is not None, "the blob is there before the status file says that it is done"
    papers = json.loads(blob.body)["papers"]
    plain = zlib.decompress(base64.b64decode(papers["data"])).decode("utf-8", "replace")
    assert f"#{papers['token']} command processes 0\n" in plain
    assert " /var/log/quiesce/extension.log\n" in plain
    assert "papers" not in stand.handler.report(2)
    assert stand.storage.snapshots == []


def test_an_examination_comes_by_the_agent_when_the_storage_endpoint_is_out_of_reach(
    stand: Stand,
) -> None:
    stand.storage.close()
    stand.order(1, "attempt-1", command="examine")
    stand.enable(1)
    papers = stand.handler.await_stage(1, "done")["papers"]
    plain = zlib.decompress(base64.b64decode(papers["data"])).decode("utf-8", "replace")
    assert f"\n#{papers['token']} end " in plain


def test_nothing_but_what_is_known_to_mend_is_done(stand: Stand) -> None:
    stand.order(1, "attempt-1", command="mend", action="reboot")
    stand.enable(1)
    failure = stand.handler.await_stage(1, "failed")["failure"]
    assert failure["code"] == "extension.usage"


def test_an_attempt_is_begun_once(stand: Stand) -> None:
    stand.order(1, "attempt-1")
    stand.enable(1)
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
    stand.order(1, "attempt-1")
    stand.enable(1)
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
    notes = stand.bench.scripts(pre="test -e /run/notes.quick || sleep 60")
    stand.order(1, "attempt-1")
    stand.enable(1)
    wait_for("the pre-script", lambda: "pre" in notes.read_text())
    time.sleep(0.2)  # the note is written just before the script looks for the file
    notes.with_suffix(".quick").touch()
    stand.order(2, "attempt-2")
    stand.enable(2)
    assert stand.handler.await_stage(2, "done", "failed")["failure"] is None
    assert stand.handler.report(1)["failure"]["code"] == "job.superseded"
    notes.with_suffix(".quick").unlink()


def test_idle_ends_the_attempt_that_runs_and_its_freeze(stand: Stand) -> None:
    notes = stand.bench.scripts()
    held, released = threading.Event(), threading.Event()

    def hang(request: Request) -> Reply:
        if "comp=snapshot" in request.target:
            held.set()
            released.wait(30)
        return snapshot_taken(request)

    stand.answer = hang
    stand.order(1, "attempt-1", hold_seconds=20)
    stand.enable(1)
    assert held.wait(20)
    writer = Writer(stand.mount)
    assert writer.blocked()
    stand.handler.settings(2, {"command": "idle"})
    stand.enable(2)
    stand.handler.await_stage(2, "done")
    assert not writer.blocked(1)
    released.set()
    assert stand.handler.report(1)["failure"]["code"] == "job.superseded"
    assert notes.read_text() == "pre\npost\n"


def test_disable_ends_a_running_attempt_before_it_returns(stand: Stand) -> None:
    notes = stand.bench.scripts(pre="sleep 60")
    stand.order(1, "attempt-1")
    stand.enable(1)
    wait_for("the pre-script", lambda: notes.read_text() == "pre\n")
    assert stand.handler.call("disable").returncode == 0
    assert notes.read_text() == "pre\npost\n"
    assert stand.handler.report(1)["failure"]["code"] == "job.superseded"
    assert not [path for path in RUN.iterdir() if path.is_dir()]


def test_uninstall_leaves_nothing_outside_the_package(stand: Stand) -> None:
    stand.order(1, "attempt-1")
    stand.enable(1)
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


def test_no_secret_is_written_anywhere(stand: Stand) -> None:
    stand.answer = lambda request: refusal(403, "AuthenticationFailed", "Signature did not match.")
    stand.order(1, "attempt-1")
    stand.enable(1)
    report = stand.handler.await_stage(1, "failed")
    assert report["failure"]["code"] == "storage.auth-failed"
    log = Path("/var/log/quiesce/extension.log").read_text()
    assert "attempt-1" in log
    secret = SIGNATURE.partition("=")[2]
    assert secret not in log + stand.handler.everything_written()


def test_a_command_that_comes_too_late_is_not_begun(stand: Stand) -> None:
    stand.order(1, "attempt-1", deadline="2026-01-01T00:00:00Z")
    stand.enable(1)
    report = stand.handler.await_stage(1, "failed")
    assert report["failure"]["code"] == "job.stale-command"
    assert stand.storage.snapshots == []


def test_a_command_that_is_late_only_by_a_wrong_clock_says_that_the_clock_is_wrong(
    stand: Stand,
) -> None:
    def in_january(request: Request) -> Reply:
        reply = snapshot_taken(request)
        return Reply(
            reply.status, {**reply.headers, "Date": "Thu, 01 Jan 2026 00:00:00 GMT"}, reply.body
        )

    stand.answer = in_january
    stand.order(1, "attempt-1", deadline="2026-01-01T00:30:00Z")
    stand.enable(1)
    report = stand.handler.await_stage(1, "failed")
    assert report["failure"]["code"] == "network.clock-skew"
    assert "ahead of" in report["failure"]["message"]
    assert stand.storage.snapshots == []


def test_a_full_disk_is_named(stand: Stand) -> None:
    run("mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=2", "tmpfs", stand.handler.status)
    (stand.handler.status / "filler").write_bytes(b"x" * 4096)
    stand.order(1, "attempt-1")
    done = stand.handler.call("enable", 1)
    run("umount", stand.handler.status)
    assert done.returncode == 1
    assert json.loads(done.stdout)["failure"]["code"] == "agent.disk-full"
    assert stand.storage.requests == []
