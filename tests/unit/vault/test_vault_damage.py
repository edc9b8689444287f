"""Damaged vaults: what is hurt is named, what is not still restores, the next backup heals."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_store import Fault, FaultyStore, Rule
from vault_scene import KEY, Scene, disk_of, turned

from quiesce.model.damage import HurtRange
from quiesce.model.failure import Failure, StorageFailure
from quiesce.vault import LocalStore, Vault
from quiesce.vault.format.config import CHUNK_BYTES
from quiesce.vault.points.reader import DiskMap
from quiesce.vault.upkeep.verify_report import Verdict, VerifyMode


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def hurt(scene: Scene, mode: str) -> set[str]:
    return {health.vm for health in scene.reopened().vault.verify(mode).hurt}


@pytest.fixture
def two_vms(scene: Scene) -> Scene:
    """Two VMs whose points share nothing: a pack each."""
    scene.backup("one", disk_of(1, 2, 3), vm="web")
    scene.backup("two", disk_of(4, 5, 6), vm="mail")
    return scene


def pack_of(scene: Scene, vm: str) -> Path:
    """The one pack that only this VM's point needs."""
    point = scene.vault.points(vm)[0]
    nodes = scene.vault.manifest(point.id).maps[0].nodes
    location = scene.vault.contents.index.locate(nodes[0])
    assert location is not None
    name = scene.vault.contents.index.name_of(location.pack).hex()
    return scene.folder / "packs" / name[:2] / name


@pytest.mark.parametrize("mode", list(VerifyMode))
def test_a_sound_vault_is_said_to_be_sound(two_vms: Scene, mode: VerifyMode) -> None:
    seen = []
    report = two_vms.vault.verify(mode, on_progress=seen.append)
    assert report.verdict is (
        Verdict.NOTHING_FOUND if mode is VerifyMode.SAMPLE else Verdict.INTACT
    )
    if mode is not VerifyMode.SAMPLE:
        assert {health.vm for health in report.points} == {"web", "mail"}
    assert (report.bytes_read > 0) == (mode is not VerifyMode.STRUCTURE)
    assert (report.blobs_opened == 10) == (mode is VerifyMode.CHUNKS)
    if seen:
        assert seen[-1].done_bytes == seen[-1].total_bytes


@pytest.mark.parametrize("mode", ["packs", "chunks"])
def test_a_flipped_bit_in_a_chunk_names_disk_and_range_and_spares_the_others(
    two_vms: Scene, mode: str
) -> None:
    flip(pack_of(two_vms, "web"), 64 + 100)  # inside the first blob: chunk 0 of web's disk
    fresh = two_vms.reopened()
    with pytest.raises(Failure) as caught:
        fresh.restore(fresh.vault.points("web")[0])
    assert caught.value.code == "vault.corrupt-chunk"
    assert "sda" in caught.value.message
    report = fresh.vault.verify(mode)
    assert [health.vm for health in report.hurt] == ["web"]
    assert report.hurt[0].disks[0].ranges == (HurtRange(0, CHUNK_BYTES, heals=True),)
    assert fresh.restore(fresh.vault.points("mail")[0]) == disk_of(4, 5, 6)


@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_a_missing_or_truncated_pack_is_named_without_reading_data(
    two_vms: Scene, harm: str
) -> None:
    pack = pack_of(two_vms, "web")
    if harm == "missing":
        pack.unlink()
    else:
        pack.write_bytes(pack.read_bytes()[:-1000])
    fresh = two_vms.reopened()
    report = fresh.vault.verify("structure")
    assert [health.vm for health in report.hurt] == ["web"]
    assert any(pack.name in finding.object for finding in report.findings)
    with pytest.raises(Failure) as caught:
        fresh.restore(fresh.vault.points("web")[0])
    assert caught.value.code == "vault.pack-missing"
    assert fresh.restore(fresh.vault.points("mail")[0]) == disk_of(4, 5, 6)


