"""Makes tests/golden/vault-v1 and vault-v1-kinds. Run once per format version, never to make a test
pass:

    make_golden.py frames|kinds FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from golden_disks import (
    AT,
    DISKS,
    GROWN,
    INCREMENT,
    KEY,
    KINDS_EXPECTED,
    PASSPHRASE,
    RECORDS,
    RECOVERY,
    SHRUNK,
)
from small_vault import SMALL_CHUNK, small_disk, small_scene
from vault_scene import FREEZE, LABEL, FakeClock, Scene

from quiesce.model.point import PointDisk
from quiesce.model.snapshot import Route
from quiesce.vault import KdfCost, LocalStore, Passphrase, Vault

SLOT = Passphrase(PASSPHRASE, KdfCost(1, 64, 1))


def frames(folder: Path) -> None:
    clock = FakeClock()
    scene = Scene(Vault.create(LocalStore.create(folder), KEY, SLOT, clock=clock), clock)
    scene.backup("golden-full", DISKS)
    changed = {"sda": {1}, "sdb": {0}, "several frames": {3, 4}}
    scene.backup("golden-increment", INCREMENT, base="golden-full", changed=changed)


def kinds(folder: Path) -> None:
    clock = FakeClock()
    clock.now = AT
    scene = small_scene(LocalStore.create(folder), clock)
    for slot in (SLOT, RECOVERY):
        scene.vault.add_key(slot)
    _put_full(scene)
    scene.backup("kinds-grown", GROWN, base="kinds-full", changed={"sda": {1, 9}})
    scene.backup("kinds-shrunk", SHRUNK, base="kinds-grown", changed={})
    scene.backup("kinds-deleted", small_disk(31, 32), vm="mail")
    scene.delete(*(point for point in scene.vault.points() if point.job_id == "kinds-deleted"))
    for key, (kind, values) in RECORDS.items():
        scene.vault.contents.records.put(key, kind, values)


def _put_full(scene: Scene) -> None:
    """By hand: nobody holds the wide disk in memory."""
    writer = scene.vault.writer("web", "kinds-full")
    disks = KINDS_EXPECTED["kinds-full"]
    for name, (size, parts) in disks.items():
        disk = writer.disk(name, size)
        for offset, data in parts.items():
            disk.put(offset // SMALL_CHUNK, memoryview(data))
    rows = tuple(
        PointDisk(name, size, "raw", "kinds-full", False, "", size, 0)
        for name, (size, _) in disks.items()
    )
    writer.commit(
        taken_at=AT, route=Route.HOST, consistency=LABEL, freeze=FREEZE, disks=rows
    )  # fmt: skip


if __name__ == "__main__":
    {"frames": frames, "kinds": kinds}[sys.argv[1]](Path(sys.argv[2]))
