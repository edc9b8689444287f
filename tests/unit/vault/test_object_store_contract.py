"""What every store promises, asked of a folder and of each cloud's real protocol."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from cloud_scene import Place
from dated_store import DatedStore
from vault_scene import FakeClock, Scene, disk_of, random_bytes

from quiesce.model.failure import StorageFailure
from quiesce.vault.format.pack import PACK_BYTES
from quiesce.vault.stores.store import ObjectMissing, Put

PACK = "packs/00/" + "a" * 64


def test_an_object_is_created_once_and_never_changes(place: Place) -> None:
    store = place.create()
    assert store.put("points/one", b"first") is Put.CREATED
    assert store.put("points/one", b"second, and longer") is Put.ALREADY_THERE
    assert store.get("points/one", limit_bytes=100) == b"first"


def test_of_many_who_put_one_key_at_once_exactly_one_creates_it(place: Place) -> None:
    store = place.create()
    results: dict[str, dict[bytes, Put]] = {f"sessions/race-{n}": {} for n in range(8)}
    gate = threading.Barrier(4)

    def contend(mine: bytes) -> None:
        for key, result in results.items():
            gate.wait()
            result[mine] = store.put(key, mine)

    writers = [threading.Thread(target=contend, args=(bytes([n]) * 1000,)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    for key, result in results.items():
        assert Counter(result.values()) == {Put.CREATED: 1, Put.ALREADY_THERE: 3}
        (winner,) = (mine for mine, put in result.items() if put is Put.CREATED)
        assert store.get(key, limit_bytes=1000) == winner


def test_a_pack_of_full_size_comes_back_whole_and_in_parts(place: Place) -> None:
    store = place.create()
    pack = random_bytes(1, PACK_BYTES)
    assert store.put(PACK, memoryview(bytearray(pack))) is Put.CREATED
    assert store.get(PACK, limit_bytes=PACK_BYTES) == pack
    assert store.get_range(PACK, 0, 64) == pack[:64]
    assert store.get_range(PACK, PACK_BYTES - 16, 16) == pack[-16:]
    assert store.stat(PACK).size_bytes == PACK_BYTES


def test_a_range_ends_where_its_object_ends(place: Place) -> None:
    store = place.create()
    store.put("points/one", b"0123456789")
    assert store.get_range("points/one", 3, 4) == b"3456"
    assert store.get_range("points/one", 8, 100) == b"89"
    assert store.get_range("points/one", 10, 5) == b""
    assert store.get_range("points/one", 1000, 5) == b""
    assert store.get_range("points/one", 2, 0) == b""


def test_an_object_without_content_is_one_all_the_same(place: Place) -> None:
    store = place.create()
    assert store.put("points/none", b"") is Put.CREATED
    assert store.put("points/none", b"x") is Put.ALREADY_THERE
    assert store.get("points/none", limit_bytes=10) == b""
    assert store.get_range("points/none", 0, 10) == b""
    assert store.stat("points/none").size_bytes == 0


def test_what_is_not_there_is_missing_whichever_way_it_is_asked_for(place: Place) -> None:
    store = place.create()
    for ask in (
        lambda: store.get("points/none", limit_bytes=10),
        lambda: store.get_range("points/none", 0, 10),
        lambda: store.get_range("points/none", 0, 0),
        lambda: store.stat("points/none"),
    ):
        with pytest.raises(ObjectMissing, match="points/none") as missing:
            ask()
        assert missing.value.code == "storage.object-missing"


def test_more_bytes_than_the_caller_allows_are_not_read(place: Place) -> None:
    store = place.create()
    store.put("points/one", b"x" * 101)
    with pytest.raises(StorageFailure) as refused:
        store.get("points/one", limit_bytes=100)
    assert refused.value.code == "storage.object-too-large"


def test_a_list_holds_all_below_its_folder_and_nothing_else(place: Place) -> None:
    store = place.create()
    store.put("points/one", b"1")
    store.put("points/two", b"22")
    store.put(PACK, b"333")
    store.put("deleted/points", b"")
    listed = {info.key: info for info in store.list("points/")}
    assert {key: info.size_bytes for key, info in listed.items()} == {
        "points/one": 1,
        "points/two": 2,
    }
    now = datetime.now(UTC)
    assert all(abs(now - info.modified_at) < timedelta(minutes=5) for info in listed.values())
    assert [info.key for info in store.list("packs/")] == [PACK]
    assert list(store.list("garbage/")) == []


def test_what_is_deleted_is_gone_and_may_be_deleted_again(place: Place) -> None:
    store = place.create()
    store.put("points/one", b"first")
    store.delete("points/one")
    store.delete("points/one")
    with pytest.raises(ObjectMissing):
        store.stat("points/one")
    assert list(store.list("points/")) == []
    assert store.put("points/one", b"second") is Put.CREATED
    assert store.get("points/one", limit_bytes=100) == b"second"


def test_a_key_that_leads_elsewhere_is_refused_before_anything_is_asked(place: Place) -> None:
    store = place.create()
    for key in ("../one", "points/../../one", "/etc/passwd", "points//one", "Points/one", ""):
        for ask in (
            lambda key=key: store.put(key, b""),
            lambda key=key: store.get(key, limit_bytes=1),
            lambda key=key: store.delete(key),
        ):
            with pytest.raises(ValueError, match="object key"):
                ask()


def test_a_store_is_found_again_by_its_address_and_made_only_once(place: Place) -> None:
    with pytest.raises(StorageFailure) as absent:
        place.open()
    assert absent.value.code == "storage.vanished"
    place.create().put("points/one", b"1")
    for again in (place.open(), place.create()):
        assert again.get("points/one", limit_bytes=1) == b"1"
        assert again.address == place.address


def test_a_vault_is_backed_up_to_verified_restored_from_and_cleared(
    place: Place, clock: FakeClock
) -> None:
    scene = Scene.create(DatedStore(place.create(), clock), clock)
    old = disk_of(1, 2, 3, 0, tail=1000)
    new = disk_of(1, 7, 3, 8, tail=1000)
    first = scene.backup("first", {"sda": old})
    second = scene.backup("second", {"sda": new}, base="first", changed={"sda": {1, 3}})
    gone = scene.backup("gone", disk_of(21, 22))

    elsewhere = scene.reopened(DatedStore(place.open(), clock))
    assert elsewhere.restore(first) == old
    assert elsewhere.restore(second) == new
    for mode in ("packs", "chunks"):
        assert elsewhere.vault.verify(mode).intact

    elsewhere.delete(gone)
    before = elsewhere.vault.status().stored_bytes
    elsewhere.collect_fully()
    after = scene.reopened(place.open())
    assert after.vault.status().stored_bytes < before
    assert {point.id for point in after.vault.points()} == {first.id, second.id}
    assert after.restore(second) == new
    assert after.vault.verify("chunks").intact
