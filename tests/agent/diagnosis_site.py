"""The site that faults are set in: one lab network, one guest with both agents, one server."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent_site import Site, new_site
from quiesce_server import VM, wait_for

from quiesce.lab.faults.fault import Agents, Fault, Scene
from quiesce.lab.hand import Hand
from quiesce.lab.state import Layout
from quiesce.model.failure import Failure

JOB_SECONDS = 420.0
"""The product's own deadlines end a job well before."""
BACK_SECONDS = 60.0
"""For the agents to be back after a row."""

_UNITS = "qemu-guest-agent walinuxagent"
_CLEAN = """
for unit in qemu-guest-agent walinuxagent waagent; do
    rm -f /etc/systemd/system/$unit.service.d/*quiesce*
done
rm -rf /root/aside
systemctl daemon-reload
systemctl reset-failed
# What one fault has left in the journal is no evidence for the next one.
journalctl --quiet --rotate --vacuum-time=1s
for unit in qemu-guest-agent walinuxagent; do
    systemctl is-active --quiet $unit || systemctl start $unit
done
timeout 10 sh -c 'echo 1 > /root/.probe; echo 1 > /mnt/xfs/.probe; echo 1 > /mnt/btrfs/.probe; sync'
"""


@contextlib.contextmanager
def new_scene() -> Iterator[Scene]:
    """A VM with three disks that has had no backup yet. Its vault is a file system of its own."""
    with contextlib.ExitStack() as stack:
        place = Path(tempfile.mkdtemp(prefix="qv-"))
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g", "vault", str(place)], check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", str(place)], check=False)
        site = stack.enter_context(
            new_site(
                kind="both",
                layout=Layout.THREE_DISKS,
                QUIESCE_VAULT_FOLDER=str(place / "vault"),
            )
        )
        yield scene_of(site)


def scene_of(site: Site) -> Scene:
    return Scene(VM, site.guest, Hand(site.guest), site.network, site.agent, site.server)


def suffer(scene: Scene, row: Fault) -> Mapping[str, Any]:
    """Set the fault in, back up, undo it; the job as it ended."""
    if row.agents is not Agents.BOTH:
        scene.set_vm(agent=row.agents.value)
    if row.first and (row.family == "extension" or not scene.server.get("points")):
        scene.server.protect(scene.vm)
        scene.server.end_of(scene.server.begin(scene.vm), seconds=JOB_SECONDS)
    scene.server.protect(scene.vm, snapshot=dict(row.policy))
    with row.inject(scene):
        if row.backup is not None:
            return row.backup(scene)
        return scene.server.end_of(scene.server.begin(scene.vm), seconds=JOB_SECONDS)


def is_well(scene: Scene) -> bool:
    """Bring the scene back to how it was; whether that worked and the next row may use it."""
    try:
        for job in scene.server.get("jobs"):
            if not job["ended_at"]:
                scene.server.call("POST", "jobs", job["id"], "cancel")
                scene.server.end_of(job["id"], seconds=60)
        scene.network.heal()
        scene.set_vm(agent=Agents.BOTH.value, server_proxy=True)
        scene.hand.run(_CLEAN)
        scene.guest.wait_for_agent(BACK_SECONDS)
        since = scene.server.get("vms", scene.vm)["agent_state"]["last_seen"]
        wait_for(
            "the Azure agent to be back", lambda: _is_back(scene, since), seconds=BACK_SECONDS,
            pause=0.25,
        )  # fmt: skip
    except (AssertionError, Failure, OSError, TimeoutError) as unwell:
        print(f"    (a new guest, since: {str(unwell)[:300]})", flush=True)
        return False
    return True


def _is_back(scene: Scene, since: str | None) -> bool:
    state = scene.server.get("vms", scene.vm)["agent_state"]
    return state["condition"] == "ready" and state["last_seen"] != since
