"""A disk of which parts are lost in the vault: the rest comes back bit for bit, and what does not
is told to the byte."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from quiesce.block.image import open_target
from quiesce.model.failure import Evidence, Failure, StorageFailure, VaultFailure
from quiesce.model.point import PointDisk
from quiesce.model.snapshot import Consistency, ConsistencyLabel, Route
from quiesce.transfer.restore import RestoredDisk, restore_disk
from quiesce.vault import KeyFile, LocalStore, Vault
from quiesce.vault.format.diskmap import FANOUT
from quiesce.vault.format.pack import pack_key
from quiesce.vault.points.reader import VaultDiskReader

CHUNK = 128 * 1024
TAIL = 5000
"""What the disk's last chunk holds."""


class Scene:
    """A vault with one point of one disk, which can be hurt."""

    def __init__(self, folder: Path, content: bytes) -> None:
        self.folder = folder
        self.content = content
        self.key = KeyFile.generate()
        vault = Vault.create(LocalStore.create(folder / "vault"), self.key)
        writer = vault.writer("web", "job")
        disk = writer.disk("vda", len(content))
        for start in range(0, len(content), CHUNK):
            disk.put(start // CHUNK, memoryview(content)[start : start + CHUNK])
        self.point = writer.commit(
            taken_at=datetime(2026, 3, 1, tzinfo=UTC),
            route=Route.HOST,
            consistency=ConsistencyLabel(Consistency.CRASH, "no agent"),
            freeze=None,
            disks=(PointDisk("vda", len(content), "raw", "", False),),
        )
        self.vault = vault

    def open(self) -> Vault:
        self.vault = Vault.open(LocalStore(self.folder / "vault"), self.key)
        return self.vault

    def chunk(self, number: int) -> bytes:
        return self.reader()._map.chunk(number)

    def reader(self, **how: Any) -> VaultDiskReader:
        return self.vault.reader(self.point.id, "vda", **how)

    def hurt(self, *blobs: bytes) -> None:
        """Turns a bit of each."""
        for blob in blobs:
            place = self.vault.contents.index.locate(blob)
            assert place is not None
            pack = self.folder / "vault" / pack_key(self.vault.contents.index.name_of(place.pack))
            data = bytearray(pack.read_bytes())
            data[place.offset + place.length // 2] ^= 1
            pack.write_bytes(data)

    def shared_with(self, number: int) -> set[int]:
        """The chunks that lie in one frame with this one, and so are lost with it."""
        index = self.vault.contents.index
        numbers = range(-(-len(self.content) // CHUNK))
        places = {n: index.locate(self.chunk(n)) for n in numbers if self.chunk(n) != bytes(32)}
        mine = places[number]
        return {n for n, at in places.items() if (at.pack, at.offset) == (mine.pack, mine.offset)}

    def salvaged(self, path: Path, **how: Any) -> tuple[RestoredDisk, list[tuple[int, int]]]:
        reader = self.reader(salvage=True)
        target = open_target(path, len(self.content), "raw", overwrite=path.exists())
        done = restore_disk(reader, target, **how)
        return done, [(lost.offset_bytes, lost.length_bytes) for lost in reader.lost]

    def without(self, chunks: set[int]) -> bytes:
        """The disk with zeros in place of these."""
        expected = bytearray(self.content)
        for number in chunks:
            part = self.content[number * CHUNK : (number + 1) * CHUNK]
            expected[number * CHUNK : number * CHUNK + len(part)] = bytes(len(part))
        return bytes(expected)

    def ranges(self, chunks: set[int]) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for number in sorted(chunks):
            start = number * CHUNK
            length = min(CHUNK, len(self.content) - start)
            if found and sum(found[-1]) == start:
                found[-1] = found[-1][0], found[-1][1] + length
            else:
                found.append((start, length))
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """70 chunks of noise, 30 of zeros, and 41 whose last is short."""
    noise = random.Random(3).randbytes
    return Scene(tmp_path, noise(70 * CHUNK) + bytes(30 * CHUNK) + noise(40 * CHUNK + TAIL))


@pytest.mark.parametrize("hurt", [(5,), (0, 40), (69, 100), (140,), tuple(range(32, 64))])
def test_what_is_lost_is_told_to_the_byte_and_the_rest_is_restored(
    scene: Scene, tmp_path: Path, hurt: tuple[int, ...]
) -> None:
    lost = set().union(*(scene.shared_with(number) for number in hurt))
    frames = {min(scene.shared_with(number)) for number in hurt}
    scene.hurt(*(scene.chunk(number) for number in sorted(frames)))
    scene.open()
    target = tmp_path / "disk.img"
    with pytest.raises(VaultFailure) as refused:
        restore_disk(
            scene.reader(), open_target(target, len(scene.content), "raw", overwrite=False)
        )
    assert refused.value.code == "vault.corrupt-chunk"
    assert not target.exists()

    done, told = scene.salvaged(target)

    assert target.read_bytes() == scene.without(lost)
    assert told == scene.ranges(lost)
    assert done.size_bytes == len(scene.content)


def test_a_whole_disk_has_lost_nothing(scene: Scene, tmp_path: Path) -> None:
    done, told = scene.salvaged(tmp_path / "disk.img")
    assert (tmp_path / "disk.img").read_bytes() == scene.content
    assert told == []
    assert done.written_bytes == len(scene.content) - 30 * CHUNK


def test_lost_bytes_are_zeros_where_the_target_held_something_else(
    scene: Scene, tmp_path: Path
) -> None:
    scene.hurt(scene.chunk(5))
    lost = scene.shared_with(5)
    scene.open()

    class Device:
        """Keeps what is not written, as no target may: only what is written counts."""

        size_bytes = len(scene.content)
        held = bytearray(b"x" * len(scene.content))

        def reserve(self, offset_bytes: int, length_bytes: int) -> None: ...

        def write(self, offset_bytes: int, data: memoryview) -> None:
            self.held[offset_bytes : offset_bytes + len(data)] = data

        def finish(self) -> None: ...

        def abandon(self) -> tuple[Evidence, ...]:
            return ()

    device = Device()
    restore_disk(scene.reader(salvage=True), device)
    assert device.held[: 70 * CHUNK] == scene.without(lost)[: 70 * CHUNK]
    assert device.held[70 * CHUNK : 100 * CHUNK] == b"x" * 30 * CHUNK


def test_a_lost_pack_costs_what_lay_in_it_and_is_looked_for_once(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = sorted((tmp_path / "vault" / "packs").glob("*/*"), key=lambda pack: pack.stat().st_size)
    place_of = scene.vault.contents.index.locate
    name_of = scene.vault.contents.index.name_of
    gone = next(
        pack
        for pack in packs
        if (place := place_of(scene.chunk(0))) and pack_key(name_of(place.pack)).endswith(pack.name)
    )
    numbers = [n for n in range(141) if not 70 <= n < 100]
    lost = {
        n
        for n in numbers
        if (place := place_of(scene.chunk(n))) and pack_key(name_of(place.pack)).endswith(gone.name)
    }
    gone.unlink()
    vault = scene.open()
    looks: list[bool] = []
    refresh = vault.contents.refresh
    monkeypatch.setattr(
        vault.contents, "refresh", lambda **how: looks.append(True) or refresh(**how)
    )

    _, told = scene.salvaged(tmp_path / "disk.img", workers=1)

    assert told == scene.ranges(lost)
    assert (tmp_path / "disk.img").read_bytes() == scene.without(lost)
    assert len(looks) <= 8  # once for each thread that came upon it meanwhile


@pytest.mark.parametrize("part", ["leaf", "node"])
def test_a_lost_part_of_the_map_costs_all_that_it_told_of(tmp_path: Path, part: str) -> None:
    """300 chunks: two leaves below one node."""
    same, last = random.Random(4).randbytes(CHUNK), random.Random(5).randbytes(TAIL)
    scene = Scene(tmp_path, same * (FANOUT + 43) + last)
    reader = scene.reader()
    (node,) = reader._ref.nodes
    leaves = reader._map.leaf_ids()
    scene.hurt(node if part == "node" else leaves[32:64])
    scene.open()

    _, told = scene.salvaged(tmp_path / "disk.img")

    lost = set(range(300)) if part == "node" else set(range(FANOUT, 300))
    assert told == scene.ranges(lost)
    assert (tmp_path / "disk.img").read_bytes() == scene.without(lost)


def failing(
    code: str, monkeypatch: pytest.MonkeyPatch, *, but: Callable[[str], bool] = lambda key: False
) -> None:
    """From now on the store fails so, except for these objects."""

    def fails(real: Callable[..., bytes]) -> Callable[..., bytes]:
        def call(self: LocalStore, key: str, *given: Any, **named: Any) -> bytes:
            if but(key):
                return real(self, key, *given, **named)
            raise StorageFailure(code, "The store said no.", retryable=True)

        return call

    for name in ("get", "get_range"):
        monkeypatch.setattr(LocalStore, name, fails(getattr(LocalStore, name)))


@pytest.fixture
def reads(scene: Scene) -> VaultDiskReader:
    """Has read its map."""
    reader = scene.reader(salvage=True)
    assert list(reader.extents())
    return reader


@pytest.mark.parametrize(
    "code", ["storage.io-error", "storage.unreachable", "storage.denied", "storage.vanished"]
)
def test_a_store_that_fails_as_a_whole_ends_the_restore(
    scene: Scene,
    reads: VaultDiskReader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
) -> None:
    target = open_target(tmp_path / "disk.img", len(scene.content), "raw", overwrite=False)
    failing(code, monkeypatch)
    with pytest.raises(Failure) as ended:
        restore_disk(reads, target)
    assert ended.value.code == code
    assert not (tmp_path / "disk.img").exists()


def test_one_unreadable_object_of_a_store_that_answers_is_lost(
    scene: Scene, reads: VaultDiskReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = open_target(tmp_path / "disk.img", len(scene.content), "raw", overwrite=False)
    failing("storage.io-error", monkeypatch, but=lambda key: not key.startswith("packs/"))
    restore_disk(reads, target)
    told = [(lost.offset_bytes, lost.length_bytes) for lost in reads.lost]
    assert told == [(0, 70 * CHUNK), (100 * CHUNK, 40 * CHUNK + TAIL)]
    assert (tmp_path / "disk.img").read_bytes() == bytes(len(scene.content))


def test_a_pack_whose_head_speaks_of_a_newer_version_costs_no_more_than_itself(
    scene: Scene, tmp_path: Path
) -> None:
    """One turned bit may say so, which no newer version could read either."""
    place = scene.vault.contents.index.locate(scene.chunk(0))
    assert place is not None
    name = pack_key(scene.vault.contents.index.name_of(place.pack))
    pack = tmp_path / "vault" / name
    data = bytearray(pack.read_bytes())
    assert data[6:7] == b"1"
    data[6] ^= 2
    pack.write_bytes(data)
    scene.open()

    reader = scene.reader(salvage=True)
    target = open_target(tmp_path / "disk.img", len(scene.content), "raw", overwrite=False)
    restore_disk(reader, target)

    assert reader.lost
    assert any(name in fact.source for fact in reader.why)
    got = (tmp_path / "disk.img").read_bytes()
    for lost in reader.lost:
        assert got[lost.offset_bytes : lost.end_bytes] == bytes(lost.length_bytes)
