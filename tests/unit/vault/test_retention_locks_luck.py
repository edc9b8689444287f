"""Retention locks where something goes wrong on the way: no point without its locks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from unittest import mock

import pytest
from faulty_store import turned
from paper_bucket import MONTH, PaperBucket, host_of, read_after_attack
from paper_store import PaperStore
from small_vault import small_disk, small_packs, small_scene
from vault_scene import FakeClock, Scene, disk_of

from quiesce.model.failure import Failure, StorageFailure
from quiesce.service.collecting import told
from quiesce.service.vault_views import collect_view
from quiesce.vault.copy.copying import CopyReport, execute_copy, plan_copy
from quiesce.vault.copy.locked import TargetLocks
from quiesce.vault.format.pack import pack_key
from quiesce.vault.points.reader import DiskMap
from quiesce.vault.points.writer import VaultPointWriter
from quiesce.vault.stores.locking import LockingStore
from quiesce.vault.stores.locks import Mode, Terms
from quiesce.vault.stores.store import ObjectMissing, Store


def copy(source: Scene, target: Store, clock: FakeClock, *vms: str) -> CopyReport:
    keys = source.vault.contents.keys
    plan = plan_copy(source.store, target, keys=keys, vms=vms, clock=clock)
    return execute_copy(plan, clock=clock)


def failing_once(store: PaperStore, failure: Failure) -> Callable[..., object]:
    """Of the locks of a copy: the first manifest that they look at is not read."""
    hold, get = TargetLocks.hold, store.get

    def fail(key: str, *, limit_bytes: int) -> bytes:
        if key.startswith("points/"):
            store.get = get  # type: ignore[method-assign]
            raise failure
        return get(key, limit_bytes=limit_bytes)

    def held(*args: object) -> object:
        store.get = fail  # type: ignore[method-assign]
        return hold(*args)  # type: ignore[arg-type]

    return held


@pytest.mark.parametrize(
    "failure",
    [
        StorageFailure("storage.io-error", "once", retryable=True),
        ObjectMissing("storage.object-missing", "not listed yet"),
    ],
)
def test_a_copy_commits_no_point_whose_manifest_was_not_read_for_its_locks(
    bucket: PaperBucket, host: LockingStore, clock: FakeClock, failure: Failure
) -> None:
    store = PaperStore(clock)
    source = Scene.create(store, clock)
    source.backup("one", disk_of(1, 2))
    copy(source, host, clock)
    host.ask_for(MONTH)
    clock.advance(days=3)
    point = source.backup("two", disk_of(1, 3), base="one", changed={"sda": {1}})
    with mock.patch.object(TargetLocks, "hold", failing_once(store, failure)):
        report = copy(source, host, clock)
    assert report.points == ()
    assert [unfit.point_id for unfit in report.unfit] == (
        [] if isinstance(failure, ObjectMissing) else [point.id]
    )
    assert copy(source, host, clock).points == (point.id,)
    assert read_after_attack(bucket, clock() + MONTH.time, point.id) == disk_of(1, 3)


def test_a_pack_that_a_locked_copy_has_lost_for_good_costs_only_its_points(
    bucket: PaperBucket, host: LockingStore, clock: FakeClock
) -> None:
    store = PaperStore(clock)
    with small_packs():
        source = small_scene(store, clock)
        source.backup("one", small_disk(1, 3, 5), vm="a")
        clock.advance(minutes=1)
        other = source.backup("two", small_disk(11, 13, 15), vm="b")
        copy(source, host, clock, "a")
        host.ask_for(MONTH)
        source.backup("three", small_disk(1, 3, 7), vm="a")
        pack, offset = source.place_of("a", 0)
        del bucket.objects[pack]
        data, at = store.objects[pack]
        store.objects[pack] = turned(data, offset), at
        report = copy(source, host, clock)
    assert report.points == (other.id,)
    assert {unfit.code for unfit in report.unfit} == {"vault.corrupt-chunk"}
    assert read_after_attack(bucket, clock() + MONTH.time, other.id) == small_disk(11, 13, 15)


def test_a_backup_that_needs_a_pack_that_has_just_gone_says_so(
    bucket: PaperBucket, host: LockingStore, clock: FakeClock
) -> None:
    scene = Scene.create(host, clock)
    scene.backup("one", disk_of(1))
    host.ask_for(MONTH)
    (pack,) = bucket.keys("packs/")
    writer = scene.vault.writer("twin", "two")
    disk = disk_of(1, 2)
    writer.disk("sda", len(disk)).put(0, memoryview(disk))
    bucket.delete(pack)
    with pytest.raises(Failure) as refused:
        scene.commit(writer, len(disk))
    assert refused.value.code == "vault.pack-missing"
    assert pack in str(refused.value.evidence)
    assert len(bucket.keys("points/")) == 1


def test_an_increment_locks_the_other_copy_of_a_chunk_whose_first_copy_is_found_damaged(
    bucket: PaperBucket, host: LockingStore, clock: FakeClock
) -> None:
    disk = [1, 3, 5, *[0] * 300, 21]
    with small_packs():
        first = small_scene(host, clock)
        host.ask_for(MONTH)
        # It begins before there is anything to refer to, so that it stores the same once more.
        other = Scene.at(host_of(bucket, clock), clock)
        twin = other.vault.writer("twin", "twin")
        first.backup("one", small_disk(*disk))
        size = len(small_disk(*disk))
        written = twin.disk("sda", size)
        written.put(0, memoryview(small_disk(*disk))[: 3 * written.chunk_bytes])
        other.commit(twin, size)
        clock.advance(days=10)
        first = first.reopened()
        disk[-1] = 7
        two = first.backup("two", small_disk(*disk), base="one", changed={"sda": {303}})
        (part,) = first.vault.manifest(two.id).maps
        index = first.vault.contents.index.snapshot()
        row = int(index.rows(DiskMap(first.vault.contents, part).chunk(1))[0])
        pack = pack_key(index.names[int(index.pack_of[row])])
        data, at = bucket.objects[pack]
        bucket.objects[pack] = turned(data, int(index.offset_of[row])), at
        assert not first.vault.verify("chunks").hurt
        clock.advance(days=1)
        disk[-1] = 9
        point = first.reopened().backup(
            "three", small_disk(*disk), base="two", changed={"sda": {303}}
        )
    assert read_after_attack(bucket, clock() + MONTH.time, point.id) == small_disk(*disk)


@pytest.mark.parametrize("before", [None, Terms(Mode.COMPLIANCE, 2)])
def test_a_point_is_locked_by_what_was_asked_for_elsewhere_just_before_it_was_put(
    bucket: PaperBucket, host: LockingStore, clock: FakeClock, before: Terms | None
) -> None:
    scene = Scene.create(host, clock)
    if before is not None:
        host.ask_for(before)
    check = VaultPointWriter._check_session

    def ask_and_check(writer: VaultPointWriter) -> object:
        if bucket.keys("index/"):
            host_of(bucket, clock).ask_for(MONTH)
        return check(writer)

    with mock.patch.object(VaultPointWriter, "_check_session", ask_and_check):
        point = scene.backup("one", disk_of(1))
    assert read_after_attack(bucket, clock() + MONTH.time, point.id) == disk_of(1)


def test_who_asks_again_for_what_is_asked_for_proves_the_right_to_lock(
    bucket: PaperBucket, host: LockingStore, clock: FakeClock
) -> None:
    Scene.create(host, clock)
    host.ask_for(MONTH)
    until = bucket.locks[MONTH.key].until
    host_of(bucket, clock).ask_for(MONTH)
    assert bucket.locks[MONTH.key].until > until
    bucket.may_lock = False
    with pytest.raises(Failure) as refused:
        host_of(bucket, clock).ask_for(MONTH)
    assert refused.value.code == "storage.lock-denied"


@pytest.fixture
def blind(bucket: PaperBucket) -> Iterator[None]:
    """Locks that these credentials may not look at."""
    denied = StorageFailure("storage.denied", "These credentials may not look.")
    with mock.patch.object(bucket, "locked", side_effect=denied):
        yield


def test_a_collection_that_may_not_look_at_locks_goes_on_and_says_so(
    bucket: PaperBucket, host: LockingStore, clock: FakeClock, request: pytest.FixtureRequest
) -> None:
    scene = Scene.create(host, clock)
    gone = scene.backup("gone", disk_of(7))
    scene.delete(gone)
    clock.advance(hours=30)
    scene.vault.collect(scene.vault.plan_collect())
    clock.advance(hours=30)
    host.ask_for(MONTH)
    request.getfixturevalue("blind")
    done = scene.vault.collect(scene.vault.plan_collect())
    assert len(done.delete) == 1
    assert bucket.keys("packs/") == []
    assert done.hidden_until is None
    assert "could not be found out: These credentials may not look." in " ".join(
        told(collect_view(done))
    )
