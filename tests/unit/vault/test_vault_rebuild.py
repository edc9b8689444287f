"""The index written anew from the packs."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from unittest import mock

import pytest
from faulty_store import FaultyStore, Killed
from hypothesis import given
from hypothesis import strategies as st
from paper_store import PaperStore
from small_vault import small_disk, small_packs, small_scene
from vault_scene import FakeClock, Scene

from quiesce.model.failure import Failure, JobFailure
from quiesce.model.progress import Progress
from quiesce.vault.format.pack import PackError, open_footer, pack_key, parse_rows, read_footer
from quiesce.vault.format.segment import (
    LENGTH_MASK,
    PackedRows,
    read_segment,
    rows_of_footer,
    write_segment,
)
from quiesce.vault.upkeep import rebuild
from quiesce.vault.upkeep.rebuild import RebuildPlan

DISKS = {f"vm-{n}": small_disk(*range(100 * n + 1, 100 * n + 30, 2)) for n in range(4)}


@pytest.fixture
def scene(paper: PaperStore, clock: FakeClock) -> Iterator[Scene]:
    with small_packs():
        scene = small_scene(paper, clock)
        for vm, disk in DISKS.items():
            scene.backup(vm, disk, vm=vm)
        yield scene.reopened()


def assert_whole(scene: Scene) -> None:
    fresh = scene.reopened()
    for point in fresh.vault.points():
        assert fresh.restore(point) == DISKS[point.vm]
    assert fresh.vault.verify("structure").findings == ()


def harm(paper: PaperStore, kind: str) -> None:
    for key in paper.keys("index/"):
        if kind == "gone":
            del paper.objects[key]
        elif kind == "damaged":
            paper.spoil(key, 60)


@pytest.mark.parametrize("kind", ["whole", "damaged", "gone"])
def test_the_index_is_made_anew_from_the_packs_alone(
    scene: Scene, paper: PaperStore, kind: str
) -> None:
    harm(paper, kind)
    before = set(paper.keys("index/"))
    seen: list[Progress] = []
    report = scene.reopened().vault.rebuild_index(on_progress=seen.append)
    assert report.packs == len(paper.keys("packs/"))
    assert report.unreadable == ()
    assert report.segments == len(paper.keys("index/")) == 1
    assert report.replaced == len(before)
    assert not before & set(paper.keys("index/"))
    assert seen[-1].done_bytes == seen[-1].total_bytes > 0
    watched = FaultyStore(paper)
    fresh = scene.reopened(watched)
    fresh.vault.writer("web", "next")
    assert not [c for c in watched.log if c.operation == "get_range"], "no footer is read any more"
    assert_whole(scene)


@pytest.mark.parametrize("rows", [1, 20, 1000])
@pytest.mark.parametrize("kind", ["whole", "damaged", "gone"])
def test_what_it_would_read_write_and_replace_is_told_before(
    scene: Scene, paper: PaperStore, kind: str, rows: int
) -> None:
    harm(paper, kind)
    before = dict(paper.objects)
    with mock.patch.object(rebuild, "REBUILT_ROWS", rows):
        plan = scene.reopened().vault.plan_rebuild()
        assert paper.objects == before
        report = scene.reopened().vault.rebuild_index()
    assert plan == RebuildPlan(report.packs, report.segments, report.replaced)


def test_it_tells_rate_and_time_left(scene: Scene) -> None:
    seen: list[Progress] = []
    scene.vault.rebuild_index(on_progress=seen.append)
    assert seen[-1].rate > 0
    assert seen[-1].eta_seconds == 0


def test_rows_of_one_segment_at_a_time_are_in_memory(scene: Scene, paper: PaperStore) -> None:
    groups: list[int] = []
    real = rebuild.join_segments

    def watched(group: list[object], drop: frozenset[bytes]) -> bytes:
        groups.append(len(group))
        return real(group, drop)  # type: ignore[arg-type]

    with (
        mock.patch.object(rebuild, "REBUILT_ROWS", 20),
        mock.patch.object(rebuild, "join_segments", watched),
    ):
        report = scene.vault.rebuild_index()
    assert len(groups) == report.segments > 2
    assert max(groups) < report.packs / 2
    assert_whole(scene)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_change_it_leaves_an_index(
    scene: Scene, paper: PaperStore, clock: FakeClock, after: bool
) -> None:
    harm(paper, "damaged")
    counted = FaultyStore(paper.copy())
    Scene.at(counted, clock).vault.rebuild_index()
    for step in range(1, counted.changes + 1):
        here = paper.copy()
        dying = FaultyStore(here)
        dying.die_at = step, after
        with pytest.raises(Killed):
            Scene.at(dying, clock).vault.rebuild_index()
        left = Scene.at(here, clock)
        for point in left.vault.points():
            assert left.restore(point) == DISKS[point.vm]
        clock.advance(hours=7)
        left.vault.rebuild_index()
        assert_whole(left)


def test_a_pack_whose_footer_is_damaged_is_told_of_by_the_old_index(
    scene: Scene, paper: PaperStore
) -> None:
    key = paper.keys("packs/")[0]
    paper.spoil(key, -30)
    report = scene.reopened().vault.rebuild_index()
    assert report.unreadable == report.taken_over == (key,)
    fresh = scene.reopened()
    for point in fresh.vault.points():
        assert fresh.restore(point) == DISKS[point.vm]
    harm(paper, "gone")
    report = scene.reopened().vault.rebuild_index()
    assert (report.unreadable, report.taken_over) == ((key,), ())


def test_a_missing_pack_stays_known_so_that_no_increment_is_built_on_it(
    scene: Scene, paper: PaperStore
) -> None:
    for key in paper.keys("packs/"):
        del paper.objects[key]
    report = scene.reopened().vault.rebuild_index()
    assert len(report.taken_over) > 1
    fresh = scene.reopened()
    assert set(fresh.vault.contents.index.missing_packs())
    with pytest.raises(Failure) as caught:
        fresh.vault.writer("vm-1", "next").disk("sda", 4096, base_generation="vm-1")
    assert caught.value.code in ("vault.base-missing", "vault.pack-missing")


def test_it_keeps_away_from_a_collection_and_can_be_cancelled(
    scene: Scene, paper: PaperStore
) -> None:
    before = paper.keys("index/")
    with pytest.raises(JobFailure):
        scene.vault.rebuild_index(cancelled=lambda: True)
    assert paper.keys("index/") == before
    assert paper.keys("sessions/") == []
    scene.vault.contents.records.put("sessions/gc", "lease", {"at": scene.clock()})
    with pytest.raises(Failure) as caught:
        scene.vault.rebuild_index()
    assert caught.value.code == "vault.collect-running"


def test_a_backup_that_ends_meanwhile_is_in_the_index(scene: Scene, paper: PaperStore) -> None:
    watched = FaultyStore(paper)
    done: list[str] = []

    def backup(call: object) -> None:
        if not done and "put index/" in str(call):
            done.append(str(call))
            scene.reopened().backup("late", DISKS["vm-1"][::-1], vm="late")

    watched.before = backup
    scene.reopened(watched).vault.rebuild_index()
    assert done
    fresh = FaultyStore(paper)
    late = scene.reopened(fresh)
    assert late.restore(late.vault.points("late")[0]) == DISKS["vm-1"][::-1]


def test_rows_of_a_footer_are_what_its_entries_say(scene: Scene, paper: PaperStore) -> None:
    contents = scene.vault.contents
    for name, size in contents.pack_sizes().items():
        entries = tuple(read_footer(contents.keys, paper, name, size))
        _, expected = read_segment(write_segment([PackedRows(name, size, entries)]))
        rows = rows_of_footer(*open_footer(contents.keys, paper, name, size))
        assert {row.tobytes() for row in rows} == {row.tobytes() for row in expected}


@given(st.integers(0, 47), st.binary(min_size=1, max_size=8), st.integers(64, 200_000))
def test_no_row_is_taken_from_a_footer_that_the_entries_would_refuse(
    at: int, change: bytes, start: int
) -> None:
    """Two parsers of the same bytes agree on what is out of range."""
    sound = struct.pack("<32sIIBBB5x", bytes(range(32)), 64, 1000, 2, 0, 3)
    footer = bytearray(sound * 2)
    footer[at : at + len(change)] = change
    try:
        entries = parse_rows(bytes(footer[:96]), start)
    except PackError:
        with pytest.raises(PackError):
            rows_of_footer(bytes(footer[:96]), start)
    else:
        if all(entry.length <= LENGTH_MASK for entry in entries):
            assert len(rows_of_footer(bytes(footer[:96]), start)) == len(entries)


def test_what_is_told_of_many_missing_packs_goes_into_segments_of_their_size(
    scene: Scene, paper: PaperStore
) -> None:
    """One segment of it all was refused where 200 GB of packs were missing."""
    missing = paper.keys("packs/")[1:]
    for key in missing:
        del paper.objects[key]
    sizes: list[int] = []
    real = rebuild.join_segments

    def watched(group: list[object], drop: frozenset[bytes]) -> bytes:
        plain = real(group, drop)  # type: ignore[arg-type]
        sizes.append(len(plain))
        return plain

    before = max(len(scene.vault.contents.open_segment(key)) for key in paper.keys("index/"))
    with (
        mock.patch.object(rebuild, "REBUILT_ROWS", 5),
        mock.patch.object(rebuild, "join_segments", watched),
    ):
        plan = scene.reopened().vault.plan_rebuild()
        report = scene.reopened().vault.rebuild_index()
    assert sorted(report.taken_over) == missing
    assert report.packs == len(missing) + 1
    assert len(sizes) == report.segments == len(DISKS) + 1
    assert max(sizes) <= before, "none tells more than one of the old ones did"
    assert plan.segments >= report.segments
    assert sorted(map(pack_key, scene.reopened().vault.contents.index.missing_packs())) == missing
