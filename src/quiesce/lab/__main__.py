"""`python -m quiesce.lab`: a guest to play with.

build               the image, if it is not in the cache
start [NAME]        a guest that stays; prints its sockets and how to protect it
                    --network: with a network of its own and the Azure Linux agent (needs root)
shell [NAME]        commands run in the guest, through its agent
stop [NAME]         end it; its disks stay for the next start
list                the guests there are
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import time
from pathlib import Path

from quiesce.agent.qga import QemuGuestAgent
from quiesce.lab.guest import LabGuest
from quiesce.lab.image import built_image
from quiesce.lab.machine import DiskFile, GuestFiles
from quiesce.lab.monitor import qmp
from quiesce.lab.namespace import remove_leftovers
from quiesce.lab.network import LabNetwork
from quiesce.lab.state import Layout, fresh_guest, guest_of_disks, ready_guest
from quiesce.lab.waagent import Waagent
from quiesce.model.failure import Failure, LabFailure


def main(arguments: list[str] | None = None) -> int:
    """:return: the exit status of the command"""
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "build":
                print(built_image().folder)
            case "start":
                _start(options.name, Layout(options.disks), options.boot, options.network)
            case "shell":
                _shell(options.name)
            case "stop":
                _stop(options.name)
            case "list":
                _list()
    except Failure as failure:
        print(failure, file=sys.stderr)
        for evidence in failure.evidence:
            print(f"  {evidence.source}: {evidence.fact}\n{evidence.raw}", file=sys.stderr)
        if failure.remedy:
            print(f"Next step: {failure.remedy}", file=sys.stderr)
        return int(failure.exit_code)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m quiesce.lab",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build")
    commands.add_parser("list")
    for name in ("start", "shell", "stop"):
        command = commands.add_parser(name)
        command.add_argument("name", nargs="?", default="lab")
        if name == "start":
            command.add_argument("--disks", choices=list(Layout), default=Layout.ONE_DISK)
            command.add_argument("--boot", action="store_true", help="boot, resume no saved state")
            command.add_argument("--network", action="store_true", help="in a network of its own")
    return parser


def guests_folder() -> Path:
    """`$XDG_STATE_HOME/quiesce/lab`, `~/.local/state/quiesce/lab` without that variable."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return Path(base) / "quiesce" / "lab"


def _start(name: str, layout: Layout, boot: bool, with_network: bool) -> None:
    folder = guests_folder() / name
    files = GuestFiles(folder)
    if _pid(files):
        raise LabFailure("lab.guest-runs", f"The guest {name} runs already.")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with contextlib.ExitStack() as undo:
        network = LabNetwork(tied=False) if with_network else None
        if network is not None:
            undo.callback(network.remove)
        guest = _guest(folder, layout, network, boot=boot)
        undo.callback(guest.kill)
        guest.start()
        if network is not None:
            Waagent(guest).start()
        undo.pop_all()  # it stays
    print(f"{name} runs on {guest.accelerator} since {time.monotonic() - started:.1f} s")
    print(f"  QMP      {files.qmp_socket}")
    print(f"  agent    {files.qga_socket}")
    print(f"  console  {files.console_log}")
    for disk, path in guest.disks.items():
        print(f"  {disk}      {path}")
    sockets = f"--qmp {files.qmp_socket} --qga {files.qga_socket}"
    if network is None:
        print(f"  quiesce vm add {name} {sockets}")
        return
    print(f"  network  {network.namespace.name}; the server runs there too:")
    print(f"    export QUIESCE_AGENT_ADDRESS={network.host_address}")
    print(f"    export QUIESCE_STORAGE_ADDRESS={network.storage_address}")
    print(f"    export QUIESCE_STORAGE_HOST={network.storage_name}")
    print(f"    {shlex.join(network.enter(['quiesce', 'server']))}")
    print(f"  quiesce vm add {name} {sockets} --agent both")


def _guest(folder: Path, layout: Layout, network: LabNetwork | None, *, boot: bool) -> LabGuest:
    """A guest that ran before boots from its own disks, whatever it is started with now."""
    disks = {path.stem: DiskFile(path) for path in sorted(folder.glob("vd?.qcow2"))}
    if disks:
        return guest_of_disks(folder, disks, network=network, tied=False, exclusive=False)
    make = fresh_guest if boot else ready_guest
    return make(folder, layout, network=network, tied=False, exclusive=False)


def _shell(name: str) -> None:
    files = _running(name)
    agent = QemuGuestAgent(files.qga_socket)
    while True:
        try:
            line = input(f"{name}# ")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not line.strip():
            continue
        try:
            result = agent.execute("/bin/sh", ["-c", line], seconds=600.0)
        finally:
            agent.disconnect()  # Quiesce may want the channel between two lines
        sys.stdout.write(result.stdout.decode(errors="replace"))
        sys.stderr.write(result.stderr.decode(errors="replace"))


def _stop(name: str) -> None:
    files = _running(name)
    qmp(files.monitor_socket, "system_powerdown")
    deadline = time.monotonic() + 60.0
    while _pid(files):
        if time.monotonic() > deadline:
            print(f"{name} does not shut down; its power is cut", file=sys.stderr)
            with contextlib.suppress(LabFailure):
                qmp(files.monitor_socket, "quit")
            deadline = time.monotonic() + 60.0
        time.sleep(0.1)
    remove_leftovers()  # its network, if it had one and was its last guest


def _list() -> None:
    for folder in sorted(guests_folder().glob("*")):
        pid = _pid(GuestFiles(folder))
        print(f"{folder.name:16} {f'runs (pid {pid})' if pid else 'off':20} {folder}")


def _running(name: str) -> GuestFiles:
    files = GuestFiles(guests_folder() / name)
    if not _pid(files):
        raise LabFailure(
            "lab.guest-off",
            f"The guest {name} does not run.",
            remedy=f"python -m quiesce.lab start {name}",
        )
    return files


def _pid(files: GuestFiles) -> int:
    """The process id of the guest in that folder, 0 when none runs."""
    try:
        pid = int(files.pid_file.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return 0
    # The id may belong to another process by now.
    return pid if bytes(files.pid_file) in command else 0


if __name__ == "__main__":
    sys.exit(main())
