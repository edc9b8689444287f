"""What is listed of damage, what is only counted, and that no byte is lost in between."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from quiesce.model.damage import (
    DISK_RANGES,
    REPORT_POINTS,
    REPORT_RANGES,
    DamageReport,
    DiskHealth,
    HurtRange,
    PointHealth,
)

AT = datetime(2026, 3, 1, tzinfo=UTC)
CHUNK = 131072

hurt_chunks = st.dictionaries(st.integers(0, 60), st.booleans(), max_size=60).map(
    lambda chunks: [(at * CHUNK, CHUNK, heals) for at, heals in sorted(chunks.items())]
)


def scattered(count: int) -> DiskHealth:
    """A disk of which every other chunk is hurt."""
    return DiskHealth.of("vda", ((2 * at * CHUNK, CHUNK, False) for at in range(count)))


def point(number: int, *disks: DiskHealth) -> PointHealth:
    return PointHealth(f"{number:016x}", "web", AT + timedelta(days=number), disks)


@given(hurt_chunks, st.integers(0, 8))
def test_listed_ranges_are_the_first_and_the_rest_is_counted(
    chunks: list[tuple[int, int, bool]], listed: int
) -> None:
    disk = DiskHealth.of("vda", chunks, listed)
    whole = DiskHealth.of("vda", chunks, len(chunks))
    assert disk.ranges == whole.ranges[:listed]
    assert disk.more_ranges == len(whole.ranges) - len(disk.ranges)
    told = sum(each.length_bytes for each in disk.ranges)
    assert told + disk.more_bytes == disk.hurt_bytes == len(chunks) * CHUNK
    assert disk.healable_bytes == sum(length for _, length, heals in chunks if heals)
    assert disk == whole.listing(listed)


@given(hurt_chunks)
def test_ranges_cover_what_is_hurt_and_neighbours_that_heal_alike_are_one(
    chunks: list[tuple[int, int, bool]],
) -> None:
    ranges = DiskHealth.of("vda", chunks, len(chunks)).ranges
    again = [
        (offset, CHUNK, each.heals)
        for each in ranges
        for offset in range(each.offset_bytes, each.offset_bytes + each.length_bytes, CHUNK)
    ]
    assert again == chunks
    for before, after in pairwise(ranges):
        end = before.offset_bytes + before.length_bytes
        assert end < after.offset_bytes or before.heals != after.heals


def test_a_whole_disk_that_is_lost_is_one_range() -> None:
    disk = DiskHealth.of("vda", ((at * CHUNK, CHUNK, True) for at in range(1000)))
    assert disk.ranges == (HurtRange(0, 1000 * CHUNK, heals=True),)
    assert (disk.more_ranges, disk.more_bytes) == (0, 0)


def test_a_report_lists_hurt_points_newest_first_and_counts_what_it_leaves_out() -> None:
    hurt = [point(number, scattered(3), DiskHealth("vdb")) for number in range(REPORT_POINTS + 7)]
    report = DamageReport.of([*hurt, point(999, DiskHealth("vda"))], AT, unseen=4)
    assert (report.looked_at, report.unseen) == (REPORT_POINTS + 8, 4)
    assert (len(report.points), report.more_points) == (REPORT_POINTS, 7)
    assert report.hurt_points == REPORT_POINTS + 7
    assert report.points[0].point_id == hurt[-1].point_id
    assert [disk.name for disk in report.points[0].disks] == ["vda"]
    assert report.hurt_bytes == (REPORT_POINTS + 7) * 3 * CHUNK
    assert report.more_bytes == 7 * 3 * CHUNK
    assert report.of_point(hurt[-1].point_id) == report.points[0]
    assert report.of_point(hurt[0].point_id) is None


def test_a_report_stays_small_whatever_is_lost() -> None:
    report = DamageReport.of((point(n, scattered(500), scattered(500)) for n in range(500)), AT)
    disks = [disk for each in report.points for disk in each.disks]
    assert sum(len(disk.ranges) for disk in disks) == REPORT_RANGES
    assert max(len(disk.ranges) for disk in disks) == DISK_RANGES
    assert all(
        sum(r.length_bytes for r in disk.ranges) + disk.more_bytes == disk.hurt_bytes
        for disk in disks
    )
    assert len(TypeAdapter(DamageReport).dump_json(report)) < 256 * 1024


def test_a_point_without_a_manifest_is_hurt_and_no_figure_tells_how_much() -> None:
    lost = PointHealth("ab", "", None, (), "Its manifest is damaged.")
    report = DamageReport.of([lost, point(1, scattered(1))], AT)
    assert [each.point_id for each in report.points] == [point(1).point_id, "ab"]
    assert report.hurt_bytes == CHUNK
    assert not lost.intact
    assert not lost.healable


@pytest.mark.parametrize("disks", [(), (DiskHealth("vda"),)])
def test_without_damage_nothing_is_listed(disks: tuple[DiskHealth, ...]) -> None:
    report = DamageReport.of([point(1, *disks)], AT)
    assert (report.points, report.hurt_points, report.hurt_bytes) == ((), 0, 0)
