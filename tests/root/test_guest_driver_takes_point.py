"""The driver takes a point by itself: it freezes, asks the storage endpoint once, and thaws."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import pytest
from driver_stand import RUN, DuringSnapshot, Stand
from guest_bench import Writer, wait_for
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
    returned = threading.Event()

    def when_the_command_has_ended(request: Request) -> Reply:
        return snapshot_taken(request) if returned.wait(30) else Reply(hang_up=True)

    during = stand.answer = DuringSnapshot(stand.mount, when_the_command_has_ended)
    stand.begin(1)
    returned.set()
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
    print(f"frozen {frozen['frozen_ms']:.0f} ms, of them 300 in the endpoint's answer, or more")
    assert not [path for path in RUN.iterdir() if path.is_dir()], "the session left its files"


def test_a_post_script_that_fails_does_not_undo_the_point(stand: Stand) -> None:
    stand.bench.scripts(post="exit 3", continueBackupOnFailure=False)
    stand.begin(1)
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
    stand.begin(1)
    report = stand.handler.await_stage(1, "done")
    wait_for("the report", lambda: stand.reported("attempt-1") is not None)
    (blob,) = [one for one in stand.storage.requests if "/reports/" in one.target]
    assert blob.headers["x-ms-blob-type"] == "BlockBlob"
    assert json.loads(blob.body) == report
    (log,) = [one for one in stand.storage.requests if "/logs/" in one.target]
    assert b"snapshot taken" in log.body


def test_one_connection_carries_everything_from_the_freeze_to_the_report(stand: Stand) -> None:
    stand.begin(1)
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
    stand.begin(1, hold_seconds=4)
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
    stand.begin(1)
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
    stand.begin(1)
    report = stand.handler.await_stage(1, "done", "failed")
    assert report["failure"] is None
    assert report["session"]["freeze"]["held"] is True
    assert broken


def test_the_driver_works_through_a_proxy_with_a_password(stand: Stand) -> None:
    proxy = Proxy(account="backup:ProxySecret")
    url = f"http://backup:ProxySecret@127.0.0.1:{proxy.port}"
    stand.proxy = {"http": "", "https": url, "no_proxy": "10.0.0.0/8"}
    stand.begin(1)
    assert stand.handler.await_stage(1, "done", "failed")["failure"] is None
    wait_for("the report", lambda: stand.reported("attempt-1") is not None)
    assert proxy.asked == [f"CONNECT 127.0.0.1:{stand.storage.port} HTTP/1.1"] * 2
    log = Path("/var/log/quiesce/extension.log").read_text()
    assert "ProxySecret" not in log + stand.handler.everything_written()
    proxy.close()


def test_a_proxy_that_refuses_is_named_and_nothing_is_frozen(stand: Stand) -> None:
    proxy = Proxy(status=403)
    stand.proxy = {"https": f"http://127.0.0.1:{proxy.port}"}
    stand.begin(1)
    report = stand.handler.await_stage(1, "failed")
    assert report["failure"]["code"] == "network.proxy-denied"
    assert report["session"] is None
    assert any("does not allow" in one["fact"] for one in report["failure"]["evidence"])
    proxy.close()
