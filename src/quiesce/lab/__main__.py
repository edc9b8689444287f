"""`python -m quiesce.lab`: a guest to play with.

build               the image, if it is not in the cache
start [NAME]        a guest that stays; prints its sockets and how to protect it
shell [NAME]        commands run in the guest, through its agent
stop [NAME]         end it; its disks stay for the next start
list                the guests there are
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path

from quiesce.agent.qga import QemuGuestAgent
from quiesce.lab.guest import LabGuest
from quiesce.lab.image import built_image
from quiesce.lab.machine import DiskFile, GuestFiles
from quiesce.lab.monitor import qmp
from quiesce.lab.state import Layout, fresh_guest, guest_of_disks, ready_guest
from quiesce.model.failure import Failure, LabFailure


def main(arguments: list[str] | None = None) -> int:
    """:return: the exit status of the command"""
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "build":
                print(built_image().folder)
            case "start":
                _start(options.name, Layout(options.disks), boot=options.boot)
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
    return parser


def guests_folder() -> Path:
    """`$XDG_STATE_HOME/quiesce/lab`, `~/.local/state/quiesce/lab` without that variable."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return Path(base) / "quiesce" / "lab"


def _start(name: str, layout: Layout, *, boot: bool) -> None:
    folder = guests_folder() / name
    files = GuestFiles(folder)
    if _pid(files):
        raise LabFailure("lab.guest-runs", f"The guest {name} runs already.")
    folder.mkdir(parents=True, exist_ok=True)
    guest = _guest(folder, layout, boot=boot)
    started = time.monotonic()
    try:
        guest.start()
    except BaseException:
        guest.kill()
        raise
    print(f"{name} runs on {guest.accelerator} since {time.monotonic() - started:.1f} s")
    print(f"  QMP      {files.qmp_socket}")
    print(f"  agent    {files.qga_socket}")
    print(f"  console  {files.console_log}")
    for disk, path in guest.disks.items():
        print(f"  {disk}      {path}")
    print(f"  quiesce vm add {name} --qmp {files.qmp_socket} --qga {files.qga_socket}")


def _guest(folder: Path, layout: Layout, *, boot: bool) -> LabGuest:
    """A guest that ran before boots from its own disks, whatever it is started with now."""
    disks = {path.stem: DiskFile(path) for path in sorted(folder.glob("vd?.qcow2"))}
    if disks:
        return guest_of_disks(folder, disks, tied=False, exclusive=False)
    make = fresh_guest if boot else ready_guest
    return make(folder, layout, tied=False, exclusive=False)


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
