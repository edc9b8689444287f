"""Retention locks in a bucket with Object Lock, as a server of S3 has it (moto)."""

from __future__ import annotations

import urllib.error
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cloud_scene import Clouds, Place, place_in
from cloud_servers import Reply, Rule
from locked_bucket import LockedBucket, locked_place
from vault_scene import FakeClock, Scene, disk_of

from quiesce.model.failure import Failure
from quiesce.vault.places import create_store, open_store
from quiesce.vault.stores.locking import LockingStore, can_lock
from quiesce.vault.stores.locks import Mode, Terms

MONTH = Terms(Mode.GOVERNANCE, 30)
DENIED = (
    "<Error><Code>AccessDenied</Code><Message>User: arn:aws:iam::1:user/host is not authorized to "
    "perform: s3:PutObjectRetention on resource: this object</Message></Error>"
)


@pytest.fixture
def place(clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return locked_place(clouds, tmp_path, monkeypatch)


def scene_at(place: Place, clock: FakeClock) -> Scene:
    store = create_store(place.address, cache_folder=place.cache, clock=clock)
    can_lock(store).ask_for(MONTH)
    return Scene.create(store, clock)


def until(locks: LockingStore, folder: str) -> list[datetime]:
    found = []
    for info in locks.origin.list(folder):
        lock, _ = locks.origin.locked(info.key)
        assert lock is not None, info.key
        found.append(lock.until)
    return found


def requests(place: Place) -> list[str]:
    assert place.cloud is not None
    said = [f"{seen.method} {seen.path}" for seen in place.cloud.way.seen]
    place.cloud.way.seen.clear()
    return said


def test_a_point_is_locked_and_an_increment_weeks_later_locks_it_for_longer(
    place: Place, clock: FakeClock
) -> None:
    assert place.cloud is not None
    bucket = LockedBucket(place)
    scene = scene_at(place, clock)
    locks = can_lock(scene.store)
    scene.backup("one", disk_of(1, 2))
    for folder in ("packs/", "index/", "points/", "keys/", "locks/"):
        ends = until(locks, folder)
        assert ends
        assert min(ends) >= clock() + timedelta(days=30)
        assert max(ends) <= clock() + timedelta(days=37)
    for key, version in bucket.versions("Version", "packs/"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            bucket.ask("DELETE", f"/{key}?versionId={version}")
        assert refused.value.code == 403

    requests(place)
    clock.advance(days=1)
    place.cloud.way.ahead = timedelta(days=1)
    scene.backup("two", disk_of(1, 3), base="one", changed={"sda": {1}})
    asked = requests(place)
    assert not [each for each in asked if "?retention" in each]

    clock.advance(days=27)
    place.cloud.way.ahead = timedelta(days=28)
    again = Scene.at(open_store(place.address, cache_folder=place.cache, clock=clock), clock)
    requests(place)
    point = again.backup("three", disk_of(1, 4), base="two", changed={"sda": {1}})
    extended = [each for each in requests(place) if "?retention" in each]
    assert len([each for each in extended if "/packs/" in each]) == 1
    assert again.restore(point) == disk_of(1, 4)
    (first,) = (
        each.partition("?")[0].partition("vaults/one/")[2] for each in extended if "packs" in each
    )
    lock, _ = locks.origin.locked(first)
    assert lock is not None
    assert lock.until >= clock() + timedelta(days=30)


def test_a_bucket_without_object_lock_is_refused_and_left_as_it_was(
    clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    place = place_in(clouds.get("s3"), tmp_path, monkeypatch)
    store = place.create()
    Scene.create(store, clock)
    with pytest.raises(Failure) as refused:
        can_lock(store).ask_for(MONTH)
    assert refused.value.code == "storage.locks-unsupported"
    assert list(store.list("locks/")) == []


def test_credentials_that_may_store_and_not_lock_are_told_so(
    place: Place, clock: FakeClock
) -> None:
    assert place.cloud is not None
    scene = scene_at(place, clock)
    place.cloud.way.rules.append(Rule("PUT", "/packs/", Reply(403, DENIED), times=9))
    with pytest.raises(Failure) as refused:
        scene.backup("one", disk_of(1))
    assert refused.value.code == "storage.lock-denied"
    assert list(scene.store.list("points/")) == []


def test_a_store_whose_time_is_another_is_refused(place: Place, clock: FakeClock) -> None:
    assert place.cloud is not None
    scene = scene_at(place, clock)
    place.cloud.way.ahead = timedelta(hours=3)
    with pytest.raises(Failure) as refused:
        scene.backup("one", disk_of(1))
    assert refused.value.code == "storage.clock-apart"
    assert "3 h behind" in refused.value.evidence[0].fact
    assert list(scene.store.list("points/")) == []


def test_a_bucket_that_locks_by_default_for_longer_is_left_as_it_is(
    clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    place = locked_place(clouds, tmp_path, monkeypatch, by_default=True)
    scene = Scene.create(place.create(), clock)
    scene.backup("one", disk_of(1, 2))
    can_lock(scene.store).ask_for(Terms(Mode.GOVERNANCE, 7))
    requests(place)
    scene.backup("two", disk_of(1, 2), vm="twin")
    asked = requests(place)
    assert not [each for each in asked if "?retention" in each]
    assert [each for each in asked if each.startswith("HEAD") and "/packs/" in each]
