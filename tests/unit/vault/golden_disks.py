"""What the golden vaults hold: made anew from numbers, so that they stay small."""

from __future__ import annotations

from datetime import UTC, datetime

from small_vault import SMALL_CHUNK, small_disk
from vault_scene import random_bytes

from quiesce.vault import KeyFile, RecoveryKey
from quiesce.vault.contents.records import LONG_AGO
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


# ── the second golden vault: every kind of object, in chunks of 4 KiB ────────────────────────────

RECOVERY = RecoveryKey(bytes(range(32, 64)))
_TAIL = _raw(41, 100)
_WIDE_BYTES = (65_536 + 2) * SMALL_CHUNK
_LAST = (65_536 + 1) * SMALL_CHUNK
SparseDisk = tuple[int, dict[int, bytes]]
"""Its size, and what is at which offset; zeros elsewhere."""

FULL = small_disk(1, 2, 3, 0, 4, 6, 8) + _TAIL
WIDE = {0: small_disk(11), _LAST: small_disk(12)}
"""A disk whose map has two nodes, of which each has one leaf."""
GROWN = small_disk(1, 22, 3, 0, 4, 6, 8) + _TAIL.ljust(SMALL_CHUNK, b"\0") + small_disk(0, 25)
"""Its short last chunk stands in the middle of the disk now, and reads as zeros behind its end."""
SHRUNK = GROWN[:6000]
"""Its last chunk is longer than what is left of the disk."""
KINDS_EXPECTED: dict[str, dict[str, SparseDisk]] = {
    "kinds-full": {
        "sda": (len(FULL), {0: FULL}),
        "wide": (_WIDE_BYTES, WIDE),
        "zeros": (20_000, {}),
    },
    "kinds-grown": {"sda": (len(GROWN), {0: GROWN})},
    "kinds-shrunk": {"sda": (len(SHRUNK), {0: SHRUNK})},
}
AT = datetime(2026, 11, 23, 9, 50, tzinfo=UTC)
RECORDS = {
    "damage/0a": ("damage", {"at": AT, "pack": "00" * 32, "chunks": ["11" * 32]}),
    "garbage/0a": ("garbage", {"at": AT, "packs": ["22" * 32]}),
    "sessions/0123456789abcdef-00": ("session", {"at": AT, "started_at": AT}),
    "sessions/copy-0123456789abcdef-00": ("session", {"at": AT, "started_at": LONG_AGO}),
    "sessions/gc": ("lease", {"at": AT, "holder": "33" * 16}),
}
