"""A VM without a guest: its disks are files, its points are copies served by qemu-nbd.

Like QEMU it outlives the server: everything it holds is in its folder and in qemu-nbd processes.
`hold-STAGE` in the folder makes it wait at that stage, where it leaves `at-STAGE`. `fail-prepare`
holds codes, one a line, with which preparing a snapshot fails; `fail-freeze` the mount that cannot
be frozen, unless it is skipped, and `fail-freeze-code` with what it fails. `mended` is what was
mended in the guest, one action a line. With `blind-tracking`, disks have a change tracking that
sees no change.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from paper_agents import PaperAgents, PaperStorage, stage

from quiesce.agent.waagent.ports import AgentBook, ProxyOf
from quiesce.block.nbd import NbdSource
from quiesce.model.door import Endpoint
from quiesce.model.extension import ExtensionState, Finish, Readiness
from quiesce.model.extent import Extent, ExtentKind
from quiesce.model.failure import Evidence, FreezeFailure, VmFailure
from quiesce.model.network import Hop, Proxy
from quiesce.model.papers import Papers
from quiesce.model.policy import SnapshotOptions
from quiesce.model.presence import Presence
from quiesce.model.snapshot import (
    FreezeReport,
    MountFreeze,
    Route,
    SessionDisk,
    SnapshotSession,
)
from quiesce.model.survey import DiskSurvey, Tracking, VmSurvey
from quiesce.model.vm import Disk, PowerState, VmAddress, VmState
from quiesce.service.composition import Composition, ExtensionGuest, SurveyedHypervisor
from quiesce.service.guest_side import GuestSide, Served
from quiesce.transfer.ports import BlockSource

MOUNT = MountFreeze("/", "ext4")


class PaperHypervisor:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def state(self) -> VmState:
        if not self._folder.is_dir():
            raise VmFailure("vm.not-found", "The VM's folder is gone.")
        disks = tuple(
            Disk(path.stem, path.stat().st_size, path, "raw")
            for path in sorted(self._folder.glob("*.disk"))
        )
        return VmState(PowerState.RUNNING, disks, "paper 1")

    def prepare(
        self, task_id: str, *, bases: Mapping[str, Sequence[str]], options: SnapshotOptions
    ) -> None:
        failing = self._folder / "fail-prepare"
        codes = failing.read_text().split() if failing.exists() else []
        if codes:
            failing.write_text("\n".join(codes[1:]))
            raise VmFailure(codes[0], "The paper VM fails.", retryable=True)
        self._session(task_id).mkdir(parents=True, exist_ok=True)
        (self._session(task_id) / "bases").write_text(json.dumps(dict(bases)))
        stage(self._folder, "prepare")

    def take(self, task_id: str) -> datetime:
        stage(self._folder, "take")
        now = datetime.now(UTC)
        for disk in self.state().disks:
            assert disk.path is not None
            shutil.copyfile(disk.path, self._session(task_id) / f"{disk.name}.point")
        (self._session(task_id) / "taken").write_text(now.isoformat())
        return now

    def open(self, task_id: str) -> SnapshotSession:
        stage(self._folder, "open")
        session = self._session(task_id)
        disks = []
        for point in sorted(session.glob("*.point")):
            socket = session / f"{point.stem}.sock"
            if not socket.exists():  # else an earlier call exports it already
                subprocess.run(
                    ["qemu-nbd", "--fork", "--persistent", "--read-only", "--format=raw",
                     "--shared=8", f"--socket=/proc/self/cwd/{socket.name}",
                     f"--pid-file={point.stem}.pid", f"--export-name={point.stem}", point.name],
                    check=True,
                    cwd=session,  # a socket's own address may not be long
                )  # fmt: skip
            base = self._base(session, point.stem)
            disks.append(
                SessionDisk(
                    name=point.stem,
                    size_bytes=point.stat().st_size,
                    nbd_socket=socket,
                    export=point.stem,
                    dirty_bitmap="blind" if base else None,
                    base_generation=base,
                    full_read_reason="" if base else "first point: paper has no bitmaps",
                    generation=f"quiesce-{task_id}-{point.stat().st_size:x}",
                )
            )
        taken = datetime.fromisoformat((session / "taken").read_text())
        return SnapshotSession(task_id, taken, Route.HOST, tuple(disks))

    def _base(self, session: Path, disk: str) -> str:
        """What an increment counts from, if the VM's tracking is said to be there: it sees no
        change at all."""
        if not (self._folder / "blind-tracking").exists():
            return ""
        generations = json.loads((session / "bases").read_text()).get(disk, [])
        return generations[0] if generations else ""

    def release(self, task_id: str, *, committed: bool) -> None:
        stage(self._folder, "release")
        session = self._session(task_id)
        for pid_file in session.glob("*.pid"):
            try:
                os.kill(int(pid_file.read_text()), signal.SIGTERM)
            except (ProcessLookupError, ValueError):
                continue
        shutil.rmtree(session, ignore_errors=True)

    def survey(self, *, bases: Mapping[str, Sequence[str]], active: Collection[str]) -> VmSurvey:
        state = self.state()
        disks = tuple(DiskSurvey(disk.name, Tracking.FIRST) for disk in state.disks)
        return VmSurvey(state.power, "running", state.hypervisor, disks, sessions=self.leftovers())

    def processor_percent(self, seen: VmSurvey) -> float | None:
        return 5.0

    def leftovers(self) -> tuple[str, ...]:
        return tuple(sorted(path.name for path in (self._folder / "sessions").glob("*")))

    def _session(self, task_id: str) -> Path:
        return self._folder / "sessions" / task_id


class PaperGuest:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._frozen = folder / "frozen"
        self._skips: tuple[str, ...] = ()

    def taking(self) -> str:
        return "its task" if self._frozen.exists() else ""

    def prepare(self, task_id: str, options: SnapshotOptions) -> Readiness:
        stage(self._folder, "pre-script")
        self._skips = options.skip_mounts
        return Readiness("1", (MOUNT,), scripts_configured=False, pre_script=None)

    def freeze(self, task_id: str) -> None:
        failing = self._folder / "fail-freeze"
        mount = failing.read_text() if failing.exists() else ""
        if mount and mount not in self._skips:
            code = self._folder / "fail-freeze-code"
            raise FreezeFailure(
                code.read_text() if code.exists() else "freeze.failed",
                f"The file system at {mount} could not be frozen.",
                evidence=[
                    Evidence(f"FIFREEZE on {mount}", "guest", raw="errno 5 (EIO): I/O error")
                ],
            )
        self._frozen.touch()
        stage(self._folder, "frozen")

    def thaw(self, task_id: str) -> FreezeReport:
        self._frozen.unlink(missing_ok=True)
        return FreezeReport((MOUNT,), held=True, hold_seconds=10.0)

    def finish(self, task_id: str) -> Finish:
        return Finish(post_script=None)

    def recover(self, task_id: str) -> None:
        self._frozen.unlink(missing_ok=True)

    def presence(self) -> Presence:
        return Presence("7.2", executes=True, frozen=False)

    def examine(self) -> Papers:
        return Papers((), "the guest, through qga")

    def status(self) -> ExtensionState:
        return ExtensionState(True, "1", "1", "3.11", "7.2", "paper")

    def preflight(self, skip: tuple[str, ...] = ()) -> tuple[MountFreeze, ...]:
        return (MOUNT, MountFreeze("/mnt/loop", "ext4", skipped="a loop on /", downgrades=True))

    def mend(self, action: str, word: str = "") -> str:
        with (self._folder / "mended").open("a") as notes:
            notes.write(f"{action} {word}\n")
        return f"The paper guest did {action}."

    def install(self) -> bool:
        (self._folder / "extension").touch()
        return True

    def uninstall(self) -> None:
        (self._folder / "extension").unlink(missing_ok=True)

    def probe(self, endpoint: Endpoint, proxy: Proxy, host_address: str) -> tuple[Hop, ...]:
        return (Hop("tcp", True, f"connected to {endpoint.url} by {proxy.https or 'itself'}"),)


class HeldSource:
    """Waits in front of every read while the VM's folder holds it."""

    def __init__(self, source: NbdSource, folder: Path) -> None:
        self._source, self._folder = source, folder
        self.size_bytes = source.size_bytes
        self.extents: Callable[[], Iterator[Extent]] = source.extents
        self.close = source.close

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        stage(self._folder, "read")
        self._source.read_into(offset_bytes, buffer)


class PaperComposition(Composition):
    """A VM's QMP socket address is its folder."""

    def hypervisor(self, address: VmAddress) -> SurveyedHypervisor:
        return PaperHypervisor(address.qmp_socket)

    def guest(self, address: VmAddress) -> ExtensionGuest | None:
        return PaperGuest(address.qmp_socket) if address.agent.qga else None

    def guest_side(
        self, book: AgentBook, polled: Callable[[], Iterable[VmAddress]], proxy_of: ProxyOf
    ) -> GuestSide:
        if not self._settings.agent_address:
            return GuestSide(None)
        agents = PaperAgents(lambda vm: {a.name: a.qmp_socket for a in polled()}[vm])
        return GuestSide(Served(PaperStorage(), agents))

    def source(self, disk: SessionDisk) -> BlockSource:
        source = NbdSource(disk.nbd_socket, disk.export)
        held = HeldSource(source, disk.nbd_socket.parent.parent.parent)
        if disk.dirty_bitmap:
            held.extents = lambda: iter([Extent(0, source.size_bytes, ExtentKind.CLEAN)])
        return held
