"""What a verification finds damaged is told of, recorded and healed; and what is no damage."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_store import Fault, FaultyStore, Rule
from paper_store import PaperStore
from small_vault import MAIL, SMALL_CHUNK, WEB, small_disk
from vault_scene import FakeClock, Scene

from quiesce.model.failure import Failure
from quiesce.vault.contents.cache import CachingStore, IndexCache
from quiesce.vault.upkeep.verify_packs import verify_packs
from quiesce.vault.upkeep.verify_report import Verdict, VerifyMode


@pytest.fixture
def scene(web_and_mail: Scene) -> Scene:
    return web_and_mail


def test_damage_says_what_the_next_backup_heals_and_then_that_it_is_healed(
    scene: Scene, paper: PaperStore, clock: FakeClock
) -> None:
    """Web has changed its chunk 1 since: its old content is nowhere else, that of chunk 0 is."""
    clock.advance(hours=1)
    scene.backup("web-2", small_disk(1, 777, *range(5, 60, 2)))
    older = scene.reopened()
    for chunk in (0, 1):
        pack, at = older.place_of("web", chunk)
        paper.spoil(pack, at + 20)
    report = scene.reopened().vault.verify("chunks")
    first, second = (health for health in report.hurt if health.vm == "web")
    assert (first.disks[0].hurt_bytes, first.disks[0].healable_bytes) == (
        2 * SMALL_CHUNK,
        SMALL_CHUNK,
    )
    assert (second.disks[0].hurt_bytes, second.disks[0].healable_bytes) == (
        SMALL_CHUNK,
        SMALL_CHUNK,
    )
    assert second.healable
    assert not first.healable

    clock.advance(hours=1)
    scene.reopened().backup("web-3", small_disk(1, 777, *range(5, 60, 2)))
    after = scene.reopened().vault.verify("structure")
    (still,) = after.hurt
    assert still.point_id == first.point_id
    (lost,) = still.disks[0].ranges
    assert (lost.offset_bytes, lost.length_bytes, lost.heals) == (SMALL_CHUNK, SMALL_CHUNK, False)
    assert still.disks[0].healable_bytes == 0


@pytest.mark.parametrize("leaf", [True, False], ids=["leaf", "node"])
def test_a_map_that_a_check_of_the_structure_cannot_read_is_healed_by_the_next_backup(
    scene: Scene, paper: PaperStore, leaf: bool
) -> None:
    """No other mode has looked: the backup counted on the damaged part, as its point did then."""
    paper.spoil(*scene.map_part_of("web", leaf=leaf))
    report = scene.reopened().vault.verify("structure")
    assert [health.healable for health in report.hurt] == [True]
    assert [finding.healed for finding in report.findings] == [False]
    scene.reopened().backup("web-2", WEB)
    healed = scene.reopened()
    assert [healed.restore(point) for point in healed.vault.points("web")] == [WEB, WEB]
    assert healed.vault.verify("structure").verdict is Verdict.INTACT


def test_each_damage_is_healed_by_itself(scene: Scene, paper: PaperStore) -> None:
    """One VM's next backup heals its packs; that of the other stays damaged, and is said to be."""
    web, mail = (scene.place_of(vm, 0)[0] for vm in ("web", "mail"))
    for key in (web, mail):
        paper.spoil(key)
    assert {health.vm for health in scene.reopened().vault.verify("packs").hurt} == {"web", "mail"}
    scene.reopened().backup("web-2", WEB)
    for mode in ("structure", "packs", "chunks"):
        report = scene.reopened().vault.verify(mode)
        assert {health.vm for health in report.hurt} == {"mail"}
        assert {f.object: f.healed for f in report.findings} == {web: True, mail: False}
    scene.reopened().backup("mail-2", MAIL, vm="mail")
    report = scene.reopened().vault.verify("chunks")
    assert report.intact
    assert all(finding.healed for finding in report.findings)


