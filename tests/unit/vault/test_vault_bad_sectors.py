"""A bad sector under a pack costs what lies on it: no neighbour, and nothing that lies twice."""

from __future__ import annotations

import pytest
from faulty_store import FaultyStore
from paper_store import PaperStore
from repack_scene import OLD, assert_sound, collect_to_the_end, packs
from small_vault import SMALL_CHUNK, small_disk, small_packs, small_scene
from vault_scene import FakeClock, Scene

from quiesce.model.failure import Failure
from quiesce.vault.copy.copying import execute_copy, plan_copy
from quiesce.vault.upkeep.verify_report import Verdict

WHOLE = small_disk(1, 3, 5, 7, 9, 11, 13, 15)
PARTS = small_disk(1, 3, 15)
"""Its chunks lie around the one that is hurt: they are read at once."""
HURT_CHUNK = 3


class Hurt:
    """VM a's chunk `HURT_CHUNK` lies on a bad sector. VM b needs its neighbours, and not it."""

    def __init__(self, clock: FakeClock) -> None:
        self.store = PaperStore(clock)
        self.scene = small_scene(self.store, clock)
        self.a = self.scene.backup("a-1", WHOLE, vm="a")
        self.b = self.scene.backup("b-1", PARTS, vm="b")
        self.pack, offset = self.scene.place_of("a", HURT_CHUNK)
        self.store.bad_sectors[self.pack] = offset + 100, offset + 101

    def fresh(self) -> Scene:
        return self.scene.reopened()


@pytest.fixture
def hurt(clock: FakeClock) -> Hurt:
    return Hurt(clock)


def test_a_point_restores_whose_neighbour_lies_on_a_bad_sector(hurt: Hurt) -> None:
    assert hurt.fresh().restore(hurt.b) == PARTS
    with pytest.raises(Failure) as caught:
        hurt.fresh().restore(hurt.a)
    assert caught.value.code == "vault.corrupt-chunk"
    assert "Input/output error" in caught.value.evidence[0].fact
    assert caught.value.retryable, "it may be readable again in a minute"


def test_a_read_without_a_bad_sector_takes_no_request_more(hurt: Hurt) -> None:
    def reads() -> int:
        counting = FaultyStore(hurt.store)
        there = hurt.scene.reopened(counting)
        before = counting.calls["get_range"]
        assert there.restore(hurt.b) == PARTS
        return counting.calls["get_range"] - before

    around = reads()
    hurt.store.bad_sectors.clear()
    assert reads() == around - 3, "the chunks are read at once"


@pytest.mark.parametrize("mode", ["packs", "chunks"])
def test_verification_names_the_blobs_on_a_bad_sector_and_no_other(hurt: Hurt, mode: str) -> None:
    report = hurt.fresh().vault.verify(mode)
    assert report.verdict is Verdict.DAMAGED
    assert [finding.object for finding in report.findings] == [hurt.pack]
    assert "1 of its" in report.findings[0].detail
    assert {point.vm: point.hurt_bytes for point in report.points} == {"a": SMALL_CHUNK, "b": 0}
    assert hurt.fresh().restore(hurt.b) == PARTS
    again = hurt.fresh()
    healed = again.backup("a-2", WHOLE, vm="a")
    assert again.restore(healed) == again.restore(hurt.a) == WHOLE


def test_what_lies_twice_is_read_where_it_can_be(clock: FakeClock) -> None:
    store = PaperStore(clock)
    scene = small_scene(store, clock)
    disk = small_disk(1, 3, 5)
    other = scene.reopened()
    writers = [(each, each.vault.writer(vm, vm)) for vm, each in (("a", scene), ("b", other))]
    for each, writer in writers:
        writer.disk("sda", len(disk)).put(0, memoryview(disk))
        each.commit(writer, len(disk))
    assert len(store.keys("packs/")) == 2
    pack, offset = scene.reopened().place_of("a", 1)
    for bad in (
        (offset + 5, offset + 6),
        (0, 64),
    ):  # the chunk; the header without which none opens
        store.bad_sectors[pack] = bad
        there = scene.reopened()
        assert [there.restore(point) for point in there.vault.points()] == [disk, disk]


def test_a_pack_whose_list_lies_on_a_bad_sector_keeps_all_its_blobs(hurt: Hurt) -> None:
    size = len(hurt.store.objects[hurt.pack][0])
    hurt.store.bad_sectors[hurt.pack] = size - 1, size
    report = hurt.fresh().vault.verify("chunks")
    assert not report.hurt
    assert "known blobs are good" in report.findings[0].detail
    assert hurt.fresh().restore(hurt.a) == WHOLE


def test_a_pack_whose_header_lies_on_a_bad_sector_has_no_blob_that_opens(hurt: Hurt) -> None:
    hurt.store.bad_sectors[hurt.pack] = 0, 1
    report = hurt.fresh().vault.verify("chunks")
    assert {point.vm: point.hurt_bytes for point in report.points} == {
        "a": len(WHOLE),
        "b": len(PARTS),
    }


def test_a_map_on_a_bad_sector_stops_deletion_of_its_point_alone(hurt: Hurt) -> None:
    pack, place = hurt.scene.map_part_of("b")
    hurt.store.bad_sectors = {pack: (place, place + 1)}
    there = hurt.fresh()
    assert there.vault.plan_deletion([hurt.b.id]).unreadable == (hurt.b.id,)
    with pytest.raises(Failure) as caught:
        there.vault.plan_collect()
    assert caught.value.code == "vault.collect-refused"


def test_a_copy_brings_every_point_that_has_all_it_needs(hurt: Hurt, clock: FakeClock) -> None:
    hurt.fresh().vault.verify("packs")
    target = PaperStore(clock)
    keys = hurt.scene.vault.contents.keys
    report = execute_copy(plan_copy(hurt.store, target, keys=keys, clock=clock), clock=clock)
    assert [unfit.vm for unfit in report.unfit] == ["a"]
    assert Scene.at(target, clock).restore(hurt.b) == PARTS


@pytest.mark.parametrize("needed", [False, True])
def test_a_pack_is_copied_out_of_around_a_bad_sector(clock: FakeClock, needed: bool) -> None:
    """Where something needs what lies there the pack stays, and collection goes on."""
    store = PaperStore(clock)
    with small_packs():
        scene = small_scene(store, clock)
        old = scene.backup("old", OLD)
        pack, hurt = scene.place_of("web", 1)
        clock.advance(hours=4)
        kept = small_disk(1, 3 if needed else 103, 5, *range(105, 140, 2))
        scene.backup("kept", kept, vm="mail")
        clock.advance(hours=4)
        scene.delete(old)
        clock.advance(hours=4)
        assert scene.place_of("mail", 0)[0] == pack
        store.bad_sectors[pack] = hurt + 1, hurt + 2
        collect_to_the_end(scene)
        assert (pack in packs(scene)) == needed
        if not needed:
            assert_sound(scene, kept)
