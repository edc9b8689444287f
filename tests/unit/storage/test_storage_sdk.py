"""The azure-storage-blob SDK, a client that nobody here wrote, against the storage endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import BlobClient, BlobType, generate_blob_sas
from storage_site import MIB, TAKEN_TEXT, PaperDisk, Site

from quiesce.model.extent import ExtentKind
from quiesce.model.failure import StorageFailure
from quiesce.storage.naming import instant_text

DATA, ZERO, CLEAN = ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.CLEAN
BLOCK = PaperDisk.BLOCK
BEFORE = datetime(2026, 11, 21, 23, 0, tzinfo=UTC)


class Sdk:
    """Clients that trust the endpoint's authority and do not try again by themselves."""

    def __init__(self, site: Site, ca_file: Path) -> None:
        self._ca_file = ca_file
        self._ca_file.write_text(site.endpoint.endpoint.ca_pem)

    def blob(self, url: str, **options: object) -> BlobClient:
        return BlobClient.from_blob_url(
            url,
            transport=RequestsTransport(connection_verify=str(self._ca_file)),
            retry_total=0,
            **options,
        )


pytestmark = pytest.mark.filterwarnings("ignore:get_page_ranges is deprecated")


@pytest.fixture
def sdk(site: Site, tmp_path: Path) -> Iterator[Sdk]:
    return Sdk(site, tmp_path / "ca.pem")


def test_create_snapshot(site: Site, sdk: Sdk) -> None:
    blob = sdk.blob(site.open().snapshot_urls["vda"])
    first = blob.create_snapshot(metadata={"task": "7"})
    assert first["snapshot"] == TAKEN_TEXT
    repeat = blob.create_snapshot()
    assert (repeat["snapshot"], repeat["etag"]) == (first["snapshot"], first["etag"])
    assert site.takes.calls == 1


def test_a_snapshot_that_is_refused_has_the_code_the_sdk_knows(site: Site, sdk: Sdk) -> None:
    site.takes.failure = StorageFailure("storage.snapshot-limit", "Four already.")
    with pytest.raises(HttpResponseError) as refused:
        sdk.blob(site.open().snapshot_urls["vda"]).create_snapshot()
    assert refused.value.status_code == 409
    assert refused.value.error_code == "SnapshotCountExceeded"
    assert "storage.snapshot-limit" in refused.value.message


def test_status_up_and_down(site: Site, sdk: Sdk) -> None:
    blob = sdk.blob(site.endpoint.status_url("web"))
    blob.upload_blob(b'{"status": "ready"}', overwrite=True, metadata={"agent": "2.15"})
    assert blob.download_blob().readall() == b'{"status": "ready"}'
    assert blob.get_blob_properties().metadata == {"agent": "2.15"}
    assert blob.exists()
    assert site.endpoint.status_of("web")[0] == b'{"status": "ready"}'


def test_an_empty_blob_is_read_as_empty(site: Site, sdk: Sdk) -> None:
    assert sdk.blob(site.open().report_url).download_blob().readall() == b""


def test_a_status_of_pages_up_and_down(site: Site, sdk: Sdk) -> None:
    blob = sdk.blob(site.endpoint.status_url("web"))
    content = b"{}".ljust(512, b"\0") + bytes(512) + b"tail".ljust(512, b"\0")
    blob.upload_blob(content, blob_type=BlobType.PAGEBLOB, overwrite=True)
    assert blob.download_blob().readall() == content
    pages, _ = blob.get_page_ranges()
    assert pages == [{"start": 0, "end": 511}, {"start": 1024, "end": 1535}]
    blob.resize_blob(512)
    assert blob.get_blob_properties().size == 512


def test_uploading_over_what_exists_must_be_meant(site: Site, sdk: Sdk) -> None:
    with pytest.raises(ResourceExistsError):
        sdk.blob(site.open().log_url).upload_blob(b"log")


def test_conditions_of_the_sdk_hold(site: Site, sdk: Sdk) -> None:
    from azure.core import MatchConditions

    blob = sdk.blob(site.open().log_url)
    tag = blob.upload_blob(b"one", overwrite=True)["etag"]
    blob.upload_blob(b"two", overwrite=True)
    with pytest.raises(ResourceModifiedError):
        blob.upload_blob(
            b"three",
            overwrite=True,
            etag=tag,
            match_condition=MatchConditions.IfNotModified,
        )


def test_metadata_and_headers_are_set(site: Site, sdk: Sdk) -> None:
    from azure.storage.blob import ContentSettings

    blob = sdk.blob(site.open().log_url)
    blob.set_blob_metadata({"stage": "done"})
    blob.set_http_headers(ContentSettings(content_type="text/plain"))
    properties = blob.get_blob_properties()
    assert properties.metadata == {"stage": "done"}
    assert properties.content_settings.content_type == "text/plain"


