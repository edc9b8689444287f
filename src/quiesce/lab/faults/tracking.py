"""Change tracking: bitmaps that are gone, disturbed, left over; sessions that nobody owns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quiesce.lab.faults.fault import Scene, fault

TRACKING = "bitmap"
HOST = {"route": "host"}
_OURS = "quiesce-"
_RAW_BYTES = 64 << 20
_FIRST, _THEN = b"\x5a", b"\xa5"


def _bitmaps(scene: Scene) -> list[tuple[str, dict[str, Any]]]:
    nodes = scene.guest.qmp("query-named-block-nodes", {"flat": True})
    assert isinstance(nodes, list)
    return [(node["node-name"], each) for node in nodes for each in node.get("dirty-bitmaps", [])]


def _on_ours(scene: Scene, command: str) -> None:
    ours = [(node, each) for node, each in _bitmaps(scene) if each["name"].startswith(_OURS)]
    assert ours, "no bitmap of a point is here"
    for node, each in ours:
        scene.guest.qmp(command, {"node": node, "name": each["name"]})


@fault(
    "bitmap-disturbed", TRACKING, "bitmap.inconsistent", first=True, policy=HOST,
    hurts=False, quick=True,
)  # fmt: skip
def bitmap_disturbed(scene: Scene) -> Iterator[None]:
    """Somebody has switched the change tracking off for a while."""
    _on_ours(scene, "block-dirty-bitmap-disable")
    yield


@fault("bitmap-gone", TRACKING, "bitmap.missing", first=True, policy=HOST, hurts=False)
def bitmap_gone(scene: Scene) -> Iterator[None]:
    """The change tracking of the last point was removed, as by a restored image."""
    _on_ours(scene, "block-dirty-bitmap-remove")
    yield


@fault(
    "hypervisor-crashed-before", TRACKING, "bitmap.missing", first=True, spoils=True,
    policy=HOST, hurts=False,
)  # fmt: skip
def hypervisor_crashed_before(scene: Scene) -> Iterator[None]:
    """QEMU was killed since the last point, before it had ever stored its tracking, and runs."""
    scene.guest.kill()
    scene.guest.start()
    yield


@fault(
    "hypervisor-crashed-again", TRACKING, "bitmap.inconsistent", first=True, spoils=True,
    policy=HOST, hurts=False,
)  # fmt: skip
def hypervisor_crashed_again(scene: Scene) -> Iterator[None]:
    """QEMU has stored its tracking once, was started again, was then killed, and runs."""
    scene.guest.stop()
    scene.guest.start()
    scene.guest.kill()
    scene.guest.start()
    yield


@fault("bitmap-left-over", TRACKING, "", first=True, policy=HOST)
def bitmap_left_over(scene: Scene) -> Iterator[None]:
    """A bitmap of ours stays in QEMU whose point nobody has."""
    node, bitmap = next(each for each in _bitmaps(scene) if each[1]["name"].startswith(_OURS))
    # Another point's, with a name of the same form.
    name = bitmap["name"]
    other = name[:-4] + ("beef" if not name.endswith("beef") else "cafe")
    scene.guest.qmp("block-dirty-bitmap-add", {"node": node, "name": other, "persistent": True})
    yield


@fault("session-left-over", TRACKING, "", policy=HOST)
def session_left_over(scene: Scene) -> Iterator[None]:
    """A server that is gone for good has left its snapshot open in QEMU."""
    with scene.server.stuck_in_transfer(scene.guest, scene.vm) as job_id:
        scene.server.kill()
    scene.server.start()
    scene.server.call("POST", "jobs", job_id, "cancel")
    scene.server.end_of(job_id, seconds=120)
    yield


@contextmanager
def _raw_disk(scene: Scene, content: bytes) -> Iterator[Path]:
    """The image of one more disk that the VM has meanwhile, which begins with `content`. Its guest
    does not use it."""
    image = scene.guest.folder / "raw.img"
    image.write_bytes(content)
    os.truncate(image, _RAW_BYTES)
    add = {"driver": "raw", "node-name": "disk-raw",
           "file": {"driver": "file", "filename": str(image)}}  # fmt: skip
    scene.guest.qmp("blockdev-add", add)
    scene.guest.qmp("device_add", {"driver": "virtio-blk-pci", "id": "vdx", "drive": "disk-raw"})
    scene.hand.run("udevadm settle; sleep 1")
    yield image
    scene.guest.qmp("device_del", {"id": "vdx"})
    scene.hand.run("sleep 2")
    scene.guest.qmp("blockdev-del", {"node-name": "disk-raw"})
    image.unlink()


@fault("raw-disk", TRACKING, "", policy=HOST)
def raw_disk(scene: Scene) -> Iterator[None]:
    """The VM has got a raw disk, whose change tracking lasts only as long as its QEMU."""
    with _raw_disk(scene, b""):
        yield


@fault("tracking-lies", TRACKING, "bitmap.audit-mismatch", policy=HOST, hurts=False)
def tracking_lies(scene: Scene) -> Iterator[None]:
    """A tool on the host has written to a disk's image since the last point, past QEMU."""
    with _raw_disk(scene, _FIRST * _RAW_BYTES) as image:
        scene.server.end_of(scene.server.begin(scene.vm), seconds=600)
        # All of it, so that every sample finds it.
        with image.open("r+b") as file:
            file.write(_THEN * _RAW_BYTES)
        yield
