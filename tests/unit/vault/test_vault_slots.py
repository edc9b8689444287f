"""Who can open a vault: slots are listed, added and removed, and one always stays."""

from __future__ import annotations

import json

import pytest
from faulty_store import Call, FaultyStore
from paper_store import PaperStore
from vault_scene import KEY, FakeClock, Scene, disk_of

from quiesce.model.failure import Failure
from quiesce.vault import KdfCost, KeyFile, Passphrase, RecoveryKey, Vault
from quiesce.vault.format.slots import list_slots, remove_slot, slot_opened_by

CHEAP = KdfCost(1, 64, 1)


@pytest.fixture
def scene(clock: FakeClock) -> Scene:
    return Scene.create(PaperStore(clock), clock)


def test_slots_are_listed_with_kind_and_time_and_without_any_key(
    scene: Scene, clock: FakeClock
) -> None:
    clock.advance(hours=1)
    scene.vault.add_key(Passphrase("open", CHEAP))
    clock.advance(hours=1)
    scene.vault.add_key(RecoveryKey.generate())
    slots = list_slots(scene.store)
    assert [slot.kind for slot in slots] == ["key-file", "passphrase", "recovery"]
    assert slots[0].added_at < slots[1].added_at < slots[2].added_at
    assert abs((clock() - slots[2].added_at).total_seconds()) < 2


def test_the_time_of_a_slot_survives_a_copy_and_of_an_older_slot_is_the_stores(
    scene: Scene, clock: FakeClock
) -> None:
    store = scene.store
    assert isinstance(store, PaperStore)
    (slot,) = list_slots(store)
    raw, _ = store.objects[f"keys/slot-{slot.id}"]
    clock.advance(hours=5)
    store.objects[f"keys/slot-{slot.id}"] = (raw, clock())
    assert list_slots(store) == (slot,)
    older = {name: value for name, value in json.loads(raw).items() if name != "added_at"}
    store.objects[f"keys/slot-{slot.id}"] = (json.dumps(older).encode(), clock())
    assert list_slots(store)[0].added_at == clock()
    Vault.open(store, KEY)


def test_a_rotated_key_opens_the_same_points_and_the_old_one_none(scene: Scene) -> None:
    point = scene.backup("job", disk_of(1))
    old = slot_opened_by(scene.store, scene.vault.config, KEY)
    new = KeyFile.generate()
    scene.vault.add_key(new)
    scene.vault.remove_key(old)
    assert Vault.open(scene.store, new).point(point.id) == point
    with pytest.raises(Failure) as caught:
        Vault.open(scene.store, KEY)
    assert caught.value.code == "auth.key-wrong"


def test_who_has_the_vault_open_goes_on_when_the_slot_is_removed(scene: Scene) -> None:
    scene.vault.add_key(KeyFile.generate())
    remove_slot(scene.store, slot_opened_by(scene.store, scene.vault.config, KEY))
    assert scene.restore(scene.backup("job", disk_of(1))) == disk_of(1)


def test_the_last_slot_that_can_be_read_stays(scene: Scene) -> None:
    """A damaged slot beside it opens nothing, so it does not count."""
    store = scene.store
    assert isinstance(store, PaperStore)
    store.put("keys/slot-broken", b"{")
    (mine,) = (slot for slot in list_slots(store) if slot.kind)
    with pytest.raises(Failure) as caught:
        remove_slot(store, mine.id)
    assert caught.value.code == "vault.last-key"
    assert remove_slot(store, "broken").kind == ""
    Vault.open(store, KEY)


def test_a_slot_that_cannot_be_read_is_shown_can_be_removed_and_keeps_nobody_out(
    scene: Scene,
) -> None:
    store = scene.store
    assert isinstance(store, PaperStore)
    mine, *_ = list_slots(store)
    store.put("keys/slot-00", bytes(65 * 1024))
    second = scene.vault.add_key(KeyFile.generate())
    store.bad_sectors[f"keys/slot-{second}"] = 0, 1
    kinds = {slot.id: slot.kind for slot in list_slots(store)}
    assert kinds == {mine.id: "key-file", "00": "", second: ""}
    Vault.open(store, KEY)
    with pytest.raises(Failure) as caught:
        remove_slot(store, mine.id)
    assert caught.value.code == "vault.last-key"
    for slot in ("00", second):
        remove_slot(store, slot)
    assert [slot.id for slot in list_slots(store)] == [mine.id]


def test_where_no_slot_can_be_read_the_store_is_blamed_and_no_key(scene: Scene) -> None:
    store = scene.store
    assert isinstance(store, PaperStore)
    (slot,) = list_slots(store)
    store.bad_sectors[f"keys/slot-{slot.id}"] = 0, 1
    with pytest.raises(Failure) as caught:
        Vault.open(store, KEY)
    assert caught.value.code == "storage.io-error"


def test_two_who_remove_one_each_at_the_same_moment_leave_one(scene: Scene) -> None:
    second = KeyFile.generate()
    scene.vault.add_key(second)
    store = FaultyStore(scene.store)
    first, other = (slot.id for slot in list_slots(scene.store))
    left = [other]

    def before(call: Call) -> None:
        if call.operation == "delete" and left:
            scene.store.delete(f"keys/slot-{left.pop()}")

    store.before = before
    with pytest.raises(Failure) as caught:
        remove_slot(store, first)
    assert caught.value.code == "vault.last-key"
    assert [slot.id for slot in list_slots(scene.store)] == [first]


def test_an_unknown_slot_is_told_with_those_that_there_are(scene: Scene) -> None:
    with pytest.raises(Failure) as caught:
        remove_slot(scene.store, "0123")
    assert caught.value.code == "vault.key-slot-unknown"
    assert list_slots(scene.store)[0].id in caught.value.evidence[0].fact


def test_a_slot_holds_no_secret_in_the_clear(scene: Scene) -> None:
    scene.vault.add_key(Passphrase("correct horse", CHEAP))
    store = scene.store
    assert isinstance(store, PaperStore)
    stored = b"".join(data for key, (data, _) in store.objects.items() if key.startswith("keys/"))
    assert b"horse" not in stored
    assert KEY.secret.hex().encode() not in stored


@pytest.mark.parametrize("more", [0, 2])
def test_where_every_slot_is_damaged_that_is_said_and_no_key_is_called_wrong(
    scene: Scene, more: int
) -> None:
    store = scene.store
    assert isinstance(store, PaperStore)
    for _ in range(more):
        scene.vault.add_key(KeyFile.generate())
    for slot in list_slots(store):
        store.delete(f"keys/slot-{slot.id}")
        store.put(f"keys/slot-{slot.id}", b"\0" * 300)
    with pytest.raises(Failure) as caught:
        Vault.open(store, KEY)
    assert caught.value.code == "vault.corrupt-slots"
    told = f"all of its {more + 1} key slots are" if more else "its only key slot is"
    assert caught.value.message == f"No key opens the vault: {told} damaged."
