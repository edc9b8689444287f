"""Real guests for the end-to-end tests, resumed from a saved state in about a second.

A test that names one of these fixtures is marked `guest` by that alone. The lab lets one guest run
at a time on a machine, also between two test runs, or as many as QUIESCE_LAB_GUESTS says.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from quiesce.lab.guest import LabGuest
from quiesce.lab.state import Layout, ready_guest

GUEST_FIXTURES = {"guest", "three_disk_guest", "guest_folder"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if GUEST_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.guest)


@pytest.fixture
def guest_folder() -> Iterator[Path]:
    """An empty folder that is short enough for unix sockets, which pytest's tmp_path is not."""
    with tempfile.TemporaryDirectory(prefix="quiesce-e2e-") as folder:
        yield Path(folder)


@pytest.fixture
def guest(guest_folder: Path) -> Iterator[LabGuest]:
    """A running guest of the test's own, with one ext4 disk."""
    with ready_guest(guest_folder, Layout.ONE_DISK) as guest:
        yield guest


@pytest.fixture
def three_disk_guest(guest_folder: Path) -> Iterator[LabGuest]:
    """A running guest of the test's own, with ext4, XFS and btrfs disks."""
    with ready_guest(guest_folder, Layout.THREE_DISKS) as guest:
        yield guest
