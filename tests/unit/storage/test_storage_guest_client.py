"""The extension's own client, as it runs in guests, against the storage endpoint."""

from __future__ import annotations

import time

import pytest
from storage_site import TAKEN_TEXT, Site

from quiesce.guest.dial import Way
from quiesce.guest.endpoint import Answer, Connection, prepare, require_success
from quiesce.guest.failure import Failure
from quiesce.guest.proxy import origin_of
from quiesce.model.failure import Failure as ServerFailure
from quiesce.model.failure import SnapshotFailure, StorageFailure


class Extension:
    """One connection, opened beforehand, as during a freeze."""

    def __init__(self, site: Site) -> None:
        given = site.endpoint.endpoint
        self.way = Way(origin_of(given.url), given.ca_pem)
        self.connection = Connection(self.way)
        self.connection.open(time.monotonic() + 10)

    def put(self, url: str, content: bytes = b"", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = prepare(self.way, "PUT", url, named, content)
        answer = self.connection.exchange(request, time.monotonic() + 10)
        require_success(answer, self.way)
        return answer


@pytest.fixture
def extension(site: Site) -> Extension:
    return Extension(site)


def test_takes_its_point_and_hands_over_log_and_report_on_one_connection(
    site: Site, extension: Extension
) -> None:
    door = site.open()
    for url in door.snapshot_urls.values():
        assert extension.put(f"{url}&comp=snapshot").headers["x-ms-snapshot"] == TAKEN_TEXT
    extension.put(door.log_url, b"a line", x_ms_blob_type="BlockBlob", Content_Type="text/plain")
    extension.put(door.report_url, b"{}", x_ms_blob_type="BlockBlob")
    assert extension.connection.stands()
    assert site.reports == [b"{}"]
    assert site.endpoint.log_of("attempt-1") == b"a line"


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (StorageFailure("storage.snapshot-limit", "Four already."), "storage.snapshot-limit"),
        (StorageFailure("storage.rate-limit", "Too fast."), "storage.rate-limit"),
        (SnapshotFailure("snapshot.failed", "QEMU said no."), "storage.endpoint-refused"),
    ],
)
def test_understands_why_the_point_was_not_taken(
    site: Site, extension: Extension, failure: ServerFailure, code: str
) -> None:
    site.takes.failure = failure
    url = site.open().snapshot_urls["vda"]
    with pytest.raises(Failure) as refused:
        extension.put(f"{url}&comp=snapshot")
    assert refused.value.code == code
    assert failure.code in str(refused.value.evidence)


def test_knows_a_refused_permission_from_a_task_that_has_ended(
    site: Site, extension: Extension
) -> None:
    url = site.open().snapshot_urls["vda"]
    with pytest.raises(Failure) as forged:
        extension.put(f"{url}x&comp=snapshot")
    site.endpoint.close("attempt-1")
    with pytest.raises(Failure) as ended:
        extension.put(f"{url}&comp=snapshot")
    assert (forged.value.code, ended.value.code) == (
        "storage.auth-failed",
        "storage.endpoint-refused",
    )
    assert site.takes.calls == 0
