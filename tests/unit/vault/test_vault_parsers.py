"""What fuzzing and reading found in parsers of stored bytes: each by its own input."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from blake3 import blake3
from paper_store import PaperStore
from small_vault import small_disk, small_scene
from vault_scene import FREEZE, FakeClock, Scene

from quiesce.model.failure import Failure
from quiesce.vault.contents.lease import leased
from quiesce.vault.format.keys import (
    KdfCost,
    KeyFile,
    Passphrase,
    VaultKeys,
    unlock,
)
from quiesce.vault.format.manifest import ManifestError, read_manifest
from quiesce.vault.format.pack import (
    END_MAGIC,
    HEAD_BYTES,
    LENGTH_LIMIT_BYTES,
    MAGIC,
    PackError,
    head_cipher,
    open_footer,
    pack_key,
    whole_footer,
)
from quiesce.vault.format.sealed import seal, unseal
from quiesce.vault.format.segment import rows_of_footer
from quiesce.vault.format.slots import list_slots

KEYS = VaultKeys(bytes(32))
BEYOND = ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-11-23T00:00:00"]


@pytest.fixture
def small() -> Scene:
    clock = FakeClock()
    scene = small_scene(PaperStore(clock), clock)
    scene.backup("job", small_disk(1, 2, 3))
    return scene


def pack_with(keys: VaultKeys, rows: bytes, room_bytes: int) -> bytes:
    """A pack that is authentic, and whose footer says this of its blobs."""
    head, start = MAGIC + bytes(HEAD_BYTES - len(MAGIC)), HEAD_BYTES + room_bytes
    footer = head_cipher(keys, head).encrypt(start.to_bytes(12, "big"), rows, head)
    return head + bytes(room_bytes) + footer + struct.pack("<II8s", start, len(footer), END_MAGIC)


def test_a_row_too_long_for_the_index_is_refused_by_both_readers_of_footers() -> None:
    """Its length would have spilt over into place and codec when the index was written anew."""
    row = struct.pack("<32sIIBBB5x", bytes(32), HEAD_BYTES, LENGTH_LIMIT_BYTES + 1, 0, 0, 0)
    stored = pack_with(KEYS, row, 4 << 20)
    with pytest.raises(PackError, match="out of range"):
        whole_footer(KEYS, memoryview(stored))
    store = PaperStore()
    store.put(pack_key(bytes(32)), stored)
    with pytest.raises(PackError, match="out of range"):
        rows_of_footer(*open_footer(KEYS, store, bytes(32), len(stored)))


def test_a_pack_without_any_blob_harms_nothing(small: Scene) -> None:
    stored = pack_with(small.vault.contents.keys, b"", 0)
    small.store.put(pack_key(blake3(stored).digest()), stored)
    again = small.reopened()
    again.vault.rebuild_index()
    assert again.vault.verify("chunks").intact
    assert again.restore(again.vault.points()[0]) == small_disk(1, 2, 3)


def manifest_of(scene: Scene) -> tuple[str, dict[str, Any]]:
    point_id = scene.vault.points()[0].id
    stored = scene.store.get(f"points/{point_id}", limit_bytes=1 << 20)
    return point_id, json.loads(unseal(scene.vault.contents.keys, "manifest", point_id, stored))


def bent_manifests(raw: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for at in BEYOND:
        yield f"taken at {at}", raw | {"taken_at": at}
        yield f"committed at {at}", raw | {"committed_at": at}
    for number in (float("nan"), float("inf")):
        yield f"frozen for {number} s", raw | {"freeze": raw["freeze"] | {"hold_seconds": number}}
    yield "half a surrogate pair in a VM's name", raw | {"vm": "\ud800"}
    yield "and in a disk's", raw | {"disks": [raw["disks"][0] | {"name": "\ud800"}]}
    yield "in a reason", raw | {"consistency": {"level": "crash", "reason": "\udfff"}}


def test_what_could_not_be_shown_or_sent_on_is_a_damaged_manifest(small: Scene) -> None:
    keys = small.vault.contents.keys
    point_id, raw = manifest_of(small)
    for what, bent in bent_manifests(raw):
        stored = seal(keys, "manifest", point_id, json.dumps(bent).encode())
        try:
            read_manifest(keys, point_id, stored)
        except ManifestError:
            continue
        pytest.fail(f"taken: {what}")


def test_times_come_back_in_utc_and_the_whole_freeze_is_kept(small: Scene) -> None:
    point_id, raw = manifest_of(small)
    mount = raw["freeze"]["mounts"][0] | {"skipped": "busy", "downgrades": True}
    bent = raw | {
        "taken_at": "2026-11-23T05:30:00+05:30",
        "freeze": raw["freeze"] | {"mounts": [mount]},
    }
    keys = small.vault.contents.keys
    stored = seal(keys, "manifest", point_id, json.dumps(bent).encode())
    point = read_manifest(keys, point_id, stored).point
    assert str(point.taken_at) == "2026-11-23 00:00:00+00:00"
    assert point.freeze is not None
    assert point.freeze.mounts[0].downgrades
    assert not FREEZE.mounts[0].downgrades


@pytest.mark.parametrize("at", BEYOND)
def test_a_mark_at_an_impossible_time_keeps_collection_waiting(small: Scene, at: str) -> None:
    small.vault.contents.records.put("garbage/0", "garbage", {"at": at, "packs": ["00" * 32]})
    with pytest.raises(Failure) as caught:
        small.vault.plan_collect()
    assert caught.value.code == "vault.collect-refused"


@pytest.mark.parametrize("at", BEYOND)
def test_a_session_and_a_deletion_at_an_impossible_time_do_no_harm(small: Scene, at: str) -> None:
    records = small.vault.contents.records
    records.put("sessions/0123456789abcdef-0", "session", {"at": at, "started_at": at})
    records.put(f"deleted/{small.vault.points()[0].id}", "deleted", {"at": at})
    assert small.vault.points() == ()
    assert small.vault.plan_collect().delete == ()


@pytest.mark.parametrize("at", BEYOND)
def test_a_lease_at_an_impossible_time_is_as_old_as_the_store_says(small: Scene, at: str) -> None:
    contents = small.vault.contents
    contents.records.put("sessions/gc", "lease", {"at": at, "holder": "somebody"})
    with pytest.raises(Failure) as caught, leased(contents):
        pass
    assert caught.value.code == "vault.collect-running"
    small.clock.advance(hours=7)
    with leased(contents):
        pass


@pytest.mark.parametrize("name", ["time_cost", "memory_kib", "lanes"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**30, -1, None, "4 MiB"])
def test_a_slot_that_asks_for_an_impossible_effort_opens_nothing(name: str, value: object) -> None:
    key = Passphrase("p", KdfCost(1, 64, 1))
    slot = json.loads(KEYS.wrap(key, b"id", datetime.now(UTC)))
    slot["argon2"][name] = value
    with pytest.raises(Failure) as caught:
        unlock([json.dumps(slot).encode()], key, b"id")
    assert caught.value.code == "vault.corrupt-slots"


@pytest.mark.parametrize("at", BEYOND)
def test_a_slot_added_at_an_impossible_time_is_as_old_as_the_store_says(
    small: Scene, at: str
) -> None:
    stored = json.loads(small.vault.contents.keys.wrap(
        KeyFile(bytes(32)), small.vault.config.bound, small.clock()
    )) | {"added_at": at}  # fmt: skip
    small.store.put("keys/slot-0", json.dumps(stored).encode())
    found = next(slot for slot in list_slots(small.store) if slot.id == "0")
    assert found.kind == "key-file"
    assert found.added_at == small.clock()
