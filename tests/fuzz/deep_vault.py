"""All that a vault can do, with one object of it hostile; and every target of the vault."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC
from typing import Any

from blake3 import blake3
from deep_http import Target
from deep_vault_parsers import (
    _AT,
    PARSER_TARGETS,
    config_seeds,
    manifest_seeds,
    pack_seeds,
    segment_seeds,
    slot_seeds,
)
from hostile_objects import full_vault, keys_of
from paper_store import PaperStore
from vault_scene import KEY, FakeClock

from quiesce.model.failure import Failure
from quiesce.model.point import RecoveryPoint
from quiesce.vault import Vault
from quiesce.vault.format.keys import (
    VaultKeys,
)
from quiesce.vault.format.pack import (
    END_MAGIC,
    HEAD_BYTES,
    head_cipher,
)
from quiesce.vault.format.sealed import seal
from quiesce.vault.format.slots import list_slots


def vault() -> Target:
    """All that is done with a vault, of which one object holds the input, behind its seal."""
    clock = FakeClock()
    scene = full_vault(clock)
    store: PaperStore = scene.store  # type: ignore[assignment]
    now = clock.now

    def target(data: bytes) -> None:
        kind = _kind_of(data)
        clock.now = now
        stored = store.copy()
        key = keys_of(scene, kind)[0]
        old, at = stored.objects.pop(key)
        new = _disguised(scene.vault.contents.keys, kind, key, old, data)
        if kind in ("pack", "segment"):  # named by their content
            digits = blake3(new if kind == "pack" else new[:-32]).hexdigest()
            key = f"packs/{digits[:2]}/{digits}" if kind == "pack" else f"index/{digits}"
        stored.objects[key] = new, at
        with contextlib.suppress(Failure):
            _work_on(stored, clock)

    return target


_TOLD_BY = {
    "disks": "manifest",
    "salt": "slot",
    "vault_id": "format",
    "holder": "lease",
    "packs": "garbage",
    "chunks": "damage",
    "started_at": "session",
}


def _kind_of(data: bytes) -> str:
    """What an input is put in the place of."""
    try:
        members = json.loads(data)
    except (ValueError, RecursionError):
        return "pack" if len(data) % 48 == 0 else "segment"
    if not isinstance(members, dict):
        return "deleted"
    return next((kind for member, kind in _TOLD_BY.items() if member in members), "deleted")


def _disguised(keys: VaultKeys, kind: str, key: str, old: bytes, data: bytes) -> bytes:
    """An object that is whole and authentic, and says this."""
    if kind in ("format", "slot"):
        return data
    if kind == "pack":
        (start,) = struct.unpack("<I", old[-16:-12])
        footer = head_cipher(keys, old).encrypt(start.to_bytes(12, "big"), data, old[:HEAD_BYTES])
        return old[:start] + footer + struct.pack("<II8s", start, len(footer), END_MAGIC)
    name = {"manifest": key.rpartition("/")[2], "segment": ""}.get(kind, key)
    return seal(keys, {"segment": "index"}.get(kind, kind), name, data)


def _work_on(store: PaperStore, clock: FakeClock) -> None:
    """Each step is tried, however those before it ended."""
    list_slots(store)
    opened = Vault.open(store, KEY, clock=clock)
    for step in (
        lambda: [json.dumps(point_values(point), allow_nan=False) for point in opened.points()],
        lambda: [opened.reader(p.id, d.name) for p in opened.points() for d in p.disks],
        opened.status,
        lambda: opened.plan_deletion([point.id for point in opened.points()]),
        lambda: opened.verify("chunks"),
        opened.rebuild_index,
        lambda: clock.advance(hours=30),
        lambda: opened.collect(opened.plan_collect()),
    ):
        with contextlib.suppress(Failure):
            step()


def point_values(point: RecoveryPoint) -> dict[str, Any]:
    """As it is sent on: times in UTC, texts as UTF-8."""
    repr(point).encode()
    return asdict(point) | {
        name: getattr(point, name).astimezone(UTC).isoformat() for name in _TIMES
    }


_TIMES = ("taken_at", "committed_at")


def vault_seeds() -> list[bytes]:
    at = _AT.isoformat()
    records: list[dict[str, Any]] = [
        {"at": at, "holder": "33"},
        {"at": at, "packs": ["22" * 32]},
        {"at": at, "pack": "00" * 32, "chunks": ["11" * 32]},
        {"at": at, "started_at": at},
        {"at": at},
    ]
    others = (config_seeds, slot_seeds, pack_seeds, segment_seeds, manifest_seeds)
    seeds = [json.dumps(each).encode() for each in records]
    return seeds + [seed for make in others for seed in make()]


VAULT_TARGETS: dict[str, tuple[Callable[[], Target], Callable[[], list[bytes]]]] = {
    **PARSER_TARGETS,
    "vault": (vault, vault_seeds),
}
VAULT_JSON_TARGETS = ("manifest", "slot", "config", "record", "vault")
