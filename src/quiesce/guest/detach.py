"""Leaving the agent that started us: its pipes, its session and its control group.

systemd kills a unit's whole control group when the unit is restarted. A session that was still
in there would die with the agent, watchdog included, and leave the guest frozen.
"""

import os
from typing import List, NamedTuple

from .mounts import Mount, read_mounts


class Hierarchy(NamedTuple):
    """One control group tree by which systemd kills: where we are and how to move out."""

    path: str
    root_procs: str


def detach() -> bool:
    """Become a process of its own; True in that process, False in the one to return from.

    Standard streams point nowhere afterwards, so that the agent sees the command's end.
    """
    if os.fork():
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
    return True


def leave_control_group() -> List[str]:
    """Move this process to the root of the trees that systemd kills by; returns warnings."""
    with open("/proc/self/cgroup", "rb") as file:
        lines = os.fsdecode(file.read()).splitlines()
    warnings = []
    for tree in trees_to_leave(lines, read_mounts()):
        try:
            with open(tree.root_procs, "w") as file:
                file.write(str(os.getpid()))
        except OSError as error:
            warnings.append(
                "The session could not leave the control group {} ({}): a restart of the VM's "
                "agent may end it early; the watchdog thaws then.".format(tree.path, error)
            )
    return warnings


def trees_to_leave(cgroup_lines: List[str], mounts: List[Mount]) -> List[Hierarchy]:
    """Only systemd's own tree (v1: `name=systemd`) and the unified one (v2, number 0): resource
    limits that an administrator put on other trees stay in force. Source: cgroups(7)."""
    trees = []
    for line in cgroup_lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        unified = number == "0" and not controllers
        if path == "/" or not (unified or controllers == "name=systemd"):
            continue
        for mount in mounts:
            mine = mount.file_system == "cgroup2" if unified else _is_systemd_v1(mount)
            if mine:
                trees.append(Hierarchy(path, os.path.join(mount.point, "cgroup.procs")))
                break
    return trees


def _is_systemd_v1(mount: Mount) -> bool:
    return mount.file_system == "cgroup" and os.path.basename(mount.point) == "systemd"
