"""What keeps garbage collection going: its reserve of space, its lease, and clearing up."""

from __future__ import annotations

import secrets

import pytest
from dated_store import DatedStore
from faulty_store import Fault, FaultyStore, Rule
from paper_store import PaperStore
from vault_scene import FakeClock, Scene, disk_of, turned

from quiesce.model.failure import Failure
from quiesce.vault import LocalStore
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.damage import open_or_note
from quiesce.vault.contents.reserve import LARGEST_BYTES
from quiesce.vault.format.pack import Kind, pack_key

MIB = 1024 * 1024


def test_a_vault_keeps_a_reserve_from_its_first_backup_on(scene: Scene) -> None:
    reserve = scene.folder / "reserve"
    assert not reserve.exists()
    scene.backup("one", disk_of(1))
    allocated = reserve.stat().st_blocks * 512
    assert MIB <= reserve.stat().st_size <= allocated + 4096
    assert allocated <= LARGEST_BYTES


def test_the_reserve_is_there_again_after_a_collection(scene: Scene) -> None:
    scene.delete(scene.backup("one", disk_of(1)))
    store = FaultyStore(DatedStore(LocalStore(scene.folder), scene.clock))
    scene.reopened(store).collect_fully()
    assert scene.packs() == []
    assert store.calls["give_back_reserve"] == store.calls["keep_reserve"] == 3
    assert (scene.folder / "reserve").stat().st_size >= MIB


def test_a_full_store_gets_its_reserve_back_for_a_deletion_and_for_a_lease(
    scene: Scene, clock: FakeClock
) -> None:
    point = scene.backup("one", disk_of(1))
    for prefix, work in (
        ("deleted/", lambda full: full.delete(point)),
        ("sessions/gc", lambda full: full.vault.collect(full.vault.plan_collect())),
    ):
        store = FaultyStore(DatedStore(LocalStore(scene.folder), scene.clock))
        store.rules.append(Rule("put", Fault.FULL, prefix))
        work(scene.reopened(store))
        assert store.calls["give_back_reserve"] >= 1
        assert (scene.folder / "reserve").exists()


def test_damage_is_recorded_in_a_full_store_so_that_the_next_backup_heals_it(
    clock: FakeClock,
) -> None:
    store = PaperStore(clock)
    scene = Scene.create(store, clock)
    point = scene.backup("one", disk_of(1, 2, 3))
    store.spoil(store.keys("packs/")[0])
    full = FaultyStore(store)
    full.rules.append(Rule("put", Fault.FULL, "damage/"))
    assert scene.reopened(full).vault.verify("chunks").hurt
    assert full.calls["give_back_reserve"] == 1
    scene.reopened().backup("two", disk_of(1, 2, 3))
    assert scene.reopened().restore(point) == disk_of(1, 2, 3)


def test_the_reserve_is_there_again_after_damage_was_recorded_in_a_full_store(
    scene: Scene,
) -> None:
    scene.backup("one", disk_of(1, 2, 3))
    (pack, *_) = scene.packs()
    data = pack.read_bytes()
    pack.chmod(0o600)
    pack.write_bytes(turned(data, 100))
    full = FaultyStore(scene.store)
    full.rules.append(Rule("put", Fault.FULL, "damage/"))
    assert scene.reopened(full).vault.verify("chunks").hurt
    assert full.calls["give_back_reserve"] == 1
    assert (scene.folder / "reserve").stat().st_size >= MIB


def with_a_spoilt_map(store: PaperStore, through: FaultyStore) -> tuple[Contents, bytes]:
    """A vault with a point, opened through another store, and the damaged node of its map."""
    scene = Scene.create(store, store.clock)
    point = scene.backup("one", disk_of(1))
    vault = scene.reopened(through).vault
    (node, *_) = vault.manifest(point.id).maps[0].nodes
    place = vault.contents.index.find(node)
    assert place is not None
    store.spoil(pack_key(vault.contents.index.name_of(place.pack)), place.offset + 5)
    return vault.contents, node


def test_the_reserve_is_there_again_after_a_writer_has_recorded_damage_in_a_full_store(
    clock: FakeClock,
) -> None:
    store = PaperStore(clock)
    contents, node = with_a_spoilt_map(store, full := FaultyStore(store))
    full.rules.append(Rule("put", Fault.FULL, "damage/"))
    with pytest.raises(Failure):
        open_or_note(contents, Kind.MAP, [node])
    assert len(store.keys("damage/")) == full.calls["give_back_reserve"] == 1
    assert store.reserve_bytes >= MIB


def test_the_reserve_is_there_again_after_a_verification_took_its_lease_in_a_full_store(
    clock: FakeClock,
) -> None:
    store = PaperStore(clock)
    scene = Scene.create(store, clock)
    scene.backup("one", disk_of(1))
    full = FaultyStore(store)
    there = scene.reopened(full)
    store.spoil(store.keys("index/")[0])
    full.rules.append(Rule("put", Fault.FULL, "sessions/gc"))
    (finding,) = there.vault.verify("structure").findings
    assert finding.healed
    assert full.calls["give_back_reserve"] == 1
    assert store.reserve_bytes >= MIB


