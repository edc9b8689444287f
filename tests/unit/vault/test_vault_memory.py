"""A process makes one backup after another: none may leave its memory behind."""

from __future__ import annotations

import gc
from pathlib import Path

from vault_scene import Scene, random_bytes

MIB = 1 << 20


def shared_bytes() -> int:
    """What anonymous maps occupy, such as the buffers of packs."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssShmem:")[1].split()[0]) * 1024


def test_a_backup_gives_its_pack_buffers_back_at_once(scene: Scene) -> None:
    gc.collect()
    before = shared_bytes()
    gc.disable()
    try:
        for number in range(3):
            scene.backup(f"job {number}", random_bytes(number, 40 * MIB))
        assert shared_bytes() - before < MIB
    finally:
        gc.enable()
