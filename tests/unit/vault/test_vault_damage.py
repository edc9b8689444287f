"""Damaged vaults: what is hurt is named, what is not still restores, the next backup heals."""

from __future__ import annotations

from pathlib import Path

import pytest
from vault_scene import KEY, Scene, disk_of

from quiesce.model.failure import Failure, StorageFailure
from quiesce.vault import LocalStore, Vault
from quiesce.vault.format.config import CHUNK_BYTES
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
    assert report.hurt[0].disks[0].ranges == ((0, CHUNK_BYTES),)
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
    with pytest.raises(Failure) as caught:  # an increment would carry the damage on
        fresh.vault.writer("web", "three").disk("sda", 3 * CHUNK_BYTES, base_generation="one")
    assert caught.value.code == "vault.base-missing"
    fresh = two_vms.reopened()
    healed = fresh.backup("four", disk_of(1, 2, 3))
    assert healed.stored_bytes > 0
    for point in fresh.vault.points("web"):
        assert two_vms.reopened().restore(point) == disk_of(1, 2, 3)
    assert hurt(two_vms, "chunks") == set()


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
    pack.write_bytes(sound[:80] + bytes([sound[80] ^ 1]) + sound[81:])
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