def test_a_writer_whose_record_of_damage_is_refused_relies_on_the_damaged_copy_no_more(
    clock: FakeClock,
) -> None:
    store = PaperStore(clock)
    contents, node = with_a_spoilt_map(store, refusing := FaultyStore(store))
    refusing.rules.append(Rule("put", Fault.READ_ONLY, "damage/", 0))
    with pytest.raises(Failure) as caught:
        open_or_note(contents, Kind.MAP, [node])
    assert caught.value.code == "storage.read-only"
    contents.refresh()
    assert contents.index.find(node) is None


def test_a_collection_that_finds_another_one_leaves_the_reserve_to_it(scene: Scene) -> None:
    scene.backup("one", disk_of(1))
    (scene.folder / "reserve").unlink()
    scene.vault.contents.records.put("sessions/gc", "lease", {"at": scene.clock()})
    with pytest.raises(Failure) as caught:
        scene.vault.collect(scene.vault.plan_collect())
    assert caught.value.code == "vault.collect-running"
    assert not (scene.folder / "reserve").exists()


def slow_collection(scene: Scene, clock: FakeClock, hours: float) -> FaultyStore:
    """A store where every deletion of a pack takes hours."""
    store = FaultyStore(DatedStore(LocalStore(scene.folder), scene.clock))
    delete = store.delete

    def slowly(key: str) -> None:
        if key.startswith("packs/"):
            clock.advance(hours=hours)
        delete(key)

    store.delete = slowly  # type: ignore[method-assign]
    return store


def with_ripe_garbage(scene: Scene, clock: FakeClock, packs: int) -> None:
    points = [scene.backup(f"job-{n}", disk_of(10 * n + 1)) for n in range(packs)]
    scene.delete(*points)
    clock.advance(hours=30)
    scene.vault.collect(scene.vault.plan_collect())
    clock.advance(hours=30)


def test_a_collection_that_takes_longer_than_its_lease_lives_keeps_it(
    scene: Scene, clock: FakeClock
) -> None:
    with_ripe_garbage(scene, clock, packs=5)
    store = slow_collection(scene, clock, hours=4)
    running = scene.reopened(store).vault
    refused: list[str] = []

    def another_collection(key: str) -> None:
        if key.startswith("packs/"):
            with pytest.raises(Failure) as caught:
                scene.vault.collect(scene.vault.plan_collect())
            refused.append(caught.value.code)

    slowly = store.delete

    def delete(key: str) -> None:
        slowly(key)
        another_collection(key)

    store.delete = delete  # type: ignore[method-assign]
    running.collect(running.plan_collect())

    assert refused == ["vault.collect-running"] * 5
    assert scene.packs() == []
    assert list((scene.folder / "sessions").iterdir()) == []


def test_a_collection_that_was_taken_for_dead_stops_and_spares_the_others_lease(
    scene: Scene, clock: FakeClock
) -> None:
    with_ripe_garbage(scene, clock, packs=3)
    store = slow_collection(scene, clock, hours=7)
    running = scene.reopened(store).vault
    slowly = store.delete

    def delete(key: str) -> None:
        slowly(key)
        if key.startswith("packs/"):
            scene.store.delete("sessions/gc")
            values = {"at": scene.clock(), "holder": secrets.token_hex(16)}
            scene.vault.contents.records.put("sessions/gc", "lease", values)

    store.delete = delete  # type: ignore[method-assign]
    with pytest.raises(Failure) as caught:
        running.collect(running.plan_collect())

    assert caught.value.code == "vault.collect-running"
    assert len(scene.packs()) == 2, "it stopped after the step that it lost the lease in"
    assert (scene.folder / "sessions" / "gc").exists()
    clock.advance(hours=7)
    scene.reopened().collect_fully()
    assert scene.packs() == []
    assert scene.reopened().vault.verify("chunks").intact


def test_damage_of_a_collected_pack_is_forgotten_and_that_of_others_is_not(
    scene: Scene,
) -> None:
    gone = scene.backup("one", disk_of(1, 2), vm="web")
    scene.backup("two", disk_of(3, 4), vm="mail")
    for pack in scene.packs():
        data = bytearray(pack.read_bytes())
        data[64 + 100] ^= 1
        pack.write_bytes(data)
    scene.vault.verify("chunks")
    records = scene.vault.contents.records
    assert len(records.damaged_packs()) == 2

    scene.delete(gone)
    scene.collect_fully()

    (kept,) = scene.packs()
    assert [pack.hex() for _, pack in records.damaged_packs()] == [kept.name]


@pytest.mark.parametrize("fault", [Fault.TWICE, Fault.AFTER])
def test_a_lease_whose_answer_was_lost_keeps_nobody_out(scene: Scene, fault: Fault) -> None:
    scene.backup("one", disk_of(1))
    store = FaultyStore(DatedStore(LocalStore(scene.folder), scene.clock))
    store.rules.append(Rule("put", fault, "sessions/gc"))
    there = scene.reopened(store).vault
    code = ""
    try:
        there.collect(there.plan_collect())
    except Failure as failure:
        code = failure.code
    assert code == ("storage.io-error" if fault is Fault.AFTER else "")
    scene.vault.collect(scene.vault.plan_collect())
