"""A QEMU without an operating system: disks, a monitor, and writes as a guest would make them."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quiesce.block.nbd import NbdSource
from quiesce.hypervisor.qemu import QemuVm
from quiesce.hypervisor.qmp import Monitor, QmpRefused
from quiesce.model.extent import ExtentKind
from quiesce.model.snapshot import SessionDisk
from quiesce.model.vm import VmAddress

KIB = 1024
MIB = 1024 * KIB
START_SECONDS = 120.0


def make_image(path: Path, size_bytes: int, *, kind: str = "qcow2", options: str = "") -> Path:
    command = ["qemu-img", "create", "-q", "-f", kind]
    if options:
        command += ["-o", options]
    subprocess.run([*command, str(path), str(size_bytes)], check=True)
    return path


@dataclass
class BareQemu:
    """A VM's process that tests start, kill and write through. `disks`: name → (file, format)."""

    folder: Path
    disks: dict[str, tuple[Path, str]]
    extra: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def socket(self) -> Path:
        return self.folder / "qmp.sock"

    @property
    def _output(self) -> Path:
        return self.folder / "qemu.out"

    @property
    def address(self) -> VmAddress:
        return VmAddress(
            "bare", self.socket, disks=tuple((name, path) for name, (path, _) in self.disks.items())
        )

    def vm(self, scratch: Path | None = None) -> QemuVm:
        return QemuVm(self.address, scratch or self.folder / "scratch")

    def start(self, *, paused: bool = False, pass_fds: tuple[int, ...] = ()) -> BareQemu:
        command = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-nodefaults"]
        command += ["-display", "none", "-m", "32", "-no-user-config"]
        command += ["-qmp", f"unix:{self.socket},server=on,wait=off"]
        for i, (name, (path, kind)) in enumerate(self.disks.items()):
            blockdev = f"driver={kind},node-name=node{i},discard=unmap,file.driver=file"
            command += ["-blockdev", f"{blockdev},file.filename={path}"]
            command += ["-device", f"virtio-blk-pci,id={name},drive=node{i}"]
        command += ["-S"] if paused else []
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *self.extra], cwd=self.folder, stdout=output, pass_fds=pass_fds
            )
        self._wait_for_monitor()
        return self

    def _wait_for_monitor(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                Monitor(self.socket).close()
                return
            except Exception:
                assert self.process is not None
                assert self.process.poll() is None, "QEMU ended at once"
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def quit(self) -> None:
        """End as after a guest's shutdown: QEMU stores its bitmaps."""
        assert self.process is not None
        with Monitor(self.socket) as monitor:
            monitor.execute("quit")
        self.process.wait(20)

    def qmp(self, command: str, **arguments: Any) -> Any:
        with Monitor(self.socket) as monitor:
            return monitor.execute(command, {k.replace("_", "-"): v for k, v in arguments.items()})

    def io(self, disk: str, command: str) -> str:
        """A request of the guest, through the device and whatever lies below it by now."""
        device = f"/machine/peripheral/{disk}/virtio-backend"
        said = self._output.stat().st_size
        refusal = self.qmp("human-monitor-command", command_line=f'qemu-io -d {device} "{command}"')
        with self._output.open() as output:  # qemu-io prints to QEMU's own standard output
            output.seek(said)
            return str(refusal) + output.read()

    def write(self, disk: str, offset: int, length: int, pattern: int) -> None:
        answer = self.io(disk, f"write -P {pattern} {offset} {length}")
        assert f"wrote {length}/{length} bytes" in answer, answer

    @property
    def status(self) -> str:
        return str(self.qmp("query-status")["status"])

    def everything(self) -> dict[str, Any]:
        """What a session could leave behind: the block graph by name, exports, bitmaps, state."""
        with Monitor(self.socket) as monitor:
            nodes = monitor.execute("query-named-block-nodes", {"flat": True})
            graph = monitor.execute("x-debug-query-block-graph")
            by_id = {node["id"]: node["name"] for node in graph["nodes"]}
            return {
                "nodes": sorted(node["node-name"] for node in nodes),
                "edges": sorted(
                    (by_id[e["parent"]], e["name"], by_id[e["child"]]) for e in graph["edges"]
                ),
                "drives": {
                    drive["qdev"]: drive["inserted"]["node-name"]
                    for drive in monitor.execute("query-block")
                    if "inserted" in drive
                },
                "exports": monitor.execute("query-block-exports"),
                "bitmaps": self._bitmaps(nodes),
                "status": monitor.execute("query-status")["status"],
                "nbd server": self._has_nbd_server(monitor),
            }

    def bitmaps(self) -> dict[str, list[str]]:
        return self._bitmaps(self.qmp("query-named-block-nodes", flat=True))

    @staticmethod
    def _bitmaps(nodes: list[dict[str, Any]]) -> dict[str, list[str]]:
        return {
            node["node-name"]: sorted(
                b["name"] for b in node.get("dirty-bitmaps", ()) if "name" in b
            )
            for node in nodes
            if node.get("dirty-bitmaps")
        }

    @staticmethod
    def _has_nbd_server(monitor: Monitor) -> bool:
        """Stopping is refused when there is none; a test that asks ends the VM's session anyway."""
        try:
            monitor.execute("nbd-server-stop")
        except QmpRefused:
            return False
        return True


def read(disk: SessionDisk, offset: int, length: int) -> bytes:
    source = NbdSource.of(disk)
    try:
        buffer = bytearray(length)
        source.read_into(offset, memoryview(buffer))
        return bytes(buffer)
    finally:
        source.close()


def dirty_ranges(disk: SessionDisk) -> list[tuple[int, int]]:
    """(offset, length) of what is not CLEAN, neighbours joined."""
    return _ranges(disk, {ExtentKind.DATA, ExtentKind.ZERO})


def data_ranges(disk: SessionDisk) -> list[tuple[int, int]]:
    """(offset, length) of what must be read, neighbours joined."""
    return _ranges(disk, {ExtentKind.DATA})


def _ranges(disk: SessionDisk, kinds: set[ExtentKind]) -> list[tuple[int, int]]:
    source = NbdSource.of(disk)
    try:
        joined: list[tuple[int, int]] = []
        for extent in source.extents():
            if extent.kind not in kinds:
                continue
            if joined and sum(joined[-1]) == extent.offset_bytes:
                joined[-1] = (joined[-1][0], joined[-1][1] + extent.length_bytes)
            else:
                joined.append((extent.offset_bytes, extent.length_bytes))
        return joined
    finally:
        source.close()


def image_bitmaps(path: Path) -> list[dict[str, Any]]:
    """The bitmaps stored in an image that no process has open."""
    info = json.loads(
        subprocess.run(
            ["qemu-img", "info", "--output=json", str(path)], check=True, capture_output=True
        ).stdout
    )
    return list(info["format-specific"]["data"].get("bitmaps", []))