@pytest.mark.parametrize("harm", ["missing", "bit"])
def test_the_next_full_backup_heals_old_points_too(two_vms: Scene, harm: str) -> None:
    pack = pack_of(two_vms, "web")
    if harm == "missing":
        pack.unlink()
    else:
        flip(pack, 64 + 100)
        assert not two_vms.reopened().vault.verify("packs").intact
    fresh = two_vms.reopened()
    status = fresh.vault.status()
    assert (status.missing_packs, status.damaged_packs) == ((1, 0) if harm == "missing" else (0, 1))
    with pytest.raises(Failure) as caught:  # an increment would carry the damage on
        fresh.vault.writer("web", "three").disk("sda", 3 * CHUNK_BYTES, base_generation="one")
    assert caught.value.code == "vault.base-missing"
    fresh = two_vms.reopened()
    healed = fresh.backup("four", disk_of(1, 2, 3))
    assert healed.stored_bytes > 0
    for point in fresh.vault.points("web"):
        assert two_vms.reopened().restore(point) == disk_of(1, 2, 3)
    assert hurt(two_vms, "chunks") == set()
    status = two_vms.reopened().vault.status()
    assert (status.missing_packs, status.damaged_packs) == (0, 0)


@pytest.mark.parametrize("harm", ["bit", "truncated", "missing"])
def test_a_damaged_index_is_rebuilt_from_the_packs_and_said_so(two_vms: Scene, harm: str) -> None:
    for segment in (two_vms.folder / "index").iterdir():
        if harm == "bit":
            flip(segment, 70)
        elif harm == "truncated":
            segment.write_bytes(segment.read_bytes()[:50])
        else:
            segment.unlink()
    fresh = two_vms.reopened()
    assert fresh.restore(fresh.vault.points("web")[0]) == disk_of(1, 2, 3)
    report = two_vms.reopened().vault.verify("structure")
    assert report.intact
    if harm != "missing":
        assert {f.code for f in report.findings} == {"vault.corrupt-index"}
        assert all(finding.healed for finding in report.findings)
    assert two_vms.reopened().vault.verify("structure").findings == ()


