"""Backups that happen by themselves: at their time, and afterwards when the time was missed.

Two servers share the wait for one due minute: one is up, the other is down in that minute. Their
VMs are off, so that no guest is kept waiting.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta

from quiesce_server import VM, QuiesceServer, new_home, wait_for

MIB = 1 << 20


def add_vm(server: QuiesceServer) -> str:
    """A powered-off VM with one point by hand; the point's id."""
    image = server.folder / "disk.img"
    image.write_bytes(os.urandom(MIB))
    server.post(
        "vms",
        body={"name": VM, "qmp_socket": "/nowhere/qmp.sock", "disks": {"vda": str(image)}},
    )
    return str(server.point_of(server.backup())["id"])


def scheduled_backups(server: QuiesceServer) -> list[dict[str, str]]:
    jobs = [job for job in server.get("jobs") if job["trigger"] == "schedule"]
    return jobs if jobs and all(job["ended_at"] for job in jobs) else []


def test_a_backup_happens_at_its_time_and_prunes_and_a_missed_one_is_made_up_after_a_restart() -> (
    None
):
    with new_home() as up, new_home() as down:
        up.start()
        down.start()
        old = {server: add_vm(server) for server in (up, down)}
        due = (datetime.now(UTC) + timedelta(seconds=80)).replace(second=0, microsecond=0)
        if due - datetime.now(UTC) < timedelta(seconds=25):
            due += timedelta(minutes=1)
        for server in (up, down):
            server.protect(at=f"{due:%H:%M}", zone="UTC", keep_last=1, keep_daily=0)
        down.stop()
        assert datetime.now(UTC) < due, "the machine is too slow for this test"

        wait_for("the run of its own", lambda: scheduled_backups(up) or None, seconds=110)
        [job] = scheduled_backups(up)
        began = datetime.fromisoformat(job["created_at"])
        assert timedelta(0) <= began - due < timedelta(seconds=40)

        down.start()
        restarted = datetime.now(UTC)
        wait_for("the missed run", lambda: scheduled_backups(down) or None, seconds=60)
        [late] = scheduled_backups(down)
        assert datetime.fromisoformat(late["created_at"]) - restarted < timedelta(seconds=40)

        time.sleep(2)  # four looks at the schedule: neither comes a second time
        for server, kept in ((up, job), (down, late)):
            [made] = scheduled_backups(server)
            assert made["status"] == "Completed"
            # Only one is to be kept: the one that was made by hand is pruned.
            assert [point["id"] for point in server.points()] == [kept["point_id"]]
            assert old[server] != kept["point_id"]
