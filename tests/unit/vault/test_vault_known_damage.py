"""What is known of damage without looking for it: which points are hurt, until they are healed."""

from __future__ import annotations

import pytest
from faulty_store import FaultyStore
from paper_store import PaperStore
from vault_scene import FakeClock, Scene, disk_of

from quiesce.model.damage import DamageReport, HurtRange
from quiesce.model.failure import Failure, StorageFailure
from quiesce.vault.format.config import CHUNK_BYTES
from quiesce.vault.format.pack import pack_key
from quiesce.vault.upkeep.budget import Budget
from quiesce.vault.upkeep.verify_report import Verdict

DISK = disk_of(1, 2, 3)


@pytest.fixture
def scene(paper: PaperStore, clock: FakeClock) -> Scene:
    """`web` has two points of other content, `mail` one."""
    scene = Scene.create(paper, clock)
    scene.backup("web-1", DISK, vm="web")
    clock.advance(hours=1)
    scene.backup("mail-1", disk_of(4, 5), vm="mail")
    clock.advance(hours=1)
    scene.backup("web-2", disk_of(1, 7, 3), vm="web", base="web-1", changed={"sda": {1}})
    return scene


def spoil(scene: Scene, paper: PaperStore, vm: str, chunk: int) -> str:
    """Turn a bit of this chunk of the VM's oldest point; the key of the pack that it lies in."""
    key, at = scene.place_of(vm, chunk)
    paper.spoil(key, at + 5)
    return key


def hurt(report: DamageReport) -> dict[str, tuple[HurtRange, ...]]:
    return {each.point_id: each.disks[0].ranges for each in report.points}


def test_a_vault_of_which_no_damage_is_known_is_said_to_have_none_and_no_map_is_read(
    scene: Scene, paper: PaperStore
) -> None:
    report = scene.reopened().vault.damage(Budget(requests=0))
    assert (report.looked_at, report.unseen, report.points) == (3, 0, ())


def test_what_a_verification_found_is_known_to_every_process_with_its_ranges(
    scene: Scene, paper: PaperStore, clock: FakeClock
) -> None:
    first, second = scene.vault.points("web")
    spoil(scene, paper, "web", 0)
    spoil(scene, paper, "web", 1)
    assert not scene.vault.damage().points, "nobody has looked at the pack yet"
    assert scene.reopened().vault.verify("packs").verdict is Verdict.DAMAGED
    for vault in (scene.vault, scene.reopened().vault):
        report = vault.damage()
        assert hurt(report) == {
            second.id: (HurtRange(0, CHUNK_BYTES, heals=True),),
            first.id: (HurtRange(0, CHUNK_BYTES, heals=True), HurtRange(CHUNK_BYTES, CHUNK_BYTES)),
        }
        assert (report.hurt_bytes, report.healable_bytes) == (3 * CHUNK_BYTES, 2 * CHUNK_BYTES)
        assert (report.looked_at, report.unseen, report.at) == (3, 0, clock())


def test_a_missing_pack_is_known_without_any_verification(scene: Scene, paper: PaperStore) -> None:
    key = spoil(scene, paper, "mail", 0)
    del paper.objects[key]
    report = scene.reopened().vault.damage()
    assert [each.vm for each in report.points] == ["mail"]


def test_a_point_whose_manifest_cannot_be_read_is_named(scene: Scene, paper: PaperStore) -> None:
    (lost,) = scene.vault.points("mail")
    data, at = paper.objects[f"points/{lost.id}"]
    paper.objects[f"points/{lost.id}"] = data[:-1], at
    (health,) = scene.reopened().vault.damage().points
    assert (health.point_id, health.vm, health.disks) == (lost.id, "", ())
    assert health.lost


def test_what_the_next_backup_has_healed_is_not_hurt_any_more(
    scene: Scene, paper: PaperStore, clock: FakeClock
) -> None:
    spoil(scene, paper, "web", 0)
    watching = scene.reopened()
    watching.vault.verify("packs")
    assert len(watching.vault.damage().points) == 2
    clock.advance(hours=1)
    scene.reopened().backup("web-3", disk_of(1, 7, 3), vm="web")
    assert watching.vault.damage().points == ()


def test_an_unchanged_vault_is_not_walked_again(scene: Scene, paper: PaperStore) -> None:
    spoil(scene, paper, "web", 0)
    vault = scene.reopened().vault
    vault.verify("packs")
    before = vault.damage()
    assert vault.damage(Budget(requests=0)) == before
    scene.delete(*scene.vault.points("mail"))
    assert vault.damage(Budget(requests=0)).unseen == 2, "now it is, and may not"


def test_a_look_that_comes_to_its_limit_says_what_it_has_not_seen(
    scene: Scene, paper: PaperStore
) -> None:
    first, second = scene.vault.points("web")
    spoil(scene, paper, "web", 0)
    scene.reopened().vault.verify("packs")
    report = scene.reopened().vault.damage(Budget(requests=2))  # the newest point's node and leaf
    assert list(hurt(report)) == [second.id]
    assert report.points[0].healable, "what heals is told of all that was found"
    assert (report.looked_at, report.unseen) == (1, 2)
    whole = scene.reopened().vault.damage()
    assert list(hurt(whole)) == [second.id, first.id]


