"""A guest that has no processor or memory left for a backup, and a host with too much to do."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quiesce.lab.faults.fault import Scene, fault
from quiesce.model.failure import AgentFailure

LOAD = "load"
_HOG_SECONDS = 400


def _end_hog(scene: Scene) -> None:
    """By the kernel, since systemd itself gets hardly a turn; tried until the hog would end itself,
    for it leaves little to the lab's own hand either."""
    kill = "echo 1 > /sys/fs/cgroup/system.slice/hog.service/cgroup.kill"
    for _ in range(_HOG_SECONDS // 20):
        with contextlib.suppress(AgentFailure):
            scene.hand.run(f"{kill} 2>/dev/null; true", seconds=20)
            return


@fault("processor-hog", LOAD, "guest.overloaded")
def processor_hog(scene: Scene) -> Iterator[None]:
    """Programs of real-time priority leave the others a thirtieth of the processor."""
    # The kernel's own limit for them, by default a twentieth, which some backups get through with.
    scene.hand.run("sysctl --quiet kernel.sched_rt_runtime_us=970000")
    hog = f"timeout {_HOG_SECONDS} sh -c 'while :; do :; done'"
    scene.hand.run(f"systemd-run --quiet --unit=hog chrt -f 20 {hog}")
    yield
    _end_hog(scene)
    scene.hand.run("sysctl --quiet kernel.sched_rt_runtime_us=950000")


@fault("memory-hog", LOAD, "agent.out-of-memory")
def memory_hog(scene: Scene) -> Iterator[None]:
    """A program that the kernel must not kill holds nearly all memory: it kills others instead,
    the largest first, which is the agent."""
    program = (
        "import time\n"
        "free = int(open('/proc/meminfo').read().split('MemAvailable:')[1].split()[0])\n"
        "held = bytearray(b'x') * (free * 1024 - (20 << 20))\n"
        f"end = time.monotonic() + {_HOG_SECONDS}\n"
        "while time.monotonic() < end:\n"
        "    for at in range(0, len(held), 4096): held[at] = 1\n"
    )
    scene.hand.put("/run/hog.py", program)
    scene.hand.run(
        "systemd-run --quiet --unit=hog --property=OOMScoreAdjust=-999 python3 /run/hog.py"
    )
    time.sleep(4)
    yield
    _end_hog(scene)


_GROUP = 20
_IMAGE_BYTES = 16 << 20


def _all_at_once(scene: Scene) -> Mapping[str, Any]:
    """The job of the VM itself, or one of the others that went less well."""
    others = [f"member {number}" for number in range(1, _GROUP)]
    with tempfile.TemporaryDirectory(prefix="qg-") as folder:
        for name in others:
            image = Path(folder) / f"{name}.img"
            image.write_bytes(os.urandom(_IMAGE_BYTES))
            disks = {"vda": str(image)}
            body = {"name": name, "qmp_socket": f"{folder}/{name}.sock", "disks": disks}
            scene.server.post("vms", body=body)
        ids = [scene.server.begin(name) for name in (*others, scene.vm)]
        jobs = [scene.server.end_of(job_id, seconds=300) for job_id in ids]
        for name in others:
            scene.server.call("DELETE", "vms", name)
    return next((job for job in jobs if not job["point_id"]), jobs[-1])


@fault("twenty-vms-at-once", LOAD, "", backup=_all_at_once)
def twenty_vms_at_once(scene: Scene) -> Iterator[None]:
    """Twenty VMs of one group are due at the same moment; nineteen of them are powered off, so
    that it is the queue that is tried and not twenty guests."""
    yield