@pytest.mark.parametrize("code", ["storage.locked", "storage.denied"])
def test_a_damaged_index_that_may_not_be_deleted_stops_nothing(
    two_vms: Scene, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for segment in (two_vms.folder / "index").iterdir():
        flip(segment, 70)

    def delete(store: LocalStore, key: str) -> None:
        if key.startswith("index/"):
            raise StorageFailure(code, "may not be deleted")
        real(store, key)

    real = LocalStore.delete
    monkeypatch.setattr(LocalStore, "delete", delete)
    fresh = two_vms.reopened()
    assert fresh.restore(fresh.backup("three", disk_of(1, 7))) == disk_of(1, 7)
    report = two_vms.reopened().vault.verify("structure")
    assert report.intact
    assert {f.code for f in report.findings} == {"vault.corrupt-index"}
    assert two_vms.reopened().vault.rebuild_index().packs == 3


def test_a_damaged_manifest_costs_its_point_only(two_vms: Scene) -> None:
    lost = two_vms.vault.points("web")[0]
    flip(two_vms.folder / "points" / lost.id, 60)
    fresh = two_vms.reopened()
    assert [point.vm for point in fresh.vault.points()] == ["mail"]
    assert fresh.vault.status().unreadable_points == (lost.id,)
    with pytest.raises(Failure) as caught:
        fresh.vault.point(lost.id)
    assert caught.value.code == "vault.corrupt-manifest"
    report = fresh.vault.verify("structure")
    assert [health.point_id for health in report.hurt] == [lost.id]
    with pytest.raises(Failure) as caught:
        fresh.vault.plan_collect()
    assert caught.value.code == "vault.collect-refused"
    fresh.vault.execute(fresh.vault.plan_deletion([lost.id]))
    fresh.vault.plan_collect()


def test_a_manifest_cannot_stand_in_for_another(two_vms: Scene) -> None:
    web, mail = (two_vms.vault.points(vm)[0].id for vm in ("web", "mail"))
    folder = two_vms.folder / "points"
    (folder / mail).write_bytes((folder / web).read_bytes())
    with pytest.raises(Failure) as caught:
        two_vms.reopened().vault.point(mail)
    assert caught.value.code == "vault.corrupt-manifest"


def test_every_single_flipped_byte_of_a_pack_is_found_and_nothing_false_restores(
    scene: Scene,
) -> None:
    disk = b"some text " * 700
    scene.backup("job", disk)
    (pack,) = scene.packs()
    sound = pack.read_bytes()
    point = scene.vault.points()[0]
    for at in range(0, len(sound), 7):
        pack.write_bytes(sound[:at] + bytes([sound[at] ^ 0x80]) + sound[at + 1 :])
        fresh = scene.reopened()
        restored, code = b"", ""
        try:
            restored = fresh.restore(point)
        except Failure as failure:
            code = failure.code
        assert restored == disk or code in ("vault.corrupt-chunk", "vault.version-unsupported")
    pack.write_bytes(turned(sound, 80))
    assert not scene.reopened().vault.verify("packs").intact


def test_a_newer_format_is_refused_in_clear_words(scene: Scene) -> None:
    path = scene.folder / "format"
    path.write_bytes(path.read_bytes().replace(b'"version": 1', b'"version": 2'))
    with pytest.raises(Failure) as caught:
        Vault.open(scene.store, KEY)
    assert caught.value.code == "vault.version-unsupported"
    assert "version 2" in caught.value.message


def test_a_damaged_format_object_is_named(scene: Scene) -> None:
    path = scene.folder / "format"
    path.write_bytes(path.read_bytes().replace(b"131072", b"131073"))
    with pytest.raises(Failure) as caught:
        Vault.open(scene.store, KEY)
    assert caught.value.code == "vault.corrupt-format"


def test_damage_elsewhere_takes_no_base_from_a_vm_whose_pack_is_marked(two_vms: Scene) -> None:
    """As a repack marks it, before it has copied what lives in it."""
    marked, bad = pack_of(two_vms, "web"), pack_of(two_vms, "mail")
    records = two_vms.vault.contents.records
    records.put("garbage/00", "garbage", {"at": two_vms.clock(), "packs": [marked.name]})
    flip(bad, 64 + 100)
    assert hurt(two_vms, "packs") == {"mail"}
    disk = disk_of(1, 2, 3)
    point = two_vms.reopened().backup("three", disk, base="one", changed={"sda": set()})
    assert two_vms.reopened().restore(point) == disk


def flip_map_part(scene: Scene, pack: Path, which: str) -> None:
    point = scene.vault.points("web")[0]
    ref = scene.vault.manifest(point.id).maps[0]
    ids = {"node": ref.nodes[0], "leaf": DiskMap(scene.vault.contents, ref).leaf_ids()[:32]}
    place = scene.vault.contents.index.locate(ids[which])
    assert place is not None
    flip(pack, place.offset + 5)


@pytest.mark.parametrize("which", ["node", "leaf"])
def test_a_base_whose_map_is_damaged_is_refused_and_the_full_read_heals_it(
    two_vms: Scene, which: str
) -> None:
    flip_map_part(two_vms, pack_of(two_vms, "web"), which)
    disk = disk_of(1, 2, 3)
    scene = two_vms.reopened()
    with pytest.raises(Failure) as caught:
        scene.backup("three", disk, base="one", changed={"sda": {0}})
    assert caught.value.code == "vault.base-missing"
    again = two_vms.reopened()
    with pytest.raises(Failure) as caught:  # without a look at it: the damage is on record
        again.vault.writer("web", "four").disk("sda", len(disk), base_generation="one")
    assert caught.value.code == "vault.base-missing"
    point = two_vms.reopened().backup("five", disk)
    assert two_vms.reopened().restore(point) == disk
    assert hurt(two_vms, "chunks") == set()


def test_a_writer_goes_on_in_full_when_its_base_turns_out_to_be_damaged(two_vms: Scene) -> None:
    flip_map_part(two_vms, pack_of(two_vms, "web"), "leaf")
    disk = disk_of(7, 2, 0)
    scene = two_vms.reopened()
    writer = scene.vault.writer("web", "three")
    target = writer.disk("sda", len(disk), base_generation="one")
    target.put(0, memoryview(disk)[:CHUNK_BYTES])
    with pytest.raises(Failure) as caught:
        target.finish()
    assert caught.value.code == "vault.base-missing"
    target.forget_base()
    target.put(0, memoryview(disk)[: 2 * CHUNK_BYTES])
    target.finish()
    point = scene.commit(writer, len(disk), "three")
    assert two_vms.reopened().restore(point) == disk


@pytest.mark.parametrize("read", [1, 2], ids=["itself", "the head of its pack"])
def test_a_map_part_that_was_spoilt_on_its_way_once_is_no_damage(two_vms: Scene, read: int) -> None:
    far = FaultyStore(two_vms.store)
    scene = two_vms.reopened(far)
    far.rules.append(Rule("get_range", Fault.WRONG_BYTES, "packs/", at=read))
    disk = disk_of(1, 9, 3)
    point = scene.backup("three", disk, base="one", changed={"sda": {1}})
    assert far.shown[Fault.WRONG_BYTES] == 1
    assert scene.reopened().restore(point) == disk
    assert list(two_vms.store.list("damage/")) == []
