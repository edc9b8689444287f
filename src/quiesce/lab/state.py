"""Guests that are ready at once: a guest is booted a single time and its state saved.

    <image>/states/<key>/   state.zst   vda.qcow2 [vdb.qcow2 vdc.qcow2]   state.json

A saved state fits only the very disk contents it was saved with. So the saved disks are read-only
backing files, and every guest writes to overlays of its own.
"""

from __future__ import annotations

import json
import shlex
import tempfile
import time
from enum import StrEnum
from pathlib import Path

from quiesce.lab.accelerator import accelerator
from quiesce.lab.cache import made_once
from quiesce.lab.guest import LabGuest
from quiesce.lab.image import Image, built_image
from quiesce.lab.machine import DiskFile, Hardware, state_key
from quiesce.lab.network import LabNetwork
from quiesce.lab.tool import run_tool
from quiesce.model.failure import LabFailure


class Layout(StrEnum):
    """Which disks a guest has."""

    ONE_DISK = "one-disk"
    """vda: ext4 on /"""
    THREE_DISKS = "three-disks"
    """vda: ext4 on /; vdb: XFS on /mnt/xfs; vdc: btrfs on /mnt/btrfs"""

    @property
    def mounts(self) -> tuple[str, ...]:
        """Where the disks are mounted, in the disks' order."""
        return ("/",) if self is Layout.ONE_DISK else ("/", "/mnt/xfs", "/mnt/btrfs")


def fresh_guest(
    folder: Path,
    layout: Layout = Layout.ONE_DISK,
    *,
    network: LabNetwork | None = None,
    tied: bool = True,
    exclusive: bool = True,
) -> LabGuest:
    """A guest with new disks in `folder` that boots when started. Not started yet."""
    image = built_image()
    return LabGuest(
        folder,
        kernel=image.kernel,
        initrd=image.initrd,
        disks=_overlays(_image_disks(image, layout), folder),
        hardware=Hardware(accelerator=accelerator(image)),
        network=network,
        tied=tied,
        exclusive=exclusive,
    )


def ready_guest(
    folder: Path,
    layout: Layout = Layout.ONE_DISK,
    *,
    network: LabNetwork | None = None,
    tied: bool = True,
    exclusive: bool = True,
) -> LabGuest:
    """A guest with new disks in `folder` that resumes a saved boot when started. Not started yet.

    The state is made now if nobody has made it before, which takes a boot.
    """
    image = built_image()
    hardware = Hardware(accelerator=accelerator(image))
    saved = _saved_state(image, layout, hardware)
    disks = {name: saved / f"{name}.qcow2" for name in _image_disks(image, layout)}
    return LabGuest(
        folder,
        kernel=image.kernel,
        initrd=image.initrd,
        disks=_overlays(disks, folder),
        hardware=hardware,
        saved_state=saved / "state.zst",
        network=network,
        tied=tied,
        exclusive=exclusive,
    )


def guest_of_disks(
    folder: Path,
    disks: dict[str, DiskFile],
    *,
    network: LabNetwork | None = None,
    tied: bool = True,
    exclusive: bool = True,
) -> LabGuest:
    """A guest that boots from disks that already exist, such as restored ones. They are written."""
    image = built_image()
    return LabGuest(
        folder,
        kernel=image.kernel,
        initrd=image.initrd,
        disks=disks,
        hardware=Hardware(accelerator=accelerator(image)),
        network=network,
        tied=tied,
        exclusive=exclusive,
    )


def _image_disks(image: Image, layout: Layout) -> dict[str, Path]:
    disks = {"vda": image.root_disk}
    if layout is Layout.THREE_DISKS:
        disks |= {"vdb": image.data_disk("xfs"), "vdc": image.data_disk("btrfs")}
    return disks


def _overlays(backing: dict[str, Path], folder: Path) -> dict[str, DiskFile]:
    overlays = {}
    for name, path in backing.items():
        overlay = folder / f"{name}.qcow2"
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=1.1"]
        run_tool([*create, "-b", str(path), "-F", "qcow2", str(overlay)])
        overlays[name] = DiskFile(overlay)
    return overlays


def _saved_state(image: Image, layout: Layout, hardware: Hardware) -> Path:
    qemu_version = run_tool(["qemu-system-x86_64", "--version"]).splitlines()[0]
    key = state_key(image.name, layout, hardware, qemu_version)
    folder = image.folder / "states" / key
    return made_once(folder, lambda temporary: _save(image, layout, hardware, temporary))


def _save(image: Image, layout: Layout, hardware: Hardware, folder: Path) -> None:
    disks = _overlays(_image_disks(image, layout), folder)
    with tempfile.TemporaryDirectory(prefix="quiesce-lab-") as sockets:
        guest = LabGuest(
            Path(sockets),
            kernel=image.kernel,
            initrd=image.initrd,
            disks=disks,
            hardware=hardware,
        )
        started = time.monotonic()
        with guest:
            boot_seconds = time.monotonic() - started
            _settle(guest, layout)
            saving = time.monotonic()
            guest.qmp("stop")
            guest.qmp("migrate-set-parameters", {"max-bandwidth": 1 << 40})  # the default crawls
            state = shlex.quote(str(folder / "state.zst"))
            guest.qmp("migrate", {"uri": f"exec:zstd -q -1 > {state}"})
            _wait_for_migration(guest)
            guest.stop()
    for disk in disks.values():
        disk.path.chmod(0o444)
    (folder / "state.json").write_text(
        json.dumps(
            {
                "layout": layout,
                "accelerator": hardware.accelerator,
                "boot_seconds": round(boot_seconds, 1),
                "save_seconds": round(time.monotonic() - saving, 1),
                "state_bytes": (folder / "state.zst").stat().st_size,
            },
            indent=2,
        )
        + "\n"
    )


def _settle(guest: LabGuest, layout: Layout) -> None:
    """Wait until its disks are mounted and everything is written out."""
    for mount in layout.mounts:
        guest.run(f"until mountpoint -q {mount}; do sleep 0.2; done", seconds=60.0)
    guest.run("sync; echo 3 > /proc/sys/vm/drop_caches")


def _wait_for_migration(guest: LabGuest, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = guest.qmp("query-migrate")
        status = answer.get("status") if isinstance(answer, dict) else None
        if status == "completed":
            return
        if status in ("failed", "cancelled"):
            raise LabFailure("lab.save-failed", f"QEMU could not save the guest: {answer}")
        time.sleep(0.05)
    raise LabFailure("lab.save-failed", f"QEMU did not save the guest within {seconds:.0f} s.")
