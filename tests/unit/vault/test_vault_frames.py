"""Chunks that are stored together in frames: each is still found, proven and lost by itself."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vault_scene import Scene, random_bytes

from quiesce.model.failure import Failure
from quiesce.vault.contents.index import ChunkIndex
from quiesce.vault.contents.index_runs import Location
from quiesce.vault.format.config import CHUNK_BYTES
from quiesce.vault.format.frames import FRAME_BYTES
from quiesce.vault.format.keys import VaultKeys
from quiesce.vault.format.pack import (
    BLOB_LIMIT_BYTES,
    Codec,
    Entry,
    Kind,
    PackBuilder,
    PackError,
    Piece,
    blob_id,
    blob_in,
    open_range,
    pack_name,
    whole_footer,
)

KEYS = VaultKeys(bytes(32))
IN_A_FRAME = FRAME_BYTES // CHUNK_BYTES


def text(seed: int, length: int = CHUNK_BYTES) -> bytes:
    """What compresses to next to nothing, but not to zeros."""
    return (random_bytes(seed, 64) * (CHUNK_BYTES // 64))[:length]


def disk_of_text(*seeds: int, tail: int = 0) -> bytes:
    return b"".join(text(n) if n else bytes(CHUNK_BYTES) for n in seeds) + text(999, tail)


def stored_entries(scene: Scene) -> list[Entry]:
    return [entry for path in scene.packs() for entry in entries_of(path.read_bytes(), scene)]


def entries_of(pack: bytes, scene: Scene) -> list[Entry]:
    return whole_footer(scene.vault.contents.keys, memoryview(pack))


def frames_of(pack: bytes, scene: Scene) -> dict[tuple[int, int], list[Entry]]:
    """The chunks of each frame, by its range."""
    found: dict[tuple[int, int], list[Entry]] = {}
    for entry in entries_of(pack, scene):
        if entry.codec is Codec.FRAME:
            found.setdefault((entry.offset, entry.length), []).append(entry)
    return found


def test_neighbouring_new_chunks_are_stored_as_one(scene: Scene) -> None:
    disk = disk_of_text(*range(1, 2 * IN_A_FRAME + 1), tail=1000)
    point = scene.backup("job", disk)
    (pack,) = scene.packs()
    sizes = [len(chunks) for chunks in frames_of(pack.read_bytes(), scene).values()]
    assert sizes == [IN_A_FRAME, IN_A_FRAME]
    assert scene.reopened().restore(point) == disk


def test_what_does_not_compress_is_stored_chunk_by_chunk_as_it_is(scene: Scene) -> None:
    disk = random_bytes(1, 3 * CHUNK_BYTES)
    point = scene.backup("job", disk)
    chunks = [entry for entry in stored_entries(scene) if entry.kind is Kind.CHUNK]
    assert [entry.codec for entry in chunks] == [Codec.PLAIN] * 3
    assert point.stored_bytes == 3 * (CHUNK_BYTES + 16)
    assert scene.restore(point) == disk


def test_a_chunk_of_a_frame_is_deduplicated_alone(scene: Scene) -> None:
    scene.backup("one", disk_of_text(1, 2, 3, 4), vm="web")
    before = scene.packs()
    other = disk_of_text(9, 3, 0, 3, 1)
    point = scene.backup("two", other, vm="mail")
    (new,) = set(scene.packs()) - set(before)
    kinds = [entry.kind for entry in entries_of(new.read_bytes(), scene)]
    assert kinds.count(Kind.CHUNK) == 1
    assert scene.reopened().restore(point) == other


def test_a_frame_is_unpacked_to_where_its_chunks_are_wanted_and_proven_there(scene: Scene) -> None:
    disk = disk_of_text(*range(1, IN_A_FRAME + 1)) + disk_of_text(2, 2, 1)
    point = scene.backup("job", disk)
    reader = scene.reopened().vault.reader(point.id, "sda")
    buffer = memoryview(bytearray(b"\xff" * len(disk)))
    reader.read_into(0, buffer)
    assert buffer == disk
    shifted = memoryview(bytearray(len(disk) - 2 * CHUNK_BYTES - 7))
    reader.read_into(CHUNK_BYTES + 7, shifted)
    assert shifted == disk[CHUNK_BYTES + 7 : -CHUNK_BYTES]


def test_a_frame_that_the_index_takes_for_another_is_not_believed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = disk_of_text(*range(1, 2 * IN_A_FRAME + 1))
    point = scene.backup("job", disk)
    vault = scene.reopened().vault
    located = vault.contents.index.locate
    places = [
        located(blob_id(vault.contents.keys, Kind.CHUNK, text(n)))
        for n in range(1, 2 * IN_A_FRAME + 1)
    ]
    swapped = dict(zip(places, places[IN_A_FRAME:] + places[:IN_A_FRAME], strict=True))

    def mistaken(index: ChunkIndex, blob: bytes) -> Location | None:
        place = located(blob)
        return swapped.get(place, place)

    monkeypatch.setattr(ChunkIndex, "locate", mistaken)
    buffer = memoryview(bytearray(len(disk)))
    vault.reader(point.id, "sda").read_into(0, buffer)
    assert buffer == disk  # from where a second look finds them


@pytest.mark.parametrize("level", [1, 2, 3, 9])
def test_every_level_gives_the_disk_back(scene: Scene, level: int) -> None:
    disk = disk_of_text(*range(1, IN_A_FRAME + 3), tail=77) + random_bytes(1, 10 * CHUNK_BYTES)
    writer = scene.vault.writer("web", "job", compression_level=level)
    target = writer.disk("sda", len(disk))
    stored = target.put(0, memoryview(disk))
    point = scene.commit(writer, len(disk))
    assert stored < 11 * CHUNK_BYTES
    assert scene.reopened().restore(point) == disk


def test_what_a_thread_puts_lies_side_by_side_whatever_others_put(scene: Scene) -> None:
    at_once = 2 * IN_A_FRAME
    disk = disk_of_text(*range(1, 12 * at_once + 1))
    writer = scene.vault.writer("web", "job")
    target = writer.disk("sda", len(disk))
    view = memoryview(disk)

    def put(number: int) -> None:
        first = number * at_once
        target.put(first, view[first * CHUNK_BYTES : (first + at_once) * CHUNK_BYTES])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(12)))
    scene.commit(writer, len(disk))
    (pack,) = scene.packs()
    chunks = [entry for entry in entries_of(pack.read_bytes(), scene) if entry.kind is Kind.CHUNK]
    keys = scene.vault.contents.keys
    expected = {
        blob_id(keys, Kind.CHUNK, view[at : at + CHUNK_BYTES]): at // CHUNK_BYTES
        for at in range(0, len(disk), CHUNK_BYTES)
    }
    places = [expected[entry.id] for entry in chunks]
    for start in range(0, len(places), at_once):
        assert places[start : start + at_once] == list(
            range(places[start], places[start] + at_once)
        )


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    versions=st.lists(
        st.tuples(
            st.lists(st.integers(0, 12), min_size=1, max_size=3 * IN_A_FRAME + 1),
            st.integers(0, CHUNK_BYTES - 1),
        ),
        min_size=1,
        max_size=3,
    ),
    reads=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=6),
)
def test_any_mixture_of_new_old_zero_and_short_chunks_is_read_at_any_range(
    scene: Scene, versions: list[tuple[list[int], int]], reads: list[tuple[float, float]]
) -> None:
    # Even numbers compress, odd ones do not.
    parts = [text(n) if n % 2 == 0 else random_bytes(n, CHUNK_BYTES) for n in range(13)]
    parts[0] = bytes(CHUNK_BYTES)
    run = len(scene.vault.points())
    for number, (seeds, tail) in enumerate(versions):
        disk = b"".join(parts[n] for n in seeds) + text(997, tail)
        point = scene.backup(f"{run} {number}", disk)
        there = scene.reopened()
        assert there.restore(point) == disk
        reader = there.vault.reader(point.id, "sda")
        for place, share in reads:
            start = int(place * len(disk))
            piece = bytearray(int(share * (len(disk) - start)))
            reader.read_into(start, memoryview(piece))
            assert piece == disk[start : start + len(piece)]


def test_a_damaged_frame_costs_its_chunks_and_no_others(scene: Scene) -> None:
    disk = disk_of_text(*range(1, 3 * IN_A_FRAME + 1))
    point = scene.backup("one", disk)
    (pack,) = scene.packs()
    data = bytearray(pack.read_bytes())
    (_, ((offset, length), chunks), _) = frames_of(data, scene).items()
    data[offset + length // 2] ^= 1
    pack.write_bytes(data)
    report = scene.reopened().vault.verify("chunks")
    start, end = FRAME_BYTES, 2 * FRAME_BYTES
    ((lost,),) = [disk.ranges for disk in report.hurt[0].disks]
    assert (lost.offset_bytes, lost.length_bytes) == (start, end - start)
    name = pack_name(f"packs/{pack.parent.name}/{pack.name}")
    there = scene.reopened()
    recorded = there.vault.contents.records.damage()[name]
    assert recorded == {chunk.id for chunk in chunks}
    reader = there.vault.reader(point.id, "sda")
    for first, last in [(0, start), (end, len(disk))]:
        piece = bytearray(last - first)
        reader.read_into(first, memoryview(piece))
        assert piece == disk[first:last]
    with pytest.raises(Failure) as caught:
        reader.read_into(start + CHUNK_BYTES, memoryview(bytearray(1)))
    assert caught.value.code == "vault.corrupt-chunk"
    healing = there.backup("two", disk)
    assert there.restore(healing) == there.restore(point) == disk
    assert there.vault.verify("chunks").intact


def test_small_reads_of_neighbours_open_their_frame_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = disk_of_text(*range(1, IN_A_FRAME + 1))
    point = scene.backup("job", disk)
    there = scene.reopened()
    reader = there.vault.reader(point.id, "sda")
    asked: list[int] = []
    get_range = there.store.get_range

    def counted(key: str, offset: int, length: int) -> bytes:
        asked.append(length)
        return get_range(key, offset, length)

    monkeypatch.setattr(there.store, "get_range", counted)
    piece = bytearray(4096)
    reader.read_into(0, memoryview(piece))
    before = len(asked)
    for at in range(0, len(disk), CHUNK_BYTES):
        reader.read_into(at, memoryview(piece))
        assert piece == disk[at : at + 4096]
    assert len(asked) == before


def packed(data: bytes, ids: list[bytes], codec: Codec = Codec.FRAME) -> tuple[memoryview, Entry]:
    """A pack that holds just this, as whoever has the key could write it."""
    builder = PackBuilder(KEYS, memoryview(bytearray(4 * 1024 * 1024)))
    pieces = [Piece(ids, data, codec, Kind.CHUNK)]
    (first,) = firsts = builder.reserve(pieces) or []
    builder.fill(firsts, pieces)
    return builder.seal(), first


def opened(pack: memoryview, entry: Entry, chunk_bytes: int = CHUNK_BYTES) -> bytes:
    cipher = KEYS.pack_cipher(bytes(pack[8:40]))
    stored = pack[entry.offset : entry.offset + entry.length]
    return bytes(blob_in(entry, open_range(cipher, entry, stored), chunk_bytes))


def test_a_pack_waits_for_no_piece_that_failed() -> None:
    builder = PackBuilder(KEYS, memoryview(bytearray(1024 * 1024)))
    pieces = [Piece([bytes([n]) * 32], bytes(100), Codec.PLAIN, Kind.CHUNK) for n in range(3)]
    firsts = builder.reserve(pieces)
    assert firsts is not None
    with pytest.raises(ValueError):
        builder.fill(firsts, [pieces[0], pieces[1]._replace(data=bytes(99)), pieces[2]])
    assert len(builder.seal()) > 300


@pytest.mark.parametrize("plain_bytes", [BLOB_LIMIT_BYTES + 1, 1 << 40])
def test_a_frame_that_states_more_than_the_limit_is_refused_unopened(plain_bytes: int) -> None:
    bomb = bytearray(zstandard.ZstdCompressor().compress(bytes(BLOB_LIMIT_BYTES + 1)))
    # Frame header: magic 4, descriptor 1, then the content size, here made one of eight bytes.
    forged = bomb[:4] + b"\xe0" + struct.pack("<Q", plain_bytes) + bomb[9:]
    pack, entry = packed(bytes(forged), [bytes(32)] * 2)
    with pytest.raises(PackError, match="at most"):
        opened(pack, entry)


def test_a_frame_that_unpacks_to_more_than_it_states_is_refused() -> None:
    honest = bytearray(zstandard.ZstdCompressor().compress(bytes(BLOB_LIMIT_BYTES)))
    forged = honest[:4] + b"\xe0" + struct.pack("<Q", 5000) + honest[9:]
    pack, entry = packed(bytes(forged), [bytes(32)] * 2)
    with pytest.raises(PackError):
        opened(pack, entry)


def test_a_place_beyond_the_frame_is_refused() -> None:
    pack, entry = packed(zstandard.ZstdCompressor().compress(text(1)), [bytes(32)] * 2)
    beyond = whole_footer(KEYS, pack)[1]
    assert (beyond.offset, beyond.place) == (entry.offset, 1)
    with pytest.raises(PackError, match="no place 1"):
        opened(pack, beyond)


def test_a_frame_is_no_blob_and_a_blob_no_frame() -> None:
    data = zstandard.ZstdCompressor().compress(text(1))
    for codec, other in [(Codec.FRAME, Codec.ZSTD), (Codec.ZSTD, Codec.FRAME)]:
        pack, entry = packed(data, [b"\1" * 32], codec)
        forged = Entry(entry.id, entry.offset, entry.length, other, entry.kind)
        with pytest.raises(PackError, match="not authentic"):
            opened(pack, forged)
