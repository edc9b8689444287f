"""The main job on a real VM, from nothing to a proven restore, as a person would do it.

Every command is printed and then run as it is printed. Ends with status 0 only when the restored
disk booted and held all that the guest had acknowledged before its last snapshot.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from quiesce.lab.guest import LabGuest
from quiesce.lab.ledger import acknowledged, prove, start_ledger
from quiesce.lab.machine import DiskFile
from quiesce.lab.state import guest_of_disks, ready_guest
from quiesce.model.failure import Evidence, Failure, LabFailure
from quiesce.model.units import size_text

VM = "demo"
SERVER_START_SECONDS = 60.0
FIRST_LOAD_MIB = 64
SECOND_LOAD_MIB = 24


@dataclass(frozen=True, slots=True)
class Frozen:
    """One mount of one backup. Milliseconds."""

    mount: str
    freeze_ms: float
    frozen_ms: float


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup as the demo reports it. Bytes, milliseconds, seconds."""

    point_id: str
    consistency: str
    incremental: bool
    read_bytes: int
    stored_bytes: int
    seconds: float
    bytes_per_second: float
    freeze: tuple[Frozen, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo proved, as build/demo.json holds it."""

    proven: bool
    accelerator: str
    full: Backup
    incremental: Backup
    worst_guest_write_ms: float
    restore_seconds: float
    acknowledged_records: int
    restored_records: int
    total_seconds: float
    url: str


class Shell:
    """Runs the project's own command line the way a person does, seen on the screen."""

    def __init__(self, console: Console, environment: dict[str, str]) -> None:
        self.console = console
        self._environment = environment
        self._program = str(Path(sys.executable).with_name("quiesce"))

    def say(self, text: str) -> None:
        self.console.print(f"\n[bold]{text}[/bold]")

    def quiesce(self, *arguments: str) -> None:
        """Run a command in the foreground. Raises LabFailure `lab.command-failed`."""
        self.console.print(f"[dim]$[/dim] [cyan]quiesce {shlex.join(arguments)}[/cyan]")
        ended = subprocess.run([self._program, *arguments], env=self._environment)
        if ended.returncode != 0:
            raise LabFailure(
                "lab.command-failed",
                f"`quiesce {shlex.join(arguments)}` ended with {ended.returncode}.",
            )

    def asked(self, *arguments: str) -> Any:
        """What a command answers with --json, unseen."""
        ended = subprocess.run(
            [self._program, *arguments, "--json"], env=self._environment, capture_output=True
        )
        if ended.returncode != 0:
            raise LabFailure(
                "lab.command-failed",
                f"`quiesce {shlex.join(arguments)} --json` ended with {ended.returncode}.",
                evidence=[
                    Evidence("its output", "quiesce", raw=(ended.stdout + ended.stderr).decode())
                ],
            )
        return json.loads(ended.stdout)

    @contextlib.contextmanager
    def server(self, log: Path) -> Iterator[None]:
        """A server that ends with the demo."""
        self.console.print("[dim]$[/dim] [cyan]quiesce server &[/cyan]")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [self._program, "server"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            self._wait_for_server(process, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _wait_for_server(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + SERVER_START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(LabFailure):
                self.asked("vm", "list")
                return
            time.sleep(0.2)
        raise LabFailure(
            "lab.server-failed",
            "The server did not start.",
            evidence=[Evidence("its log", str(log), raw=log.read_text(errors="replace")[-4000:])],
        )


def main() -> int:
    """:return: the exit status; 0 only when the proof held."""
    parser = argparse.ArgumentParser(prog="python -m quiesce.lab.demo", description=__doc__)
    parser.add_argument("--exit", action="store_true", help="end when done instead of staying up")
    parser.add_argument("--folder", type=Path, default=Path("build"))
    options = parser.parse_args()
    console = Console(highlight=False)
    result = options.folder / "demo.json"
    result.unlink(missing_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="quiesce-demo-") as sockets:
            _demo(console, options.folder / "demo", Path(sockets), result, stay=not options.exit)
    except Failure as failure:
        _show_failure(console, failure)
        return 1
    except KeyboardInterrupt:
        console.print("\nEnded.")
        return 0 if result.exists() else 130
    return 0


def _demo(console: Console, folder: Path, sockets: Path, result: Path, *, stay: bool) -> None:
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    data = (folder / "data").resolve()
    data.mkdir(parents=True)
    port = _free_port(8420)
    shell = Shell(
        console,
        os.environ
        | {
            "QUIESCE_DATA_FOLDER": str(data),
            "QUIESCE_RUN_FOLDER": str(sockets / "run"),
            "QUIESCE_PORT": str(port),
        },
    )
    shell.say("A Debian guest (built and booted once, then resumed from its saved state)")
    places = {name: sockets / name for name in (VM, "restored")}
    for place in places.values():
        place.mkdir()
    guest = ready_guest(places[VM], exclusive=False)
    with guest, shell.server(folder / "server.log"):
        start_ledger(guest)
        _write(guest, "first", FIRST_LOAD_MIB)
        console.print(f"It runs on {guest.accelerator} and writes all the time.")

        shell.say("Protect it")
        shell.quiesce(
            "vm", "add", VM, "--qmp", str(guest.qmp_socket), "--qga", str(guest.qga_socket)
        )
        shell.quiesce("policy", "create", "nightly", "--at", "02:30", "--keep-daily", "14")
        shell.quiesce("protect", VM, "--policy", "nightly")

        shell.say("A full backup, then an incremental one")
        shell.quiesce("backup", VM, "--wait")
        _write(guest, "second", SECOND_LOAD_MIB)
        promised = acknowledged(guest)
        shell.quiesce("backup", VM, "--wait")
        worst = acknowledged(guest).worst_write_ms
        incremental, full = (_backup(shell, point) for point in shell.asked("point", "list")[:2])

        shell.say("Restore the newest point and boot it")
        disk = folder / "restored.img"
        restoring = time.monotonic()
        shell.quiesce("restore", incremental.point_id, "--to", str(disk), "--wait")
        restore_seconds = time.monotonic() - restoring
        disks = {"vda": DiskFile(disk.resolve(), "raw")}
        with guest_of_disks(places["restored"], disks, exclusive=False) as restored:
            records = prove(restored, promised)
        disk.unlink()

        outcome = Outcome(
            proven=True,  # or `prove` had raised
            accelerator=guest.accelerator,
            full=full,
            incremental=incremental,
            worst_guest_write_ms=worst,
            restore_seconds=restore_seconds,
            acknowledged_records=promised.records,
            restored_records=records,
            total_seconds=time.monotonic() - started,
            url=f"http://127.0.0.1:{port}",
        )
        result.write_text(json.dumps(asdict(outcome), indent=2) + "\n")
        _show(console, outcome, data)
        if stay:
            console.print("\nServer and VM stay up until Ctrl-C.")
            while True:
                time.sleep(3600)


def _write(guest: LabGuest, name: str, mebibytes: int) -> None:
    guest.run(
        f"dd if=/dev/urandom of=/var/lib/{name} bs=1M count={mebibytes} conv=fsync 2>/dev/null",
        seconds=300.0,
    )


def _backup(shell: Shell, point: dict[str, Any]) -> Backup:
    job = shell.asked("job", "show", point["job_id"])
    freeze = point["freeze"] or {"mounts": []}
    transfer = job["tasks"][-1]
    seconds = _seconds_between(transfer["started_at"], transfer["ended_at"])
    read_bytes = sum(disk["read_bytes"] for disk in point["disks"])
    return Backup(
        point_id=point["id"],
        consistency=point["consistency"]["level"],
        incremental=all(disk["incremental"] for disk in point["disks"]),
        read_bytes=read_bytes,
        stored_bytes=sum(disk["stored_bytes"] for disk in point["disks"]),
        seconds=seconds,
        bytes_per_second=read_bytes / seconds if seconds else 0.0,
        freeze=tuple(
            Frozen(mount["mount"], mount["freeze_ms"], mount["frozen_ms"])
            for mount in freeze["mounts"]
            if not mount["skipped"]
        ),
    )


def _seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _show(console: Console, outcome: Outcome, data: Path) -> None:
    table = Table(title="What was seen", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("full", justify="right")
    table.add_column("incremental", justify="right")
    both = (outcome.full, outcome.incremental)
    table.add_row("read from the guest's disk", *(size_text(one.read_bytes) for one in both))
    table.add_row("new in the vault", *(size_text(one.stored_bytes) for one in both))
    table.add_row("throughput", *(f"{size_text(int(one.bytes_per_second))}/s" for one in both))
    table.add_row("consistency", *(one.consistency for one in both))
    for mounts in zip(*(one.freeze for one in both), strict=True):
        table.add_row(
            f"{mounts[0].mount}: frozen in / held for",
            *(f"{mount.freeze_ms:.1f} / {mount.frozen_ms:.0f} ms" for mount in mounts),
        )
    console.print()
    console.print(table)
    console.print(
        f"\nLongest write in the guest, backups included: {outcome.worst_guest_write_ms:.0f} ms\n"
        f"Restored in {outcome.restore_seconds:.1f} s; the restored disk booted and holds all "
        f"{outcome.acknowledged_records} records\nthat the guest had acknowledged before the "
        f"snapshot (and {outcome.restored_records - outcome.acknowledged_records} later ones).\n"
        f"Portal and API: {outcome.url} (password in {data / 'portal-password'})\n"
        f"Took {outcome.total_seconds:.0f} s."
    )


def _show_failure(console: Console, failure: Failure) -> None:
    console.print(f"\n[bold red]Failed:[/bold red] {failure}")
    for evidence in failure.evidence:
        console.print(f"  {evidence.source}: {evidence.fact}", markup=False)
        if evidence.raw:
            console.print(evidence.raw, markup=False)
    if failure.remedy:
        console.print(f"Next step: {failure.remedy}", markup=False)


def _free_port(wanted: int) -> int:
    """`wanted`, or any free one when something listens there already."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise LabFailure("lab.no-port", "No TCP port is free on 127.0.0.1.")


if __name__ == "__main__":
    sys.exit(main())
