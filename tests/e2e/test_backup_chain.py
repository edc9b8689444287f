"""A full backup and its increments on real guests, through a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from guest_scripts import put_scripts
from quiesce_server import VM, QuiesceServer, held_by_qemu, new_server, nothing_is_left, told

from quiesce.block.file import FileSource
from quiesce.block.nbd import NbdSource
from quiesce.lab.guest import LabGuest
from quiesce.lab.ledger import acknowledged, prove, start_ledger
from quiesce.lab.machine import DiskFile
from quiesce.lab.state import Layout, guest_of_disks
from quiesce.model.snapshot import SnapshotSession
from quiesce.transfer.digest import digest

MIB = 1 << 20


@pytest.fixture
def server() -> Iterator[QuiesceServer]:
    with new_server() as server:
        yield server


def read_independently(session: SnapshotSession) -> dict[str, str]:
    """The hash of every disk of an open snapshot, all of it, whatever any bitmap says."""
    hashes = {}
    for disk in session.disks:
        source = NbdSource.of(disk, whole=True)
        try:
            hashes[disk.name] = digest(source)
        finally:
            source.close()
    return hashes


def restored_hashes(server: QuiesceServer, point_id: str, to: Path) -> dict[str, str]:
    """The hash of every disk of a point, restored to files that are removed again."""
    to.mkdir()
    server.restore(point_id, to)
    hashes = {}
    for file in sorted(to.iterdir()):
        source = FileSource(file)
        hashes[file.name.removesuffix(".img")] = digest(source)
        source.close()
        file.unlink()
    return hashes


def write(guest: LabGuest, path: str, mebibytes: int, *, offset: int = 0) -> None:
    guest.run(
        f"dd if=/dev/urandom of={path} bs=1M count={mebibytes} seek={offset} conv=notrunc,fsync"
    )


def check_chain(server: QuiesceServer, guest: LabGuest, layout: Layout, folder: Path) -> None:
    server.add(guest)
    start_ledger(guest)
    before = held_by_qemu(guest)
    wanted, points = [], []
    for number in range(3):
        for mount in layout.mounts:
            # Overwritten, appended and, before the last one, trimmed.
            write(guest, f"{mount}/changing", 4, offset=2 * number)
        if number == 2:
            guest.run("rm -f /var/cache/apt/*.bin; fstrim -a")
        with server.stuck_in_transfer(guest) as job_id:
            wanted.append(read_independently(server.session(guest, job_id)))
        points.append(server.point_of(server.end_of(job_id)))
        nothing_is_left(server, guest, before)

    assert [[d["incremental"] for d in point["disks"]] for point in points] == [
        [False] * len(layout.mounts),
        [True] * len(layout.mounts),
        [True] * len(layout.mounts),
    ]
    for point in points[1:]:
        for disk in point["disks"]:
            print(f"{disk['name']}: {disk['read_bytes'] / MIB:.1f} MiB read for 4 MiB written")
            # What was written came along; beside it only chunks that the ledger, the journal
            # and the file systems' own bookkeeping touched.
            assert 4 * MIB <= disk["read_bytes"] <= 40 * MIB, disk
    assert points[0]["consistency"]["level"] == "file-system"
    for number, (point, hashes) in enumerate(zip(points, wanted, strict=True)):
        assert restored_hashes(server, point["id"], folder / str(number)) == hashes
    assert len({h for hashes in wanted for h in hashes.values()}) == 3 * len(layout.mounts)


def test_every_point_of_a_guest_is_the_disk_of_its_instant_bit_for_bit(
    server: QuiesceServer, guest: LabGuest, tmp_path: Path
) -> None:
    check_chain(server, guest, Layout.ONE_DISK, tmp_path)


def test_every_disk_of_every_point_of_a_three_disk_guest_is_that_of_the_instant_bit_for_bit(
    server: QuiesceServer, three_disk_guest: LabGuest, tmp_path: Path
) -> None:
    check_chain(server, three_disk_guest, Layout.THREE_DISKS, tmp_path)


def test_a_restored_disk_boots_and_holds_all_that_the_guest_had_acknowledged(
    server: QuiesceServer, guest: LabGuest, tmp_path: Path
) -> None:
    server.add(guest)
    start_ledger(guest)
    server.point_of(server.backup())
    write(guest, "/root/more", 8)
    promised = acknowledged(guest)
    point = server.point_of(server.backup())
    assert all(disk["incremental"] for disk in point["disks"])
    worst = acknowledged(guest).worst_write_ms
    assert worst < 10_000, "the guest's writes stood still for longer than the hold"
    guest.stop()
    server.restore(point["id"], tmp_path / "vda.img")
    place = server.folder / "restored"
    place.mkdir()
    with guest_of_disks(place, {"vda": DiskFile(tmp_path / "vda.img", "raw")}) as restored:
        assert prove(restored, promised) >= promised.records


def ran(guest: LabGuest) -> list[str]:
    """Which scripts ran since the last look."""
    return guest.run("cat /run/order; rm /run/order").split()


def test_the_operators_scripts_decide_whether_a_point_is_application_consistent(
    server: QuiesceServer, guest: LabGuest
) -> None:
    server.add(guest)
    before = held_by_qemu(guest)

    put_scripts(guest, pre="echo pre >> /run/order", post="echo post >> /run/order")
    point = server.point_of(server.backup())
    assert point["consistency"] == {"level": "application", "reason": ""}
    assert ran(guest) == ["pre", "post"]

    put_scripts(guest, pre="echo no database >&2; exit 3", post="echo post >> /run/order")
    ended = server.cli("backup", VM, "--wait")
    assert ended.returncode == 3
    assert "script.pre-failed" in ended.stdout + ended.stderr
    assert "no database" in ended.stdout + ended.stderr
    assert ran(guest) == ["post"]
    nothing_is_left(server, guest, before)

    put_scripts(guest, pre="echo pre >> /run/order", post="echo post >> /run/order; exit 4")
    ended_well = server.backup()
    assert ended_well["consistency"]["level"] == "file-system", told(ended_well)
    assert "script.post-failed" in ended_well["consistency"]["reason"]
    assert ran(guest) == ["pre", "post"]
    assert len(server.points()) == 2
    nothing_is_left(server, guest, before)
