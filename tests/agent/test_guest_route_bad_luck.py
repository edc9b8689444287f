"""The guest route when something dies, fills up or lies. Each scenario ends with a point and a
guest that writes, and the next backup is good again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from agent_site import HANDLER, Site, new_site, setback, warned
from quiesce_server import VM, told, wait_for

from quiesce.lab import faults


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One VM that has had its first backup."""
    with new_site() as site:
        job = site.server.backup()
        assert job["route"] == "guest", told(job)
        yield site


def good_again(site: Site) -> None:
    site.await_agent()
    job = site.server.backup()
    assert job["status"] == "Completed", told(job)
    assert job["route"] == "guest"
    assert site.is_writable()


def test_a_stopped_agent_costs_consistency_and_not_the_point(site: Site):
    site.agent.stop()
    job = site.server.backup()
    assert job["status"] == "Completed with warning", told(job)
    assert job["route"] == "host"
    assert setback(job)["code"] in ("agent.silent", "agent.stale")
    assert "last seen" in str(setback(job)["evidence"])
    site.agent.start()
    good_again(site)


def test_an_agent_killed_while_it_enables_the_extension_is_made_good_by_the_next_goal_state(
    site: Site,
):
    job_id = site.server.begin()
    killed = (
        "for i in $(seq 600); do pgrep -f 'handler.sh enable|handler enable' >/dev/null && "
        "pkill -9 -f waagent && echo killed && exit; sleep 0.05; done"
    )
    assert "killed" in site.guest.run(killed)
    job = site.server.end_of(job_id)
    assert job["point_id"], told(job)
    site.agent.start()
    good_again(site)


def test_a_driver_killed_while_frozen_leaves_no_guest_frozen(site: Site):
    site.put_scripts(pre="true", post="echo post >> /root/after-kill")
    job_id = site.server.begin()
    # The driver is killed in the pre-freeze stage at the latest instant that can be seen from
    # outside: when its session says frozen.
    killed = (
        'for i in $(seq 2400); do grep -qs \'"state": "frozen"\' /run/quiesce/*/state.json && '
        "pkill -9 -f 'driver' && echo killed && exit; sleep 0.01; done"
    )
    site.guest.run(f"({killed}) >/run/killed 2>&1 &")
    job = site.server.end_of(job_id)
    assert job["point_id"], told(job)
    assert site.is_writable()
    wait_for(
        "the post-script",
        lambda: "post" in site.guest.run("cat /root/after-kill 2>/dev/null || true") or None,
        seconds=60,
    )
    site.guest.run("rm -f /etc/azure/VMSnapshotScriptPluginConfig.json")
    good_again(site)


def test_a_server_killed_between_goal_state_and_report_finishes_the_job_after_its_restart(
    site: Site,
):
    incarnation = site.state()["goal_incarnation"]
    job_id = site.server.begin()
    wait_for(
        "the new goal state",
        lambda: site.state()["goal_incarnation"] > incarnation or None,
        seconds=30,
    )
    site.server.kill()
    time.sleep(1)
    site.server.start()
    job = site.server.end_of(job_id)
    assert job["point_id"], told(job)
    assert job["route"] == "guest", told(job)
    assert site.is_writable()
    good_again(site)


def test_a_full_disk_in_the_guest_is_named(site: Site):
    with faults.full_disk(site.guest):
        job = site.server.backup()
        assert job["point_id"], told(job)
    good_again(site)


@pytest.mark.parametrize("days", [-800, 800])
def test_a_wrong_clock_in_the_guest_is_named(site: Site, days: int):
    faults.skew_clock(site.guest, seconds=days * 86400)
    try:
        job = site.server.backup()
        assert job["point_id"], told(job)
        if job["route"] != "guest":
            assert setback(job)["code"] == "network.clock-skew", setback(job)
    finally:
        faults.right_clock(site.guest)
    good_again(site)


def test_a_corrupt_extension_is_named_and_reinstalling_mends_it(site: Site):
    site.guest.run(f"printf junk > {HANDLER}/driver.py; printf junk > {HANDLER}/handler.py")
    job = site.server.backup()
    assert job["route"] == "host", told(job)
    assert setback(job)["code"].startswith("extension."), setback(job)
    assert warned(job)
    done = site.server.cli("extension", "reinstall", VM)
    assert done.returncode == 0, done.stdout + done.stderr
    good_again(site)


def test_a_removed_extension_folder_comes_back(site: Site):
    site.guest.run(f"rm -rf {HANDLER}")
    job = site.server.backup()
    assert job["point_id"], told(job)
    if job["route"] != "guest":
        done = site.server.cli("extension", "reinstall", VM)
        assert done.returncode == 0, done.stdout + done.stderr
    good_again(site)


def test_a_cancelled_backup_ends_within_seconds_and_the_guest_writes(site: Site):
    site.put_scripts(pre="sleep 20", post="true")
    job_id = site.server.begin()
    wait_for(
        "the pre-script",
        lambda: site.guest.run("pgrep -f 'sleep 20' || true").strip() or None,
        seconds=60,
    )
    site.server.post("jobs", job_id, "cancel")
    job = site.server.end_of(job_id, seconds=20)
    assert job["status"] == "Cancelled", told(job)
    site.guest.run("rm -f /etc/azure/VMSnapshotScriptPluginConfig.json")
    good_again(site)


def test_a_policy_that_demands_the_guest_route_fails_rather_than_take_another(site: Site):
    site.agent.stop()
    site.server.protect(VM, snapshot={"route": "guest"})
    job = site.server.backup()
    assert job["status"] == "Failed", told(job)
    assert job["failure"]["code"] in ("agent.silent", "agent.stale")
    site.server.protect(VM, snapshot={"route": "guest-then-host"})
    site.agent.start()
    good_again(site)
