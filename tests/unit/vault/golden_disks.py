"""What the golden vault holds: made anew from numbers, so that the vault itself stays small."""

from __future__ import annotations

from vault_scene import random_bytes

from quiesce.vault import KeyFile
from quiesce.vault.format.config import CHUNK_BYTES

KEY = KeyFile(bytes(range(32)))
PASSPHRASE = "golden passphrase"


def _text(seed: int) -> bytes:
    """A chunk that compresses well."""
    return (random_bytes(seed, 64) * (CHUNK_BYTES // 64 + 1))[:CHUNK_BYTES]


def _raw(seed: int, length: int) -> bytes:
    """A short chunk that does not compress."""
    return random_bytes(seed, length)


_HOLE = bytes(CHUNK_BYTES)
DISKS = {
    "sda": _text(1) + _text(2) + _HOLE + _text(1) + _raw(3, 3000),
    "data disk ü": _HOLE * 600 + _text(4),
    "sdb": _text(5) + _raw(6, 100),
    "several frames": b"".join(map(_text, range(10, 30))),
    "incompressible": _raw(9, 700),
}
INCREMENT = {
    **DISKS,
    "sda": _text(1) + _text(7) + _HOLE + _text(1) + _raw(3, 3000),
    "sdb": _text(8) + _raw(6, 100),
    "several frames": b"".join(map(_text, [*range(10, 13), 31, 32, *range(15, 30)])),
}
EXPECTED = {"golden-full": DISKS, "golden-increment": INCREMENT}
