"""A row of the list of points says what was read, and why it was not the changes alone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from quiesce.model.point import PointDisk, RecoveryPoint
from quiesce.model.snapshot import Consistency, ConsistencyLabel, Route
from quiesce.portal.tables import point_row

AT = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)
CHANGES = PointDisk("vda", 1 << 30, "raw", "g", True, read_bytes=1024)
LIED = "bitmap.audit-mismatch: Disk vdb has changed where its change tracking says that it has not"


def whole(reason: str) -> PointDisk:
    return PointDisk("vdb", 1 << 30, "raw", "g", False, reason, read_bytes=1024)


@pytest.mark.parametrize(
    ("disks", "said"),
    [
        ((CHANGES,), "1.0 KiB (changes)"),
        ((CHANGES, whole(LIED)), "2.0 KiB (all: bitmap.audit-mismatch)"),
        (
            (whole("first point: the vault holds none"), whole(LIED)),
            "2.0 KiB (all: first point, bitmap.audit-mismatch)",
        ),
        ((whole(""),), "1.0 KiB (all)"),
    ],
)
def test_a_disk_that_was_read_whole_says_why(disks: tuple[PointDisk, ...], said: str) -> None:
    label = ConsistencyLabel(Consistency.FILE_SYSTEM, "")
    point = RecoveryPoint("p", "web", "job", AT, AT, Route.HOST, label, None, disks)
    assert point_row(point, None)["kind"] == said