def test_a_pack_that_no_index_knows_of_stays_known_once_a_verification_has_missed_it(
    scene: Scene, paper: PaperStore
) -> None:
    key = spoil(scene, paper, "mail", 0)
    for gone in (key, *paper.keys("index/")):
        del paper.objects[gone]
    vault = scene.reopened().vault
    vault.verify("structure")
    vault.contents.save_index()
    assert [each.vm for each in vault.damage().points] == ["mail"]
    assert [each.vm for each in vault.damage().points] == ["mail"]


@pytest.fixture
def unrecorded(scene: Scene, paper: PaperStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """The first chunk of `mail` is damaged, and the store takes no record of damage; the key of
    the pack."""

    def refuse(key: str, data: bytes) -> object:
        if key.startswith("damage/"):
            raise StorageFailure("storage.read-only", "nothing is written here")
        return put(key, data)

    put = paper.put
    monkeypatch.setattr(paper, "put", refuse)
    return spoil(scene, paper, "mail", 0)


def test_damage_that_may_not_be_recorded_is_known_to_the_process_that_found_it(
    scene: Scene, paper: PaperStore, unrecorded: str, clock: FakeClock
) -> None:
    there = scene.reopened()
    assert there.vault.verify("packs").hurt
    assert not paper.keys("damage/")
    for _ in range(2):
        assert [each.vm for each in there.vault.damage().points] == ["mail"]
    clock.advance(hours=1)
    there.backup("web-3", disk_of(9), vm="web")
    assert [each.vm for each in there.vault.damage().points] == ["mail"], "the vault has changed"


def test_the_next_full_backup_stores_anew_what_was_found_damaged_and_could_not_be_recorded(
    scene: Scene, unrecorded: str, clock: FakeClock
) -> None:
    there = scene.reopened()
    (hurt,) = there.vault.verify("chunks").hurt
    assert hurt.healable
    clock.advance(hours=1)
    point = there.backup("mail-2", disk_of(4, 5), vm="mail")
    assert there.restore(point) == disk_of(4, 5)
    assert there.vault.damage().points == ()
    assert scene.reopened().restore(point) == disk_of(4, 5)


@pytest.mark.parametrize("mode", ["packs", "chunks"])
def test_a_verification_that_finds_a_pack_whole_again_takes_back_what_no_record_tells(
    scene: Scene, paper: PaperStore, unrecorded: str, mode: str
) -> None:
    vault = scene.reopened().vault
    assert vault.verify("chunks").hurt
    assert vault.verify("structure").hurt, "which reads no pack"
    assert vault.damage().points
    spoil(scene, paper, "mail", 0)  # the same bit, turned back
    assert not vault.verify(mode).hurt
    assert vault.damage().points == ()


def test_a_clean_verification_corrects_what_an_earlier_one_took_for_lost(
    scene: Scene, paper: PaperStore
) -> None:
    """The vault itself has not changed between them."""
    first, _ = scene.vault.points("web")
    vault = scene.reopened().vault
    place = vault.contents.index.find(vault.manifest(first.id).maps[0].nodes[0])
    assert place is not None
    where = pack_key(vault.contents.index.name_of(place.pack))
    paper.spoil(where, place.offset + 5)
    assert vault.verify("structure").hurt
    assert vault.damage().points
    paper.spoil(where, place.offset + 5)
    assert not vault.verify("structure").hurt
    assert vault.damage().points == ()


def test_a_look_that_comes_to_its_limit_looks_no_longer_for_what_heals_and_says_so(
    scene: Scene, paper: PaperStore
) -> None:
    """Of `mail`, whose newest point could hold it too, nothing is read any more."""
    spoil(scene, paper, "web", 0)
    scene.reopened().vault.verify("packs")
    limited = scene.reopened(seen := FaultyStore(paper))
    report = limited.vault.damage(Budget(requests=2))
    assert report.hurt_points == 1
    assert not report.heals_known
    assert scene.place_of("mail", 0)[0] not in {call.key for call in seen.log}
    whole = limited.vault.damage()
    assert whole.heals_known
    assert (whole.hurt_points, whole.unseen) == (2, 0)


def test_a_verification_that_comes_to_its_limit_after_damage_still_says_what_heals(
    scene: Scene, paper: PaperStore
) -> None:
    spoil(scene, paper, "web", 0)
    vault = scene.reopened().vault
    assert not vault.verify("packs").intact
    stopped = []
    for requests in range(1, 80):
        report = scene.reopened().vault.verify("packs", budget=Budget(requests=requests))
        if report.hurt and report.stopped_by:
            stopped.append(report)
    assert stopped
    for report in stopped:
        assert report.unseen == 3 - len(report.points)
        assert all(health.healable for health in report.hurt)


def test_a_damaged_vault_restores_what_is_not_listed_as_hurt(
    scene: Scene, paper: PaperStore
) -> None:
    (first, _), disk = scene.vault.points("web"), disk_of(1, 2, 3)
    spoil(scene, paper, "web", 1)
    scene.reopened().vault.verify("packs")
    there = scene.reopened()
    (lost,) = hurt(there.vault.damage())[first.id]
    reader = there.vault.reader(first.id, "sda")
    end = lost.offset_bytes + lost.length_bytes
    for start, stop in ((0, lost.offset_bytes), (end, len(disk))):
        piece = bytearray(stop - start)
        reader.read_into(start, memoryview(piece))
        assert piece == disk[start:stop]
    with pytest.raises(Failure):
        reader.read_into(lost.offset_bytes, memoryview(bytearray(lost.length_bytes)))
