"""A bucket with a retention lock, as S3 has it: whoever deletes hides, and destroys nothing."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from blake3 import blake3
from cloud_scene import Clouds, Place, place_in
from cloud_servers import OWNER
from vault_scene import FakeClock, Scene, disk_of

from quiesce.vault.stores.address import parse_address

NEVER_TWICE = (
    "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule>"
    "<DefaultRetention><Mode>COMPLIANCE</Mode><Days>30</Days></DefaultRetention></Rule>"
    "</ObjectLockConfiguration>"
)


class LockedBucket:
    """Its owner, who has every permission."""

    def __init__(self, place: Place) -> None:
        assert place.cloud is not None
        self._url = place.cloud.way.url
        self._bucket = parse_address(place.address).bucket

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> bytes:
        request = urllib.request.Request(
            f"{self._url}/{self._bucket}{path}",
            method=method,
            data=body.encode() or None,
            headers={"Authorization": OWNER, "Content-Type": "application/xml"} | headers,
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return bytes(opener.open(request).read())

    def versions(self, kind: str, folder: str) -> list[tuple[str, str]]:
        """(key, version) of all `Version`s or `DeleteMarker`s below a folder of the vault."""
        listed = self.ask("GET", f"?versions&prefix=vaults/one/{folder}").decode()
        found = []
        for part in listed.split(f"<{kind}>")[1:]:
            key = part.partition("<Key>")[2].partition("</Key>")[0]
            found.append((key, part.partition("<VersionId>")[2].partition("</VersionId>")[0]))
        return found


@pytest.fixture
def place(clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = place_in(clouds.get("s3"), tmp_path, monkeypatch)
    bucket = LockedBucket(place)
    bucket.ask("DELETE", "")
    bucket.ask("PUT", "", **{"x-amz-bucket-object-lock-enabled": "true"})
    bucket.ask("PUT", "?object-lock", NEVER_TWICE)
    return place


def test_a_locked_bucket_is_backed_up_to_and_cleared_and_keeps_every_byte(
    place: Place, clock: FakeClock
) -> None:
    bucket = LockedBucket(place)
    scene = Scene.create(place.create(), clock)
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
