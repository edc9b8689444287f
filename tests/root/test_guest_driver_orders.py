"""What the driver does besides taking a point, and what it refuses."""

from __future__ import annotations

import base64
import json
import os
import zlib
from pathlib import Path

import pytest
from driver_stand import SIGNATURE, Stand
from guest_bench import run, wait_for
from loopback import Reply, Request, refusal, snapshot_taken

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def test_the_probe_and_an_examination_can_be_asked_for(stand: Stand) -> None:
    stand.begin(1, command="probe")
    report = stand.handler.await_stage(1, "done", "failed")
    assert report["failure"] is None
    hops = {one["name"]: one for one in report["hops"]}
    assert (hops["tls"]["ok"], hops["http"]["ok"]) == (True, True)
    stand.begin(2, command="examine")
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
    stand.begin(1, command="examine")
    papers = stand.handler.await_stage(1, "done")["papers"]
    plain = zlib.decompress(base64.b64decode(papers["data"])).decode("utf-8", "replace")
    assert f"\n#{papers['token']} end " in plain


def test_nothing_but_what_is_known_to_mend_is_done(stand: Stand) -> None:
    stand.begin(1, command="mend", action="reboot")
    failure = stand.handler.await_stage(1, "failed")["failure"]
    assert failure["code"] == "extension.usage"


def test_no_secret_is_written_anywhere(stand: Stand) -> None:
    stand.answer = lambda request: refusal(403, "AuthenticationFailed", "Signature did not match.")
    stand.begin(1)
    report = stand.handler.await_stage(1, "failed")
    assert report["failure"]["code"] == "storage.auth-failed"
    written = Path("/var/log/quiesce/extension.log")
    wait_for("the log, which is written last", lambda: "attempt-1" in written.read_text())
    log = written.read_text()
    secret = SIGNATURE.partition("=")[2]
    assert secret not in log + stand.handler.everything_written()


def test_a_command_that_comes_too_late_is_not_begun(stand: Stand) -> None:
    stand.begin(1, deadline="2026-01-01T00:00:00Z")
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
    stand.begin(1, deadline="2026-01-01T00:30:00Z")
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
