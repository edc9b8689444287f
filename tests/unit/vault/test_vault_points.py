"""Writing points and reading them back, as a user sees it."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest
from faulty_store import FaultyStore
from vault_scene import FREEZE, KEY, LABEL, FakeClock, Scene, disk_of, random_bytes

from quiesce.model.extent import Extent, ExtentKind
from quiesce.model.failure import Failure, VaultFailure
from quiesce.model.point import PointDisk
from quiesce.model.snapshot import FreezeReport, MountFreeze, Route
from quiesce.vault import KeyFile, LocalStore, Passphrase, RecoveryKey, Vault
from quiesce.vault.format.config import CHUNK_BYTES
from quiesce.vault.format.keys import KdfCost
from quiesce.vault.format.slots import list_slots

CHEAP = KdfCost(time_cost=1, memory_kib=64, lanes=1)


def test_a_disk_comes_back_bit_for_bit_in_another_process(scene: Scene) -> None:
    disk = disk_of(1, 0, 2, 2, 0, 0, 3, tail=777)
    point = scene.backup("job", disk)
    assert scene.reopened().restore(point) == disk


def test_a_point_keeps_everything_it_was_labelled_with(scene: Scene) -> None:
    point = scene.backup("job", disk_of(1), vm="wéb / with spaces " + "x" * 300)
    assert scene.reopened().vault.point(point.id) == point
    assert point.freeze == FREEZE
    assert point.consistency == LABEL


@pytest.mark.parametrize(
    "mount", [MountFreeze("/", "ext4", math.nan, 1.0), MountFreeze("/mnt/\udcff", "ext4", 1.0, 1.0)]
)
def test_a_point_that_could_not_be_read_again_is_not_made(scene: Scene, mount: MountFreeze) -> None:
    whole = scene.backup("whole", disk_of(1, 2))
    writer = scene.vault.writer("web", "job")
    disk = writer.disk("sda", CHUNK_BYTES)
    disk.put(0, memoryview(disk_of(3)))
    with pytest.raises(VaultFailure) as caught:
        writer.commit(
            taken_at=scene.clock(),
            route=Route.HOST,
            consistency=LABEL,
            freeze=FreezeReport((mount,), True, 1.0),
            disks=(PointDisk("sda", CHUNK_BYTES, "raw", "g", False),),
        )
    writer.abandon()
    assert caught.value.code == "vault.manifest-unfit"
    vault = scene.reopened().vault
    assert [point.id for point in vault.points()] == [whole.id]
    assert vault.status().unreadable_points == ()


def test_an_increment_carries_on_what_did_not_travel(scene: Scene) -> None:
    first, second = disk_of(1, 2, 3, 0, 5), disk_of(1, 9, 3, 0, 5)
    scene.backup("one", first)
    before = sum(pack.stat().st_size for pack in scene.packs())
    point = scene.backup("two", second, base="one", changed={"sda": {1}})
    assert scene.restore(point) == second
    grown = sum(pack.stat().st_size for pack in scene.packs()) - before
    assert grown < CHUNK_BYTES + 40_000


def test_the_increment_of_a_large_disk_writes_kilobytes_of_map(scene: Scene) -> None:
    size = 1 << 40
    writer = scene.vault.writer("web", "full")
    disk = writer.disk("sda", size)
    chunk = memoryview(random_bytes(1, CHUNK_BYTES))
    for index in range(0, size // CHUNK_BYTES, 100_000):
        disk.put(index, chunk)
    row = PointDisk("sda", size, "raw", "g1", False)
    how = {"taken_at": scene.clock(), "route": Route.HOST, "consistency": LABEL, "freeze": None}
    writer.commit(disks=(row,), **how)
    before = sum(f.stat().st_size for f in scene.folder.rglob("*") if f.is_file())
    writer = scene.vault.writer("web", "increment")
    disk = writer.disk("sda", size, base_generation="g1")
    new = memoryview(random_bytes(2, CHUNK_BYTES))
    disk.put(4_000_000, new)
    point = writer.commit(disks=(PointDisk("sda", size, "raw", "g2", True),), **how)
    after = sum(f.stat().st_size for f in scene.folder.rglob("*") if f.is_file())
    assert after - before - CHUNK_BYTES < 24 * 1024
    piece = bytearray(3 * CHUNK_BYTES)
    reader = scene.reopened().vault.reader(point.id, "sda")
    reader.read_into(3_999_999 * CHUNK_BYTES, memoryview(piece))
    assert piece == bytes(CHUNK_BYTES) + new + bytes(CHUNK_BYTES)
    reader.read_into(3_900_000 * CHUNK_BYTES, memoryview(piece)[:CHUNK_BYTES])
    assert piece[:CHUNK_BYTES] == chunk


def test_the_same_data_in_another_vm_costs_no_second_copy(scene: Scene) -> None:
    disk = disk_of(*range(1, 20))
    scene.backup("one", disk, vm="web")
    point = scene.reopened().backup("two", disk, vm="mail")
    assert point.stored_bytes == 0
    assert scene.restore(point) == disk


def test_zeros_and_holes_cost_nothing_and_read_as_holes(scene: Scene) -> None:
    disk = disk_of(0, 0, 1, 0)
    point = scene.backup("job", disk)
    extents = list(scene.vault.reader(point.id, "sda").extents())
    assert extents == [
        Extent(0, 2 * CHUNK_BYTES, ExtentKind.ZERO),
        Extent(2 * CHUNK_BYTES, CHUNK_BYTES, ExtentKind.DATA),
        Extent(3 * CHUNK_BYTES, CHUNK_BYTES, ExtentKind.ZERO),
    ]
    assert point.stored_bytes == CHUNK_BYTES + 16


def test_an_empty_disk_and_a_two_tebibyte_hole_are_points_too(scene: Scene) -> None:
    size = 2 << 40
    writer = scene.vault.writer("web", "job")
    writer.disk("empty", 0)
    writer.disk("huge", size).zero(0, size // CHUNK_BYTES)
    rows = (PointDisk("empty", 0, "raw", "g", False), PointDisk("huge", size, "raw", "g", False))
    point = writer.commit(
        taken_at=scene.clock(), route=Route.HOST, consistency=LABEL, freeze=None, disks=rows
    )
    assert list(scene.vault.reader(point.id, "empty").extents()) == []
    assert list(scene.vault.reader(point.id, "huge").extents()) == [
        Extent(0, size, ExtentKind.ZERO)
    ]
    assert scene.packs() == []


@pytest.mark.parametrize("cut", [0, 1, 5000, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_a_disk_that_shrank_and_grew_again_shows_zeros_not_old_data(scene: Scene, cut: int) -> None:
    large = disk_of(1, 2, 3, tail=100)
    small = large[: len(large) - 100 - cut]
    scene.backup("one", large)
    shrunk = scene.backup("two", small, base="one", changed={})
    assert scene.restore(shrunk) == small
    grown_disk = small + bytes(2 * CHUNK_BYTES + 3)
    grown = scene.backup("three", grown_disk, base="two", changed={})
    assert scene.restore(grown) == grown_disk


def test_a_chunk_put_twice_is_what_was_put_last(scene: Scene) -> None:
    count = 300
    writer = scene.vault.writer("web", "job")
    disk = writer.disk("sda", count * CHUNK_BYTES)
    chunks = [random_bytes(n + 1, CHUNK_BYTES) for n in range(4)]
    for index in range(count):
        disk.put(index, memoryview(chunks[index % 3]))
    disk.put(7, memoryview(chunks[3]))
    disk.zero(8, 1)
    point = scene.commit(writer, count * CHUNK_BYTES)
    restored = scene.restore(point)
    expected = [chunks[index % 3] for index in range(count)]
    expected[7], expected[8] = chunks[3], bytes(CHUNK_BYTES)
    assert restored == b"".join(expected)


def test_any_range_of_a_disk_can_be_read(scene: Scene) -> None:
    disk = disk_of(1, 0, 2, 3, tail=99)
    point = scene.backup("job", disk)
    reader = scene.vault.reader(point.id, "sda")
    for start, length in [(0, 1), (CHUNK_BYTES - 1, 2), (5, 3 * CHUNK_BYTES), (len(disk) - 3, 3)]:
        piece = bytearray(length)
        reader.read_into(start, memoryview(piece))
        assert piece == disk[start : start + length]


def test_an_unknown_base_is_refused_so_that_the_disk_is_read_in_full(scene: Scene) -> None:
    scene.backup("one", disk_of(1))
    with pytest.raises(Failure) as caught:
        scene.vault.writer("web", "two").disk("sda", CHUNK_BYTES, base_generation="other")
    assert caught.value.code == "vault.base-missing"
    with pytest.raises(Failure) as caught:
        scene.vault.writer("mail", "three").disk("sda", CHUNK_BYTES, base_generation="one")
    assert caught.value.code == "vault.base-missing"


def test_a_job_that_committed_finds_its_point_and_makes_no_second_one(scene: Scene) -> None:
    point = scene.backup("job", disk_of(1))
    assert scene.reopened().vault.writer("web", "job").committed == point
    assert len(scene.vault.points()) == 1


def test_two_writers_at_once_share_what_they_store(scene: Scene) -> None:
    common = list(range(100, 160))
    disks = {"web": disk_of(*common, 1), "mail": disk_of(*common, 2)}
    points = {}

    def run(vm: str) -> None:
        points[vm] = scene.backup(f"job-{vm}", disks[vm], vm=vm)

    threads = [threading.Thread(target=run, args=(vm,)) for vm in disks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other = scene.reopened()
    for vm, disk in disks.items():
        assert other.restore(points[vm]) == disk


def test_several_threads_write_one_disk(scene: Scene) -> None:
    disk = disk_of(*range(1, 81))
    writer = scene.vault.writer("web", "job")
    target = writer.disk("sda", len(disk))
    view = memoryview(disk)

    def run(start: int) -> None:
        for index in range(start, 80, 4):
            target.put(index, view[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    point = scene.commit(writer, len(disk))
    assert scene.reopened().restore(point) == disk


def test_a_resumed_job_sends_no_finished_pack_again(scene: Scene) -> None:
    disk = disk_of(*range(1, 601))  # 75 MiB: several packs are full and stored before the end
    counting = FaultyStore(scene.store)
    first = scene.reopened(counting)
    writer = first.vault.writer("web", "job")
    target = writer.disk("sda", len(disk))
    view = memoryview(disk)
    for index in range(600):
        target.put(index, view[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
    writer._stream.close()  # what was under way arrives; then the process is gone
    finished = {key for key in counting.puts if key.startswith("packs/")}
    assert len(finished) >= 2
    again = FaultyStore(scene.store)
    resumed = scene.reopened(again)
    point = resumed.backup("job", disk)
    sent = [key for key in again.puts if key.startswith("packs/")]
    assert len(sent) == 1
    assert resumed.restore(point) == disk
    assert len(scene.packs()) == len(finished) + 1


@pytest.mark.parametrize("kind", ["passphrase", "key file", "recovery key"])
def test_each_kind_of_key_opens_the_vault(tmp_path: Path, kind: str, clock: FakeClock) -> None:
    key_file, recovery = KeyFile.generate(), RecoveryKey.generate()
    passphrase = Passphrase("längst bekannt", CHEAP)
    store = LocalStore.create(tmp_path / "v")
    scene = Scene(Vault.create(store, passphrase, key_file, recovery, clock=clock), clock)
    point = scene.backup("job", disk_of(1))
    key = {
        "passphrase": Passphrase("längst bekannt"),
        "key file": KeyFile.parse(key_file.text()),
        "recovery key": RecoveryKey.parse(recovery.text().lower().replace("-", " ")),
    }[kind]
    assert Vault.open(LocalStore(tmp_path / "v"), key).point(point.id) == point


def test_a_wrong_key_and_no_key_are_told_apart(scene: Scene) -> None:
    for key, code in [(KeyFile.generate(), "auth.key-wrong"), (None, "vault.locked")]:
        with pytest.raises(Failure) as caught:
            Vault.open(scene.store, key)
        assert caught.value.code == code


def test_a_changed_passphrase_rewrites_no_data(scene: Scene) -> None:
    point = scene.backup("job", disk_of(1))
    old = [slot.id for slot in list_slots(scene.store)]
    counting = FaultyStore(scene.store)
    vault = Vault.open(counting, KEY)
    vault.add_key(Passphrase("new", CHEAP))
    vault.remove_key(old[0])
    assert len(counting.puts) == 1
    with pytest.raises(Failure) as caught:
        Vault.open(scene.store, KEY)
    assert caught.value.code == "auth.key-wrong"
    assert Vault.open(scene.store, Passphrase("new")).point(point.id) == point
    with pytest.raises(Failure) as caught:
        vault.remove_key(list_slots(scene.store)[0].id)
    assert caught.value.code == "vault.last-key"


def test_a_vault_is_not_made_over_a_vault_nor_found_where_there_is_none(
    scene: Scene, tmp_path: Path
) -> None:
    with pytest.raises(Failure) as caught:
        Vault.create(scene.store, KEY)
    assert caught.value.code == "vault.exists"
    with pytest.raises(Failure) as caught:
        Vault.open(LocalStore.create(tmp_path / "other"), KEY)
    assert caught.value.code == "vault.not-a-vault"


def test_no_name_of_vm_or_disk_is_readable_without_the_key(scene: Scene) -> None:
    scene.backup("secret-job", {"secret-disk": disk_of(1)}, vm="secret-vm")
    for file in scene.folder.rglob("*"):
        assert b"secret" not in (file.read_bytes() if file.is_file() else str(file).encode())


def test_a_job_whose_point_was_deleted_is_not_told_that_it_has_one(scene: Scene) -> None:
    gone = scene.backup("job", disk_of(1))
    scene.delete(gone)
    with pytest.raises(Failure) as caught:
        scene.reopened().vault.writer("web", "job")
    assert caught.value.code == "vault.point-deleted"
    scene.collect_fully()
    point = scene.reopened().backup("job", disk_of(1))
    assert scene.reopened().restore(point) == disk_of(1)