def test_page_ranges_of_a_snapshot(site: Site, sdk: Sdk) -> None:
    _, url = site.published([DATA, ZERO, DATA])
    pages, cleared = sdk.blob(url).get_page_ranges()
    assert cleared == []
    assert pages == [
        {"start": 0, "end": BLOCK - 1},
        {"start": 2 * BLOCK, "end": 3 * BLOCK - 1},
    ]


def test_page_ranges_with_the_previous_snapshot(site: Site, sdk: Sdk) -> None:
    _, url = site.published([CLEAN, DATA, ZERO], previous=BEFORE)
    pages, cleared = sdk.blob(url).get_page_ranges(previous_snapshot_diff=instant_text(BEFORE))
    assert pages == [{"start": BLOCK, "end": 2 * BLOCK - 1}]
    assert cleared == [{"start": 2 * BLOCK, "end": 3 * BLOCK - 1}]


def test_page_ranges_page_by_page(site: Site, sdk: Sdk) -> None:
    _, url = site.published([DATA, ZERO] * 10)
    ranges = list(sdk.blob(url).list_page_ranges(results_per_page=3))
    assert [part.start for part in ranges] == [2 * BLOCK * number for number in range(10)]


def test_a_snapshot_is_downloaded_whole_in_parallel_pieces(site: Site, sdk: Sdk) -> None:
    disk, url = site.published([DATA, ZERO, DATA, CLEAN] * 32)
    blob = sdk.blob(url, max_single_get_size=MIB, max_chunk_get_size=MIB)
    assert blob.download_blob(max_concurrency=4).readall() == disk.content


def test_a_range_of_a_snapshot_is_downloaded(site: Site, sdk: Sdk) -> None:
    disk, url = site.published([DATA] * 8)
    part = sdk.blob(url).download_blob(offset=BLOCK - 5, length=10).readall()
    assert part == disk.content[BLOCK - 5 : BLOCK + 5]


def sas_of(site: Site, container: str, blob: str, permission: str) -> str:
    return generate_blob_sas(
        "quiesce",
        container,
        blob,
        account_key=(site.folder / "account.key").read_text().strip(),
        permission=permission,
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )


def test_a_sas_that_the_sdk_makes_with_the_account_key_is_let_in(site: Site, sdk: Sdk) -> None:
    url = site.endpoint.status_url("Büro 3").split("?")[0]
    container, blob = url.split("/")[-2:]
    granted = sdk.blob(f"{url}?{sas_of(site, container, blob, 'rw')}")
    granted.upload_blob(b"by the SDK", overwrite=True)
    assert site.endpoint.status_of("Büro 3")[0] == b"by the SDK"
    with pytest.raises(HttpResponseError) as denied:
        sdk.blob(f"{url}?{sas_of(site, container, blob, 'w')}").download_blob()
    assert denied.value.error_code == "AuthorizationPermissionMismatch"


def test_the_account_key_itself_opens_nothing(site: Site, sdk: Sdk) -> None:
    url = site.endpoint.status_url("web").split("?")[0]
    key = (site.folder / "account.key").read_text().strip()
    with pytest.raises(ClientAuthenticationError):
        sdk.blob(url, credential=key).download_blob()


def test_nobody_is_let_in_without_a_signature(site: Site, sdk: Sdk) -> None:
    with pytest.raises(ClientAuthenticationError):
        sdk.blob(site.endpoint.status_url("web").split("?")[0]).download_blob()


def test_a_blob_that_is_not_there_is_not_found_and_not_made(site: Site, sdk: Sdk) -> None:
    url = site.endpoint.status_url("web").split("?")[0]
    container = url.split("/")[-2]
    other = f"{url.rsplit('/', 1)[0]}/other?{sas_of(site, container, 'other', 'racwd')}"
    with pytest.raises(ResourceNotFoundError):
        sdk.blob(other).upload_blob(b"x", overwrite=True)


def test_nothing_is_deleted(site: Site, sdk: Sdk) -> None:
    url = site.endpoint.status_url("web")
    container = url.split("?")[0].split("/")[-2]
    with pytest.raises(HttpResponseError) as denied:
        sdk.blob(url).delete_blob()
    assert denied.value.error_code == "AuthorizationPermissionMismatch"
    deleting = sdk.blob(f"{url.split('?')[0]}?{sas_of(site, container, 'status', 'd')}")
    with pytest.raises(HttpResponseError) as unserved:
        deleting.delete_blob()
    assert unserved.value.status_code == 405
    assert sdk.blob(url).exists()
