"""The server dies while a guest is frozen: the guest thaws itself, the job goes on later.

QEMU listens to one client at a time on each monitor socket, and Quiesce comes anew for each step.
So a stranger who holds the VM's QMP socket after `prepare` keeps a real backup at its most delicate
place: the guest is frozen and the point cannot be taken.

`QUIESCE_TRIES` says how often to try; `make bench-freeze` tries ten times and shows each figure.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from quiesce_server import (
    VM,
    Lookout,
    QuiesceServer,
    held_by_qemu,
    new_server,
    nothing_is_left,
    told,
    wait_for,
)

from quiesce.lab.guest import LabGuest
from quiesce.lab.ledger import acknowledged, start_ledger

TRIES = int(os.environ.get("QUIESCE_TRIES", "2"))
HOLD_SECONDS = 5.0
STILL_SECONDS = 1.0
"""So long without any write of a guest that writes all the time: it is frozen."""
WATCHDOG_LATE_SECONDS = 0.25
"""How late the guest's watchdog may be by its own clock, thaw calls included."""
MEASURED_LATE_SECONDS = 1.0
"""What an emulated guest may take on top until its writers run again and are seen to."""

# A guest that runs out of CPU on a busy machine takes its time; each try has a server start.
pytestmark = pytest.mark.timeout(120 + 60 * TRIES)


@dataclass(frozen=True)
class Freeze:
    """One try, in milliseconds: as the guest's extension reports it, as a program in the guest
    suffered it, and as the host saw its writes stand still."""

    reported_ms: float
    thawed_by: str
    worst_write_ms: float
    seen_ms: float


@pytest.fixture
def server() -> Iterator[QuiesceServer]:
    with new_server() as server:
        yield server


def killed_while_frozen(server: QuiesceServer, guest: LabGuest, job_id: str) -> Freeze:
    """Wait for the freeze of the job, kill the server in it, and measure until the thaw."""
    with Lookout(guest.files.monitor_socket) as lookout:
        filters = f"qz{job_id}-c0"
        wait_for("the snapshot to be prepared", lambda: filters in lookout.nodes() or None)
        holding = Lookout(guest.qmp_socket).admitted()
        began = _standstill(lookout)
        server.kill()
        thawed = _first_write_after(lookout)
        holding.close()
    state = json.loads(guest.run(f"cat /run/quiesce/{job_id}/state.json"))
    return Freeze(
        reported_ms=max(mount["frozen_ms"] for mount in state["freeze"]["mounts"]),
        thawed_by=state["freeze"]["thawed_by"],
        worst_write_ms=acknowledged(guest).worst_write_ms,
        seen_ms=(thawed - began) * 1000,
    )


def _standstill(lookout: Lookout) -> float:
    """When the guest wrote last, once it has not for STILL_SECONDS."""
    deadline = time.monotonic() + 60
    count, changed = lookout.writes(), time.monotonic()
    while time.monotonic() - changed < STILL_SECONDS:
        assert time.monotonic() < deadline, "the guest was never frozen"
        time.sleep(0.005)
        now = lookout.writes()
        if now != count:
            count, changed = now, time.monotonic()
    return changed


def _first_write_after(lookout: Lookout) -> float:
    count = lookout.writes()
    wait_for("the guest to thaw", lambda: lookout.writes() != count, seconds=60)
    return time.monotonic()


def test_a_guest_whose_server_is_killed_while_it_is_frozen_thaws_itself_within_the_hold(
    server: QuiesceServer, guest: LabGuest
) -> None:
    server.add(guest)
    server.protect(VM, keep_last=2 * TRIES, snapshot={"hold_seconds": HOLD_SECONDS})
    before = held_by_qemu(guest)
    for number in range(1, TRIES + 1):
        start_ledger(guest)
        job_id = server.begin()
        freeze = killed_while_frozen(server, guest, job_id)
        print(
            f"try {number}: frozen {freeze.reported_ms:.0f} ms (by the guest's report), "
            f"worst write {freeze.worst_write_ms:.0f} ms, no write seen from the host for "
            f"{freeze.seen_ms:.0f} ms; hold {HOLD_SECONDS * 1000:.0f} ms"
        )
        assert freeze.thawed_by == "watchdog"
        assert freeze.seen_ms > STILL_SECONDS * 1000
        assert freeze.reported_ms <= (HOLD_SECONDS + WATCHDOG_LATE_SECONDS) * 1000
        assert freeze.worst_write_ms <= (HOLD_SECONDS + MEASURED_LATE_SECONDS) * 1000

        server.start()
        job = server.end_of(job_id)
        assert job["status"] == "Completed", told(job)
        assert job["consistency"]["level"] == "file-system", told(job)
        assert any("interrupted while it took the snapshot" in line["text"] for line in job["log"])
        nothing_is_left(server, guest, before)
        records = acknowledged(guest).records
        wait_for("the ledger to go on", lambda at=records: acknowledged(guest).records > at)
        assert job_id not in guest.run("ls /run/quiesce")
        guest.run("systemctl stop ledger")
    assert len(server.points()) == TRIES


def test_a_point_that_comes_too_late_for_the_freeze_says_so_and_harms_nobody(
    server: QuiesceServer, guest: LabGuest
) -> None:
    server.add(guest)
    server.protect(VM, snapshot={"hold_seconds": 2.0})
    before = held_by_qemu(guest)
    start_ledger(guest)
    job_id = server.begin()
    with Lookout(guest.files.monitor_socket) as lookout:
        filters = f"qz{job_id}-c0"
        wait_for("the snapshot to be prepared", lambda: filters in lookout.nodes() or None)
        with Lookout(guest.qmp_socket):
            _standstill(lookout)
            _first_write_after(lookout)
    job = server.end_of(job_id)
    assert job["status"] == "Completed with warning", told(job)
    assert job["consistency"]["level"] == "crash"
    assert "freeze.held-too-long" in job["consistency"]["reason"]
    assert not job["freeze"]["held"]
    assert acknowledged(guest).worst_write_ms <= (2.0 + MEASURED_LATE_SECONDS) * 1000
    nothing_is_left(server, guest, before)
