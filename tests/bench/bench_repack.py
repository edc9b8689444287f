"""At which live share it pays to copy out of a pack: a vault's life at several thresholds.

    bench_repack.py [DAYS]

Disks of 3,000 chunks change by 2 % a day: 70 % of that in a tenth of the disk, the rest anywhere.
Every day an increment, 14 days are kept, garbage is collected; three VMs.
All in memory, chunks of 4 KiB that do not compress, packs of 32: an increment fills two packs,
as one of 64 MiB does. Printed for each threshold: what is stored for each byte that is
needed (mean of the second half), and what is written for each byte that backups write.
"""

from __future__ import annotations

import random
import sys
import time
from datetime import timedelta
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent / "unit" / "vault"))

from paper_store import PaperStore
from vault_scene import LABEL, FakeClock, Scene

from quiesce.model.point import PointDisk
from quiesce.model.snapshot import Route
from quiesce.vault.format import config
from quiesce.vault.points import packing
from quiesce.vault.upkeep import repack
from quiesce.vault.upkeep.references import References
from quiesce.vault.upkeep.repack import live_bytes

CHUNK, CHUNKS = 4096, 3_000
DAILY, HOT = CHUNKS // 50, CHUNKS // 10
DAY = timedelta(hours=25)
KEPT_DAYS = 14
THRESHOLDS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8)


def back_up(scene: Scene, dice: random.Random, vm: str, day: int) -> int:
    writer = scene.vault.writer(vm, f"{vm}-{day}")
    base = f"{vm}-{day - 1}" if day else ""
    target = writer.disk("sda", CHUNK * CHUNKS, base_generation=base)
    hot = DAILY * 7 // 10
    changed = (
        set(range(CHUNKS))
        if not day
        else (set(dice.sample(range(HOT), hot)) | set(dice.sample(range(CHUNKS), DAILY - hot)))
    )
    written = sum(target.put(n, memoryview(dice.randbytes(CHUNK))) for n in sorted(changed))
    row = PointDisk("sda", CHUNK * CHUNKS, "raw", f"{vm}-{day}", bool(day))
    writer.commit(
        taken_at=scene.clock(), route=Route.HOST, consistency=LABEL, freeze=None, disks=(row,)
    )
    return written


def needed_bytes(scene: Scene) -> float:
    contents = scene.vault.contents
    snapshot = contents.index.snapshot()
    references = References(contents, snapshot)
    references.add(scene.vault.manifests())
    whole = live_bytes(snapshot, references.live)
    packs = {info.key: info.size_bytes for info in contents.store.list("packs/")}
    return sum(
        min(float(whole[n]), snapshot.sizes[n])
        for n, name in enumerate(snapshot.names)
        if f"packs/{name.hex()[:2]}/{name.hex()}" in packs and whole[n]
    )


def life(threshold: float, days: int) -> tuple[float, float, float]:
    """Stored for needed bytes, written for backed-up bytes, processor seconds of collecting."""
    clock = FakeClock()
    store = PaperStore(clock)
    dice = random.Random(1)
    with (
        mock.patch.object(config, "CHUNK_BYTES", CHUNK),
        mock.patch.object(repack, "_SMALL_BYTES", CHUNK),
        mock.patch.object(packing, "PACK_BYTES", 32 * (CHUNK + 100)),
    ):
        scene = Scene.create(store, clock)
        shares, backed_up, copied, seconds = [], 0, 0, 0.0
        for day in range(days):
            for vm in ("a", "b", "c"):
                written = back_up(scene, dice, vm, day)
                backed_up += written if day else 0
            clock.advance(hours=25)
            old = [p for p in scene.vault.points() if p.taken_at < clock() - KEPT_DAYS * DAY]
            scene.delete(*old)
            began = time.process_time()
            done = scene.vault.collect(scene.vault.plan_collect(threshold))
            seconds += time.process_time() - began
            copied += done.copied_bytes
            if day >= days // 2:
                stored = sum(info.size_bytes for info in store.list("packs/"))
                shares.append(stored / needed_bytes(scene))
        return sum(shares) / len(shares), 1 + copied / backed_up, seconds


if __name__ == "__main__":
    days = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    print("| threshold | stored ÷ needed | written ÷ backed up |\n|---|---|---|")
    for threshold in THRESHOLDS:
        space, amplification, _ = life(threshold, days)
        print(f"| {threshold} | {space:.2f} | {amplification:.2f} |", flush=True)