@pytest.mark.parametrize("mode", list(VerifyMode))
def test_a_collection_in_the_midst_of_a_verification_is_no_damage(
    scene: Scene, paper: PaperStore, clock: FakeClock, mode: VerifyMode
) -> None:
    """Packs are copied out of, and deleted, while they are looked at."""
    clock.advance(hours=2)
    scene.backup("short", small_disk(1, 3, 5, 701, 703), vm="short")
    clock.advance(hours=2)
    scene.delete(scene.vault.points("web")[0])
    clock.advance(hours=2)
    doomed = set(paper.keys("packs/"))
    watched = FaultyStore(paper)
    there = scene.reopened(watched)
    began = len(watched.log)

    def collect(call: object) -> None:
        if len(watched.log) == began + 14:
            for _ in range(4):
                clock.advance(hours=30)
                other = scene.reopened()
                other.vault.collect(other.vault.plan_collect())

    watched.before = collect
    report = there.vault.verify(mode, sample=60, seed=3)
    assert doomed - set(paper.keys("packs/")), "something was collected"
    assert report.findings == ()
    assert report.hurt == ()
    assert scene.reopened().vault.verify("chunks").intact


def test_damage_that_is_found_again_is_recorded_once(scene: Scene, paper: PaperStore) -> None:
    paper.spoil(scene.place_of("web", 0)[0])
    for _ in range(3):
        assert scene.reopened().vault.verify("chunks").verdict is Verdict.DAMAGED
    assert len(paper.keys("damage/")) == 1


@pytest.mark.parametrize("cached", [True, False], ids=["from a cache", "in an open process"])
@pytest.mark.parametrize("mode", ["structure", "packs", "chunks"])
def test_a_segment_that_is_damaged_since_it_was_read_is_found_and_written_anew(
    scene: Scene, paper: PaperStore, tmp_path: Path, mode: str, cached: bool
) -> None:
    store = CachingStore(paper, IndexCache(tmp_path)) if cached else paper
    there = scene.reopened(store)
    spoiled = paper.keys("index/")[0]
    paper.spoil(spoiled)
    assert [f.object for f in verify_packs(store).findings] == [spoiled]
    report = there.vault.verify(mode)
    assert [(f.code, f.object, f.healed) for f in report.findings] == [
        ("vault.corrupt-index", spoiled, True)
    ]
    assert spoiled not in paper.keys("index/")
    assert there.vault.verify(mode).findings == ()
    assert verify_packs(paper).findings == ()
    assert scene.reopened().vault.contents.refresh(scan_unindexed=True).unindexed == 0


def test_damage_on_a_store_that_may_only_be_read_is_reported(
    scene: Scene, paper: PaperStore
) -> None:
    paper.spoil(scene.place_of("web", 0)[0])
    for mode in ("packs", "chunks"):
        far = FaultyStore(paper)
        far.rules.append(Rule("put", Fault.READ_ONLY, "", 0))
        report = scene.reopened(far).vault.verify(mode)
        assert report.verdict is Verdict.DAMAGED
        assert [health.vm for health in report.hurt] == ["web"]
        assert "not recorded" in report.findings[0].detail


@pytest.mark.parametrize("mode", ["packs", "chunks"])
def test_a_read_that_is_spoilt_on_its_way_is_no_damage(
    scene: Scene, paper: PaperStore, mode: str
) -> None:
    far = FaultyStore(paper)
    there = scene.reopened(far)
    far.rules.append(Rule("get_range", Fault.WRONG_BYTES, "packs/"))
    assert there.vault.verify(mode).intact
    assert far.shown[Fault.WRONG_BYTES] == 1
    assert not paper.keys("damage/")


@pytest.mark.parametrize("folder", ["damage", "garbage"])
def test_nothing_is_collected_while_a_record_is_unreadable_and_verification_mends_it(
    scene: Scene, paper: PaperStore, folder: str
) -> None:
    paper.spoil(scene.place_of("web", 0)[0])
    scene.reopened().vault.verify("chunks")
    scene.clock.advance(hours=5)
    point = scene.reopened().backup("web-2", WEB)
    scene.clock.advance(hours=5)
    values = {"at": scene.clock(), "packs": []}
    scene.vault.contents.records.put("garbage/00", "garbage", values)
    record = paper.keys(f"{folder}/")[0]
    paper.spoil(record, 60)
    report = scene.reopened().vault.verify("structure")
    assert ("vault.corrupt-record", record) in {(f.code, f.object) for f in report.findings}
    if folder == "damage":
        assert report.verdict is Verdict.DAMAGED
        with pytest.raises(Failure) as refused:
            scene.reopened().collect_fully()
        assert refused.value.code == "vault.collect-refused"
        assert refused.value.evidence[0].source == record
        assert scene.reopened().vault.verify("packs").intact
    assert not paper.keys(record)
    scene.reopened().collect_fully()
    assert scene.reopened().restore(point) == WEB
