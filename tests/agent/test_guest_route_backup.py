"""The guest route when all is well: Debian's untouched agent, one VM from its first backup on."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from agent_site import HANDLER, Site, restart_with_extension
from guest_scripts import put_scripts
from quiesce_server import VM, held_by_qemu, nothing_is_left, told, wait_for

from quiesce.lab.ledger import acknowledged, prove, start_ledger
from quiesce.lab.machine import DiskFile
from quiesce.lab.state import guest_of_disks


def test_before_the_first_backup_the_agent_is_ready_and_has_no_extension(site: Site):
    state = site.state()
    assert state["version"].startswith("2.")
    assert "debian" in state["operating_system"].lower()
    assert state["acknowledged_incarnation"] == state["goal_incarnation"]
    assert state["handlers"] == []
    assert site.handler_folders() == []


def test_the_first_backup_installs_the_extension_and_takes_an_application_consistent_point(
    site: Site,
):
    put_scripts(site.guest, pre="echo pre >> /root/scripts", post="echo post >> /root/scripts")
    before = held_by_qemu(site.guest)
    job = site.server.backup()
    assert job["status"] == "Completed", told(job)
    assert job["route"] == "guest"
    assert job["consistency"]["level"] == "application", job["consistency"]
    frozen = {each["mount"]: each["frozen_ms"] for each in job["freeze"]["mounts"]}
    assert frozen["/"] > 0
    assert job["freeze"]["held"]
    assert site.guest.run("cat /root/scripts").split() == ["pre", "post"]
    assert len(site.handler_folders()) == 1
    nothing_is_left(site.server, site.guest, before)
    print(f"\n  guest route: / held for {frozen['/']:.0f} ms", end="")


def test_the_package_of_the_agent_is_untouched(site: Site):
    changed = site.guest.run("dpkg --verify waagent || true").splitlines()
    # The guest's image has no documentation of any package.
    there = [line for line in changed if not line.startswith("missing") or "/doc/" not in line]
    assert [line for line in there if "/etc/waagent.conf" not in line and "/man/" not in line] == []


def test_the_next_backup_is_incremental_and_needs_no_installation(site: Site):
    installed = site.guest.run(f"stat -c %Y {HANDLER}/HandlerManifest.json")
    job = site.server.backup()
    point = site.server.point_of(job)
    assert job["route"] == point["route"] == "guest"
    assert [disk["incremental"] for disk in point["disks"]] == [True]
    assert site.guest.run(f"stat -c %Y {HANDLER}/HandlerManifest.json") == installed


def test_what_the_guest_had_acknowledged_before_the_freeze_is_in_the_restored_point(
    site: Site, tmp_path: Path
):
    start_ledger(site.guest)
    wait_for("records", lambda: acknowledged(site.guest).records > 20 or None)
    promised = acknowledged(site.guest)
    job = site.server.backup()
    assert job["route"] == "guest", told(job)
    site.server.restore(job["point_id"], tmp_path)
    site.guest.run("pkill -f '/var/lib/[l]edger' || true")
    image = DiskFile(next(tmp_path.iterdir()), "raw")
    with (
        tempfile.TemporaryDirectory(prefix="qr-") as folder,
        guest_of_disks(Path(folder), {"vda": image}, exclusive=False) as restored,
    ):
        prove(restored, promised)


def test_the_extension_is_listed_with_its_version_and_the_agents_word(site: Site):
    view = site.extension()
    assert view["installed"]
    assert view["version"] == view["offered_version"]
    assert view["status"] == "Ready"
    shown = site.server.cli("extension", "list", VM)
    assert shown.returncode == 0, shown.stderr
    assert view["version"] in shown.stdout


def test_uninstalling_removes_it_and_the_next_backup_brings_it_back(site: Site):
    done = site.server.cli("extension", "uninstall", VM)
    assert done.returncode == 0, done.stderr
    assert site.handler_folders() == []
    assert not site.extension()["installed"]
    job = site.server.backup()
    assert job["route"] == "guest", told(job)
    assert len(site.handler_folders()) == 1


def test_reinstalling_gives_a_fresh_copy_of_the_same_version(site: Site):
    [folder] = site.handler_folders()
    site.guest.run(f"touch {folder}/stale")
    done = site.server.cli("extension", "reinstall", VM)
    assert done.returncode == 0, done.stderr
    assert site.handler_folders() == [folder]
    assert "stale" not in site.guest.run(f"ls {folder}")


def test_a_server_that_ships_a_newer_extension_updates_it_as_agents_do(site: Site, tmp_path: Path):
    old = site.extension()["version"]
    told_before = len(site.agent.log())
    restart_with_extension(site, "1.0.0", tmp_path)
    job = site.server.backup()
    assert job["route"] == "guest", told(job)
    new = site.extension()["version"]
    assert new != old
    assert new.startswith("1.0.0.")
    [folder] = site.handler_folders()
    assert folder.endswith(new)
    story = site.agent.log()[told_before:]
    found = re.findall(r"handler\.sh (disable|update|uninstall|install|enable)", story)
    order = list(dict.fromkeys(found))
    assert order == ["disable", "update", "uninstall", "install", "enable"], story[-3000:]


def test_a_restarted_server_goes_on_with_the_same_goal_state(site: Site):
    incarnation = site.state()["goal_incarnation"]
    site.server.stop()
    site.server.start()
    site.await_agent()
    assert site.state()["goal_incarnation"] == incarnation
