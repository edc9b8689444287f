"""Vaults of tiny chunks and packs, for histories that are checked thousands of times."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from vault_scene import FakeClock, Scene, random_bytes

from quiesce.vault.format import config
from quiesce.vault.points import packing
from quiesce.vault.stores.store import Store

SMALL_CHUNK = 4096
SMALL_PACK = 40 * 1024


def small_disk(*chunks: int, tail: int = 0) -> bytes:
    """As `disk_of`, for a small vault. Odd numbers give random chunks, even ones compress."""
    parts = [
        random_bytes(n, SMALL_CHUNK) if n % 2 else random_bytes(n, 16) * (SMALL_CHUNK // 16)
        for n in chunks
    ]
    zeros = [part if n else bytes(SMALL_CHUNK) for n, part in zip(chunks, parts, strict=True)]
    return b"".join(zeros) + (random_bytes(999, tail) if tail else b"")


WEB = small_disk(*range(1, 60, 2))
MAIL = small_disk(*range(101, 130, 2))


def small_scene(store: Store, clock: FakeClock) -> Scene:
    with mock.patch.object(config, "CHUNK_BYTES", SMALL_CHUNK):
        return Scene.create(store, clock)


@contextmanager
def small_packs() -> Iterator[None]:
    """Meanwhile a pack is full with a few small chunks, so that a backup stores several."""
    with mock.patch.object(packing, "PACK_BYTES", SMALL_PACK):
        yield


def stored(store: Store) -> int:
    """Bytes of all packs."""
    return sum(info.size_bytes for info in store.list("packs/"))


@contextmanager
def chance_of(seed: int) -> Iterator[None]:
    """Meanwhile names, salts and keys come from this seed, so that a history can be had again."""
    dice = random.Random(seed)
    with ExitStack() as stack:
        for name, draw in (
            ("token_bytes", dice.randbytes),
            ("token_hex", lambda count: dice.randbytes(count).hex()),
            ("randbits", dice.getrandbits),
        ):
            stack.enter_context(mock.patch.object(secrets, name, draw))
        yield
