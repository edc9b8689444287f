"""A vault with a pack that little lives in, and the short ways to collect what is dead."""

from __future__ import annotations

from small_vault import small_disk
from vault_scene import Scene

from quiesce.vault.points.disk_writer import VaultDiskWriter
from quiesce.vault.points.writer import VaultPointWriter

OLD = small_disk(*range(1, 40, 2))
KEPT = small_disk(1, 3, *range(101, 140, 2))
"""Shares two chunks with `OLD`: what is left of the packs of `OLD` when that is deleted."""


def packs(scene: Scene) -> set[str]:
    return {info.key for info in scene.store.list("packs/")}


def collect(scene: Scene, **options: float) -> None:
    scene.vault.collect(scene.vault.plan_collect(**options))  # type: ignore[arg-type]


def collect_to_the_end(scene: Scene, runs: int = 5) -> None:
    for _ in range(runs):
        scene.clock.advance(hours=30)
        collect(scene.reopened())


def assert_sound(scene: Scene, *disks: bytes) -> None:
    fresh = scene.reopened()
    assert sorted(fresh.restore(point) for point in fresh.vault.points()) == sorted(disks)
    assert fresh.vault.verify("chunks").intact


def run_writer(scene: Scene, job: str, disk: bytes) -> tuple[VaultPointWriter, VaultDiskWriter]:
    writer = scene.vault.writer("web", job)
    return writer, writer.disk("sda", len(disk))
