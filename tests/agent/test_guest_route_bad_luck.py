"""The guest route when something dies, fills up or lies. Each scenario ends with a point and a
guest that writes, and the next backup is good again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_site import Site, kill_agent_at, killed, new_site, restart_with_extension, setback
from guest_scripts import forget_scripts, put_scripts
from quiesce_server import VM, told, wait_for

from quiesce.lab import faults

KILLER = """
import glob, json, os, time
while True:
    for path in glob.glob("/run/quiesce/*/state.json"):
        try:
            state, driver = json.load(open(path)), json.load(open("/run/quiesce/driver"))
        except (OSError, ValueError):
            continue
        if state["state"] == "frozen":
            os.kill(driver["pid"], 9)
            open("/run/killed", "w").write(str(driver["pid"]))
            raise SystemExit
    time.sleep(0.002)
"""
"""In the guest: kills the extension's driver as soon as its session says that all is frozen. It
runs before, since a program may not start from a frozen disk."""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One VM that has had its first backup."""
    with new_site() as site:
        job = site.server.backup()
        assert job["route"] == "guest", told(job)
        yield site


def good_again(site: Site) -> None:
    """Nothing but time and the next backup is needed."""
    site.await_agent()
    job = site.server.backup()
    assert job["status"] == "Completed", told(job)
    assert job["route"] == "guest"
    assert site.is_writable()


@pytest.mark.long
def test_a_stopped_agent_costs_consistency_and_not_the_point(site: Site):
    site.agent.stop()
    job = site.server.backup()
    assert job["status"] == "Completed with warning", told(job)
    assert job["route"] == "host"
    assert setback(job)["code"] in ("agent.silent", "agent.stale")
    assert "heard" in str(setback(job)) or "seen" in str(setback(job))
    site.agent.start()
    good_again(site)


@pytest.mark.long
@pytest.mark.parametrize("command", ["enable", "install", "uninstall", "update"])
def test_an_agent_killed_in_the_middle_of_a_command_is_made_good_by_the_next_goal_state(
    site: Site, command: str, tmp_path: Path
):
    if command == "install":
        assert site.server.cli("extension", "uninstall", VM).returncode == 0
    if command == "update":
        restart_with_extension(site, "1.0.0", tmp_path)
    kill_agent_at(site.guest, command)
    if command == "uninstall":
        asked = site.server.start_cli("extension", "uninstall", VM)
    else:
        job_id = site.server.begin()
    wait_for(f"{command} to be killed", lambda: killed(site.guest) or None, seconds=90)
    site.agent.start()
    if command == "uninstall":
        asked.communicate(timeout=400)
    else:
        job = site.server.end_of(job_id, seconds=400)
        assert job["point_id"], told(job)
    assert site.is_writable()
    good_again(site)


@pytest.mark.long
def test_a_driver_killed_while_frozen_leaves_no_guest_frozen(site: Site):
    put_scripts(site.guest, pre="true", post="echo post >> /root/after-kill")
    site.guest.run(["sh", "-c", 'rm -f /run/killed; printf %s "$1" > /run/killer', "put", KILLER])
    site.guest.run("systemd-run --quiet --collect python3 /run/killer")
    job = site.server.backup()
    assert killed(site.guest)
    assert job["point_id"], told(job)
    assert job["route"] == "host", told(job)
    assert setback(job)["code"].startswith("extension."), setback(job)
    assert site.is_writable()
    posts = "cat /root/after-kill 2>/dev/null || true"
    wait_for("the post-script", lambda: site.guest.run(posts).strip() or None, seconds=60)
    assert site.guest.run(posts).split() == ["post"]
    forget_scripts(site.guest)
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


@pytest.mark.long
def test_a_guest_whose_disk_is_full_gets_its_point_by_the_host(site: Site):
    with faults.full_disk(site.guest):
        job = site.server.backup()
        assert job["point_id"], told(job)
        assert job["route"] == "host", told(job)
        # An agent that cannot write down its goal state does not take it, and says nothing.
        assert setback(job)["code"] in ("agent.silent", "agent.disk-full"), setback(job)
    good_again(site)


@pytest.mark.long
def test_a_corrupt_extension_is_named_and_removing_it_by_hand_mends_it(site: Site):
    faults.corrupt_extension(site.guest)
    job = site.server.backup()
    assert job["route"] == "host", told(job)
    assert setback(job)["code"] == "extension.manifest-invalid", setback(job)
    # The agent needs the package's manifest to uninstall it too, so the folder has to go first.
    refused = site.server.cli("extension", "reinstall", VM)
    assert refused.returncode == 3
    assert "extension.manifest-invalid" in refused.stdout + refused.stderr
    faults.remove_extension(site.guest)
    done = site.server.cli("extension", "reinstall", VM)
    assert done.returncode == 0, done.stdout + done.stderr
    good_again(site)


@pytest.mark.long
def test_a_removed_extension_folder_is_named_and_reinstalling_mends_it(site: Site):
    faults.remove_extension(site.guest)
    job = site.server.backup()
    assert job["point_id"], told(job)
    if job["route"] == "host":  # an agent may as well bring the folder back by itself
        assert setback(job)["code"].startswith("extension."), setback(job)
        done = site.server.cli("extension", "reinstall", VM)
        assert done.returncode == 0, done.stdout + done.stderr
    good_again(site)


def test_a_cancelled_backup_ends_within_seconds_and_the_guest_writes(site: Site):
    put_scripts(site.guest, pre="touch /run/pre; sleep 20", post="true")
    job_id = site.server.begin()
    begun = "test -e /run/pre && echo yes || true"
    wait_for("the pre-script", lambda: site.guest.run(begun).strip() or None, seconds=60)
    site.server.post("jobs", job_id, "cancel")
    job = site.server.end_of(job_id, seconds=20)
    assert job["status"] == "Cancelled", told(job)
    forget_scripts(site.guest)
    good_again(site)


def test_a_policy_that_wants_the_host_first_goes_to_the_guest_when_the_host_cannot_freeze(
    site: Site,
):
    change = {"agent": "both", "qga_socket": str(site.guest.folder / "nobody.sock")}
    assert site.server.call("PATCH", "vms", VM, body=change).is_success
    site.server.protect(VM, snapshot={"route": "host-then-guest"})
    job = site.server.backup()
    assert job["route"] == "guest", told(job)
    assert job["consistency"]["level"] == "file-system"
    assert setback(job)["code"].startswith("agent."), setback(job)
    assert site.server.call("PATCH", "vms", VM, body={"agent": "waagent"}).is_success


@pytest.mark.long
def test_a_policy_that_demands_the_guest_route_fails_rather_than_take_another(site: Site):
    site.agent.stop()
    site.server.protect(VM, snapshot={"route": "guest"})
    job = site.server.backup()
    assert job["status"] == "Failed", told(job)
    assert job["failure"]["code"] in ("agent.silent", "agent.stale")
    assert not job["point_id"]
    site.agent.start()
    good_again(site)


@pytest.mark.long
@pytest.mark.parametrize("days", [-800, 800])
def test_a_wrong_clock_in_the_guest_is_named(site: Site, days: int):
    # The last ones: files from the future stay, and agent 2.7.3 goes by their times when it reports
    # for an extension that cannot report by itself.
    faults.skew_clock(site.guest, seconds=days * 86400)
    try:
        job = site.server.backup()
    finally:
        faults.right_clock(site.guest)
    assert job["point_id"], told(job)
    assert job["route"] == "host", told(job)
    assert setback(job)["code"] == "network.clock-skew", setback(job)
    good_again(site)
