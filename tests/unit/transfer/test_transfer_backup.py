"""The pipeline against a vault in memory."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer_memory import (
    CHUNK,
    FakeClock,
    MemorySource,
    MemoryVault,
    session_disk,
    snapshot_of,
)

from quiesce.block.file import FileSource
from quiesce.block.image import open_target
from quiesce.block.past_cache import Output
from quiesce.model.extent import Extent, ExtentKind
from quiesce.model.failure import (
    JobFailure,
    RestoreFailure,
    StorageFailure,
    VaultFailure,
    VmFailure,
)
from quiesce.transfer.backup import back_up
from quiesce.transfer.crew import MAX_THREADS, SEGMENT_BYTES
from quiesce.transfer.digest import digest
from quiesce.transfer.restore import data_bytes, restore_disk
from quiesce.transfer.throttle import BURST_SECONDS, Throttle

DATA, ZERO, CLEAN = ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.CLEAN
GRAIN = 32 * 1024


def whole(content: bytes) -> MemorySource:
    return MemorySource(content, [Extent(0, len(content), DATA)] if content else [])


def one_disk(vault, source, job="job", **disk):
    snapshot = snapshot_of(session_disk("vda", source.size_bytes, **disk))
    return back_up(snapshot, vault.writer(job), lambda _: source)


def test_a_full_backup_holds_the_disk_bit_for_bit():
    vault, source = MemoryVault(), whole(random.Random(1).randbytes(9 * SEGMENT_BYTES + 777))
    point = one_disk(vault, source, generation="g1")
    assert vault.generations["vda", "g1"] == source.content
    assert point.read_bytes == point.size_bytes == len(source.content)
    assert point.consistency.reason == "no scripts"
    assert source.closed


def test_a_disk_of_no_bytes_is_a_point_all_the_same():
    vault = MemoryVault()
    point = one_disk(vault, whole(b""), generation="g1")
    assert (point.size_bytes, point.read_bytes) == (0, 0)


def test_zero_ranges_never_travel():
    size = 1 << 26
    source = MemorySource(bytes(size), [Extent(0, size, ZERO)])
    point = one_disk(MemoryVault(), source)
    assert point.read_bytes == source.read_bytes == 0


def test_an_increment_reads_only_the_chunks_that_changed():
    vault, first = MemoryVault(), random.Random(2).randbytes(40 * CHUNK)
    one_disk(vault, whole(first), "job1", generation="g1")
    changed = bytearray(first)
    changed[5 * CHUNK + 9] ^= 1
    changed[20 * CHUNK : 22 * CHUNK] = bytes(2 * CHUNK)
    told = [
        Extent(0, 5 * CHUNK, CLEAN),
        Extent(5 * CHUNK, GRAIN, DATA),
        Extent(5 * CHUNK + GRAIN, 15 * CHUNK - GRAIN, CLEAN),
        Extent(20 * CHUNK, 2 * CHUNK, ZERO),
        Extent(22 * CHUNK, 18 * CHUNK, CLEAN),
    ]
    source = MemorySource(bytes(changed), told)
    disk = {"dirty_bitmap": "b", "base_generation": "g1", "generation": "g2"}
    point = one_disk(vault, source, "job2", **disk)
    assert point.disks[0].incremental
    assert point.read_bytes == CHUNK
    assert vault.generations["vda", "g2"] == bytes(changed)


def test_a_base_that_the_vault_lost_makes_a_full_read_that_says_so():
    vault, content = MemoryVault(), random.Random(3).randbytes(3 * CHUNK)
    opened = []

    def open_source(disk):
        opened.append(disk.dirty_bitmap)
        kind = CLEAN if disk.dirty_bitmap else DATA
        return MemorySource(content, [Extent(0, len(content), kind)])

    disk = session_disk(
        "vda", len(content), dirty_bitmap="b", base_generation="lost", generation="g2"
    )
    point = back_up(snapshot_of(disk), vault.writer("job"), open_source)
    assert opened == ["b", None]
    assert not point.disks[0].incremental
    assert "lost the point" in point.disks[0].full_read_reason
    assert vault.generations["vda", "g2"] == content


def test_several_disks_become_one_point():
    vault = MemoryVault()
    contents = {name: random.Random(name).randbytes(CHUNK * 3 + 5) for name in ("vda", "vdb", "c")}
    disks = [session_disk(n, len(c), generation="g") for n, c in contents.items()]
    point = back_up(
        snapshot_of(*disks), vault.writer("job"), lambda disk: whole(contents[disk.name])
    )
    assert [disk.name for disk in point.disks] == ["vda", "vdb", "c"]
    assert {name: vault.generations[name, "g"] for name in contents} == contents


def test_a_committed_job_is_not_read_again():
    vault, source = MemoryVault(), whole(b"x" * CHUNK)
    first = one_disk(vault, source)

    def never(_):
        raise AssertionError("the disk was opened again")

    snapshot = snapshot_of(session_disk("vda", CHUNK))
    assert back_up(snapshot, vault.writer("job"), never) == first


def test_progress_ends_at_its_total_and_never_runs_ahead():
    source = whole(random.Random(4).randbytes(8 * SEGMENT_BYTES))
    source.on_read = lambda _: time.sleep(0.1)
    seen = []
    snapshot = snapshot_of(session_disk("vda", source.size_bytes))
    back_up(
        snapshot,
        MemoryVault().writer("j"),
        lambda _: source,
        on_progress=seen.append,
        workers=1,
    )
    assert len(seen) >= 2, "nothing was told while it ran"
    assert all(p.done_bytes <= p.total_bytes == source.size_bytes for p in seen)
    assert [p.done_bytes for p in seen] == sorted(p.done_bytes for p in seen)
    assert seen[-1].done_bytes == seen[-1].stored_bytes == source.size_bytes
    assert seen[-1].rate > 0


class Abortable(MemorySource):
    """Reads hang until the connection is closed, as those of a stuck disk do."""

    def __init__(self, size_bytes):
        super().__init__(bytes(size_bytes), [Extent(0, size_bytes, DATA)])
        self.gone = threading.Event()
        self.reading = threading.Event()

    def read_into(self, offset_bytes, buffer):
        self.reading.set()
        assert self.gone.wait(30), "nobody closed the source"
        raise VmFailure("vm.gone", "closed")

    def close(self):
        self.gone.set()


def test_cancelling_wakes_reads_that_hang_and_leaves_no_point():
    vault = MemoryVault()
    source = Abortable(CHUNK * 100)
    writer = vault.writer("job")
    asked: list[float] = []

    def cancelled():
        if source.reading.is_set():
            asked.append(time.monotonic())
        return bool(asked)

    with pytest.raises(JobFailure) as caught:
        back_up(
            snapshot_of(session_disk("vda", CHUNK * 100)),
            writer,
            lambda _: source,
            cancelled=cancelled,
        )
    assert caught.value.code == "job.cancelled"
    assert time.monotonic() - asked[0] < 20
    assert writer.abandoned
    assert not vault.points
    assert not [t for t in threading.enumerate() if t.name.startswith("crew")]


def test_the_first_error_of_a_read_stops_everything_and_is_told_whole():
    vault, source = MemoryVault(), whole(bytes(range(256)) * 4096 * 64)

    def fail(offset):
        if offset == 3 * SEGMENT_BYTES:
            raise StorageFailure("storage.scratch-full", "broke") from OSError("inner words")

    source.on_read = fail
    writer = vault.writer("job")
    with pytest.raises(StorageFailure) as caught:
        back_up(snapshot_of(session_disk("vda", source.size_bytes)), writer, lambda _: source)
    assert caught.value.code == "storage.scratch-full"
    assert "inner words" in caught.value.report().evidence[-1].raw
    assert writer.abandoned
    assert source.closed
    assert not vault.points


def test_an_error_of_the_vault_stops_everything():
    vault, source = MemoryVault(), whole(random.Random(5).randbytes(16 * SEGMENT_BYTES))

    def full(index):
        if index > 40:
            raise StorageFailure("storage.full", "no space")

    vault.on_put = full
    with pytest.raises(StorageFailure, match="no space"):
        one_disk(vault, source)
    assert not vault.points


def test_an_interrupt_during_the_transfer_leaves_no_thread_and_no_point():
    vault, source = MemoryVault(), whole(bytes(64 * SEGMENT_BYTES))
    source.on_read = lambda _: time.sleep(0.05)

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(
            snapshot_of(session_disk("vda", source.size_bytes)),
            vault.writer("job"),
            lambda _: source,
            on_progress=interrupt,
        )
    assert not vault.points
    assert not [t for t in threading.enumerate() if t.name.startswith("crew")]


def test_a_limited_backup_takes_as_long_as_its_bytes_are_worth():
    source, clock = whole(random.Random(7).randbytes(5 * SEGMENT_BYTES + 3)), FakeClock()
    back_up(
        snapshot_of(session_disk("vda", source.size_bytes)),
        MemoryVault().writer("job"),
        lambda _: source,
        throttle=Throttle(SEGMENT_BYTES, clock=clock, wait=clock.advance),
        workers=1,
    )
    # The first read goes through at once and is paid for by the second one's waiting.
    assert 4 - BURST_SECONDS <= clock() <= 5


def test_a_limited_backup_that_is_cancelled_waits_for_no_allowance():
    source, throttle = whole(bytes(8 * SEGMENT_BYTES)), Throttle(1)
    asked = []

    def cancelled():
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(JobFailure) as caught:
        back_up(
            snapshot_of(session_disk("vda", source.size_bytes)),
            MemoryVault().writer("job"),
            lambda _: source,
            throttle=throttle,
            cancelled=cancelled,
        )
    assert caught.value.code == "job.cancelled"


def test_never_more_threads_than_the_stated_memory_allows():
    held = set()
    source = whole(bytes(64) * (SEGMENT_BYTES // 64) * 40)
    source.on_read = lambda _: held.add(threading.get_ident())
    back_up(
        snapshot_of(session_disk("vda", source.size_bytes)),
        MemoryVault().writer("job"),
        lambda _: source,
        workers=1000,
    )
    assert len(held) <= MAX_THREADS
    assert MAX_THREADS * SEGMENT_BYTES <= 32 * 1024 * 1024


grains = st.lists(st.tuples(st.integers(1, 9), st.sampled_from(ExtentKind)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(grains=grains, tail=st.integers(0, GRAIN - 1), seed=st.integers(0, 2**32))
def test_any_map_and_content_comes_back_exactly(tmp_path_factory, grains, tail, seed):
    """Full, then an increment by a random map over a changed disk, then a restore to a file."""
    folder = tmp_path_factory.mktemp("any")
    dice = random.Random(seed)
    size = sum(count for count, _ in grains) * GRAIN + (tail if grains else 0)
    first = dice.randbytes(size)
    vault = MemoryVault()
    one_disk(vault, whole(first), "job1", generation="g1")
    told, second, position = [], bytearray(first), 0
    for number, (count, kind) in enumerate(grains):
        length = count * GRAIN + (tail if number == len(grains) - 1 else 0)
        told.append(Extent(position, length, kind))
        if kind is DATA:
            second[position : position + length] = dice.randbytes(length)
        elif kind is ZERO:
            second[position : position + length] = bytes(length)
        position += length
    source = MemorySource(bytes(second), told)
    writer = vault.writer("job2")
    disk = session_disk("vda", size, dirty_bitmap="b", base_generation="g1", generation="g2")
    back_up(snapshot_of(disk), writer, lambda _: source)
    path = Path(folder) / "restored.raw"
    reader = writer.disks["vda"]
    done = restore_disk(reader, open_target(path, size, "raw", overwrite=False))
    assert path.read_bytes() == bytes(second)
    assert done.written_bytes == data_bytes(reader) <= size == done.size_bytes
    assert digest(FileSource(path)) == digest(source) == digest(reader)


def test_a_restore_that_the_vault_cannot_serve_leaves_no_image(tmp_path):
    content = random.Random(8).randbytes(20 * CHUNK)
    vault = MemoryVault()
    writer = vault.writer("job")
    back_up(snapshot_of(session_disk("vda", len(content))), writer, lambda _: whole(content))
    reader = writer.disks["vda"]

    class Damaged:
        size_bytes = reader.size_bytes
        extents = staticmethod(reader.extents)

        @staticmethod
        def read_into(offset_bytes, buffer):
            if offset_bytes > CHUNK * 10:
                raise VaultFailure("vault.corrupt-chunk", "pack 7 is damaged")
            reader.read_into(offset_bytes, buffer)

    target = open_target(tmp_path / "disk.raw", len(content), "raw", overwrite=False)
    with pytest.raises(VaultFailure, match="pack 7"):
        restore_disk(Damaged, target)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_restore_says_why_when_cleaning_up_fails_too(tmp_path, monkeypatch):
    """An error of the disk, and then ext4 turns the file system read-only."""
    content = random.Random(8).randbytes(20 * CHUNK)
    writer = MemoryVault().writer("job")
    back_up(snapshot_of(session_disk("vda", len(content))), writer, lambda _: whole(content))
    target = open_target(tmp_path / "disk.raw", len(content), "raw", overwrite=False)

    def write(output, offset, data):
        raise OSError(errno.EIO, "Input/output error")

    def unlink(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Output, "write", write)
    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(RestoreFailure) as caught:
        restore_disk(writer.disks["vda"], target)
    assert caught.value.code == "restore.write-failed"
    first, last = caught.value.evidence
    assert "Input/output error" in first.raw
    assert "stays behind" in last.fact
    assert [last.source] == [str(path) for path in tmp_path.iterdir()]


def test_a_cancelled_restore_leaves_no_image(tmp_path):
    content = random.Random(9).randbytes(20 * CHUNK)
    writer = MemoryVault().writer("job")
    back_up(snapshot_of(session_disk("vda", len(content))), writer, lambda _: whole(content))
    target = open_target(tmp_path / "disk.raw", len(content), "raw", overwrite=False)
    with pytest.raises(JobFailure, match="cancelled"):
        restore_disk(writer.disks["vda"], target, cancelled=lambda: True)
    assert list(tmp_path.iterdir()) == []


def test_a_restore_reserves_what_it_will_write_and_nothing_else():
    """So that threads write side by side, and the image lies in one piece and stays sparse."""
    content = random.Random(9).randbytes(70 * CHUNK) + bytes(90 * CHUNK)
    content += random.Random(10).randbytes(3 * CHUNK - 77)
    writer = MemoryVault().writer("job")
    back_up(snapshot_of(session_disk("vda", len(content))), writer, lambda _: whole(content))
    reserved, unreserved = set(), []

    class Target:
        size_bytes = len(content)

        def reserve(self, offset_bytes, length_bytes):
            reserved.update(range(offset_bytes, offset_bytes + length_bytes, CHUNK))

        def write(self, offset_bytes, data):
            wanted = set(range(offset_bytes, offset_bytes + len(data), CHUNK))
            unreserved.extend(wanted - reserved)

        def finish(self): ...

        def abandon(self):
            return ()

    restore_disk(writer.disks["vda"], Target())
    assert not unreserved
    assert reserved == {n * CHUNK for n in [*range(70), *range(160, 163)]}
