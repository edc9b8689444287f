"""A bucket with Object Lock, as its owner sees it."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from cloud_scene import Clouds, Place, place_in
from cloud_servers import OWNER

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


def locked_place(
    clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, by_default: bool = False
) -> Place:
    """A new bucket with Object Lock; `by_default`: and with `NEVER_TWICE`."""
    place = place_in(clouds.get("s3"), tmp_path, monkeypatch)
    bucket = LockedBucket(place)
    bucket.ask("DELETE", "")
    bucket.ask("PUT", "", **{"x-amz-bucket-object-lock-enabled": "true"})
    if by_default:
        bucket.ask("PUT", "?object-lock", NEVER_TWICE)
    return place
