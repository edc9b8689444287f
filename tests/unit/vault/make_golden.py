"""Makes tests/golden/vault-v1. Run once per format version, never to make a test pass."""

from __future__ import annotations

import sys
from pathlib import Path

from golden_disks import DISKS, INCREMENT, KEY, PASSPHRASE
from vault_scene import FakeClock, Scene

from quiesce.vault import KdfCost, LocalStore, Passphrase, Vault

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    clock = FakeClock()
    slot = Passphrase(PASSPHRASE, KdfCost(1, 64, 1))
    scene = Scene(Vault.create(LocalStore.create(folder), KEY, slot, clock=clock), clock)
    scene.backup("golden-full", DISKS)
    changed = {"sda": {1}, "sdb": {0}, "several frames": {3, 4}}
    scene.backup("golden-increment", INCREMENT, base="golden-full", changed=changed)
