"""Change tracking that lies is found out, within the bounds of what is looked at."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer_memory import CHUNK, MemorySource, MemoryVault, session_disk, snapshot_of

from quiesce.model.extent import Extent, ExtentKind
from quiesce.model.failure import JobFailure, SnapshotFailure
from quiesce.transfer.audit import LEAST, MOST, SHARE, Sample
from quiesce.transfer.backup import back_up
from quiesce.transfer.throttle import Throttle

DATA, ZERO, CLEAN = ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.CLEAN
CHUNKS = 40


def first_point(vault: MemoryVault, content: bytes) -> None:
    source = MemorySource(content, [Extent(0, len(content), DATA)])
    disk = session_disk("vda", len(content), generation="g1")
    back_up(snapshot_of(disk), vault.writer("job1"), lambda _: source)


class Told:
    """A disk of which the tracking says what one likes; whole, it is all data."""

    def __init__(self, content: bytes, told: list[Extent] | None = None) -> None:
        self.content = content
        self.told = told or [Extent(0, len(content), CLEAN)]
        self.opened: list[MemorySource] = []

    def __call__(self, disk):
        whole = [Extent(0, len(self.content), DATA)]
        source = MemorySource(self.content, self.told if disk.dirty_bitmap else whole)
        self.opened.append(source)
        return source

    def increment(self, vault: MemoryVault, job: str = "job2", **more):
        disk = session_disk(
            "vda", len(self.content), dirty_bitmap="b", base_generation="g1", generation="g2"
        )
        return back_up(snapshot_of(disk), vault.writer(job), self, **more)


def noise(chunks: int = CHUNKS) -> bytes:
    return random.Random(1).randbytes(chunks * CHUNK)


def test_tracking_that_is_right_is_believed_and_costs_a_bounded_look():
    vault, content = MemoryVault(), noise()
    first_point(vault, content)
    disk = Told(content)
    point = disk.increment(vault, on_mismatch=pytest.fail)
    assert point.disks[0].incremental
    assert point.disks[0].full_read_reason == ""
    assert point.read_bytes == 0
    assert disk.opened[0].read_bytes == LEAST * CHUNK


def test_a_disk_that_changed_behind_its_tracking_is_read_whole_and_says_so():
    vault, content = MemoryVault(), noise()[:-5]  # the last chunk is short
    first_point(vault, content)
    lied = random.Random(2).randbytes(len(content))
    failures: list[SnapshotFailure] = []
    point = Told(lied).increment(vault, on_mismatch=failures.append)
    assert vault.generations["vda", "g2"] == lied
    assert not point.disks[0].incremental
    assert point.disks[0].full_read_reason.startswith("bitmap.audit-mismatch: Disk vda")
    assert point.read_bytes == len(lied)
    (failure,) = failures
    assert failure.code == "bitmap.audit-mismatch"
    assert f"{LEAST} of {LEAST} places" in failure.message
    assert len(failure.evidence) == 8
    for place in failure.evidence:
        start = int(place.fact.split()[1].split("–")[0])
        assert start % CHUNK == 0
        assert place.fact == f"bytes {start}–{min(start + CHUNK, len(lied))} differ"
        assert place.source == "disk vda, bitmap b, generation g1"


def test_zeros_that_the_base_does_not_know_of_overwrite_what_it_holds():
    """After a mismatch nothing of the base may shine through, holes least of all."""
    vault, content = MemoryVault(), noise()
    first_point(vault, content)
    emptied = bytes(len(content))

    def open_source(session):
        kind = CLEAN if session.dirty_bitmap else ZERO
        return MemorySource(emptied, [Extent(0, len(emptied), kind)])

    session = session_disk(
        "vda", len(content), dirty_bitmap="b", base_generation="g1", generation="g2"
    )
    point = back_up(snapshot_of(session), vault.writer("job2"), open_source)
    assert vault.generations["vda", "g2"] == emptied
    assert point.read_bytes == 0


def test_one_wrong_chunk_among_those_looked_at_is_enough():
    vault, content = MemoryVault(), noise()
    first_point(vault, content)
    sample = Sample("task vda")
    sample.add(0, CHUNKS)
    lied = bytearray(content)
    lied[sample.chosen()[7] * CHUNK + 99] ^= 1
    failures = []
    point = Told(bytes(lied)).increment(vault, on_mismatch=failures.append)
    assert vault.generations["vda", "g2"] == lied
    assert "in 1 of 32 places" in point.disks[0].full_read_reason


def test_a_job_that_is_run_again_looks_at_the_same_places():
    vault, content = MemoryVault(), noise()
    first_point(vault, content)
    looked_at = []
    for _ in range(2):
        disk, seen = Told(content), []

        def open_source(session, disk=disk, seen=seen):
            source = disk(session)
            source.on_read = seen.append
            return source

        session = session_disk("vda", len(content), dirty_bitmap="b", base_generation="g1")
        with pytest.raises(JobFailure):
            back_up(
                snapshot_of(session),
                vault.writer("job2"),
                open_source,
                cancelled=lambda seen=seen: len(seen) >= LEAST,
            )
        looked_at.append(sorted(seen))
    assert looked_at[0] == looked_at[1]


def test_a_policy_can_go_without():
    vault, content = MemoryVault(), noise()
    first_point(vault, content)
    disk = Told(bytes(len(content)))
    point = disk.increment(vault, audit=False)
    assert point.disks[0].incremental
    assert disk.opened[0].read_bytes == 0


def test_whoever_forbids_full_reads_gets_no_point():
    vault, content = MemoryVault(), noise()
    first_point(vault, content)

    def forbid(failure):
        raise failure

    with pytest.raises(SnapshotFailure) as caught:
        Told(bytes(len(content))).increment(vault, on_mismatch=forbid)
    assert caught.value.code == "bitmap.audit-mismatch"
    assert set(vault.points) == {"job1"}


@pytest.mark.parametrize("audit", [True, False])
def test_a_base_that_turns_out_to_be_damaged_on_the_way_makes_a_full_read_that_says_so(audit):
    vault, content = MemoryVault(), noise()
    first_point(vault, content)
    vault.bad_chunks = frozenset(range(CHUNKS))
    new = bytes(CHUNK) + content[CHUNK : 39 * CHUNK] + random.Random(2).randbytes(CHUNK)
    told = [
        Extent(0, CHUNK, ZERO),
        Extent(CHUNK, 38 * CHUNK, CLEAN),
        Extent(39 * CHUNK, CHUNK, DATA),
    ]
    throttle = Throttle()
    disk = Told(new, told)
    point = disk.increment(vault, audit=audit, throttle=throttle, on_mismatch=pytest.fail)
    assert vault.generations["vda", "g2"] == new
    assert not point.disks[0].incremental
    assert "its map is damaged" in point.disks[0].full_read_reason
    assert all(source.closed for source in disk.opened)
    assert not throttle.stopped


runs = st.lists(st.tuples(st.integers(1, 60_000), st.integers(0, 50)), min_size=1, max_size=30)


@settings(deadline=None)
@given(runs=runs, seed=st.text(max_size=8))
def test_a_sample_is_of_what_was_told_bounded_and_the_same_again(runs, seed):
    samples, told, position = (Sample(seed), Sample(seed)), [], 0
    for count, gap in runs:
        position += gap
        told.append(range(position, position + count))
        for sample in samples:
            sample.add(position, count)
        position += count
    chosen = samples[0].chosen()
    assert chosen == samples[1].chosen()
    assert chosen == sorted(set(chosen))
    assert all(any(chunk in run for run in told) for chunk in chosen)
    total = sum(len(run) for run in told)
    assert len(chosen) == min(total, max(LEAST, min(MOST, total // SHARE)))


def test_every_part_of_a_disk_is_looked_at_alike():
    """Of many samples, each tenth of the disk gets a tenth."""
    tenths = [0] * 10
    for number in range(200):
        sample = Sample(str(number))
        for part in range(10):
            sample.add(part * 40_000, 40_000)
        for chunk in sample.chosen():
            tenths[chunk // 40_000] += 1
    assert sum(tenths) == 200 * MOST
    assert all(0.92 * 20 * MOST < tenth < 1.08 * 20 * MOST for tenth in tenths)
