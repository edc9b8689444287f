"""A bucket with a retention lock, as S3 has it: whoever deletes hides, and destroys nothing."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import pytest
from blake3 import blake3
from cloud_scene import Clouds, Place
from dated_store import DatedStore
from locked_bucket import LockedBucket, locked_place
from vault_scene import FakeClock, Scene, disk_of


@pytest.fixture
def place(clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return locked_place(clouds, tmp_path, monkeypatch, by_default=True)


def test_a_locked_bucket_is_backed_up_to_and_cleared_and_keeps_every_byte(
    place: Place, clock: FakeClock
) -> None:
    bucket = LockedBucket(place)
    scene = Scene.create(DatedStore(place.create(), clock), clock)
    kept = scene.backup("kept", disk_of(1, 2))
    gone = scene.backup("gone", disk_of(7, 8))
    stored = set(bucket.versions("Version", "packs/"))
    assert len(stored) == 2

    scene.delete(gone)
    scene.collect_fully()

    assert Scene.at(place.open(), clock).restore(kept) == disk_of(1, 2)
    assert len(list(place.open().list("packs/"))) == 1
    assert set(bucket.versions("Version", "packs/")) == stored
    for key, version in stored:
        with pytest.raises(urllib.error.HTTPError) as refused:
            bucket.ask("DELETE", f"/{key}?versionId={version}")
        assert refused.value.code == 403


def test_what_an_intruder_deleted_in_a_locked_bucket_comes_back(
    place: Place, clock: FakeClock
) -> None:
    bucket = LockedBucket(place)
    scene = Scene.create(place.create(), clock)
    point = scene.backup("one", disk_of(1, 2))
    store = place.open()
    for folder in ("packs/", "points/", "index/", "keys/"):
        for info in list(store.list(folder)):
            store.delete(info.key)
    assert list(store.list("points/")) == []

    for folder in ("packs/", "points/", "index/", "keys/"):
        for key, version in bucket.versions("DeleteMarker", folder):
            bucket.ask("DELETE", f"/{key}?versionId={version}")

    mended = Scene.at(place.open(), clock)
    assert mended.restore(point) == disk_of(1, 2)
    (pack,) = place.open().list("packs/")
    data = place.open().get(pack.key, limit_bytes=pack.size_bytes)
    assert blake3(data).hexdigest() == pack.key.rpartition("/")[2]
