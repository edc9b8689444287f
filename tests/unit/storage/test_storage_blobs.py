"""Status, report and log: the small blobs that guests write."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import pytest
from storage_site import Site, refusal_of, running

from quiesce.storage import endpoint


def test_a_report_reaches_who_waits_for_it_each_time_it_is_written(site: Site) -> None:
    door = site.open()
    assert site.upload(door.report_url, b'{"stage":"freezing"}').status_code == 201
    assert site.upload(door.report_url, b'{"stage":"done"}').status_code == 201
    assert site.reports == [b'{"stage":"freezing"}', b'{"stage":"done"}']
    assert site.client.get(door.report_url).content == b'{"stage":"done"}'


def test_report_and_log_exist_empty_before_anybody_has_written(site: Site) -> None:
    door = site.open()
    for url in (door.report_url, door.log_url):
        answer = site.client.get(url)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["x-ms-blob-type"] == "BlockBlob"
    assert site.endpoint.log_of("attempt-1") is None


def test_the_log_can_be_read_by_the_server(site: Site) -> None:
    site.upload(site.open().log_url, b"line\n" * 1000)
    assert site.endpoint.log_of("attempt-1") == b"line\n" * 1000
    site.endpoint.close("attempt-1")
    assert site.endpoint.log_of("attempt-1") is None


def test_blobs_of_an_attempt_are_gone_with_it(site: Site) -> None:
    door = site.open()
    site.endpoint.close("attempt-1")
    assert refusal_of(site.upload(door.report_url, b"late")) == (404, "BlobNotFound")
    assert site.reports == []


@pytest.mark.parametrize(("blob", "limit"), [("report", 128 * 1024), ("log", 4 * 1024 * 1024)])
def test_a_blob_beyond_its_limit_is_refused_and_the_one_before_stays(
    site: Site, blob: str, limit: int
) -> None:
    door = site.open()
    url = {"report": door.report_url, "log": door.log_url}[blob]
    assert site.upload(url, b"a" * limit).status_code == 201
    assert refusal_of(site.upload(url, b"b" * (limit + 1))) == (413, "RequestBodyTooLarge")
    assert site.client.get(url).content == b"a" * limit


def test_a_guest_goes_on_after_a_refused_upload_on_the_same_connection(site: Site) -> None:
    door = site.open()
    for _ in range(3):
        assert site.upload(door.report_url, bytes(200 * 1024)).status_code == 413
        assert site.upload(door.report_url, b"fine").status_code == 201


def test_nobody_knows_a_status_before_it_is_written(site: Site) -> None:
    assert site.endpoint.status_of("web") is None
    url = site.endpoint.status_url("web")
    assert site.endpoint.status_of("web") is None
    assert site.client.get(url).status_code == 200
    assert site.upload(url, b'{"version":"1.1"}').status_code == 201
    assert site.endpoint.status_of("web")[0] == b'{"version":"1.1"}'


def test_the_status_url_stays_the_same_for_hours(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(hour: int, minute: int) -> str:
        now = datetime(2026, 11, 23, hour, minute, tzinfo=UTC)
        monkeypatch.setattr(
            endpoint, "datetime", Mock(now=lambda _: now, fromtimestamp=datetime.fromtimestamp)
        )
        return site.endpoint.status_url("web")

    assert at(0, 0) == at(11, 59) != at(12, 0)
    assert site.endpoint.status_url("web") != site.endpoint.status_url("db")


def test_a_status_and_its_url_outlive_the_server(tmp_path: Path) -> None:
    with running(tmp_path) as before:
        url = before.endpoint.status_url("Büro 3/4")
        before.upload(url, b"status", x_ms_meta_agent="2.15")
        tag = before.client.get(url).headers["etag"]
    with running(tmp_path) as after:
        moved = f"{after.endpoint.endpoint.url}/{url.split('/', 3)[3]}"
        answer = after.client.get(moved)
        assert (answer.content, answer.headers["etag"]) == (b"status", tag)
        assert answer.headers["x-ms-meta-agent"] == "2.15"
        assert after.endpoint.status_of("Büro 3/4")[0] == b"status"
        assert after.upload(moved, b"newer").status_code == 201


def test_a_damaged_status_file_reads_as_no_status(tmp_path: Path) -> None:
    with running(tmp_path) as site:
        url = site.endpoint.status_url("web")
        site.upload(url, b"status")
        (file,) = (tmp_path / "status").glob("*.blob")
        file.write_bytes(b"\x00 not ours")
        assert site.endpoint.status_of("web") is None
        assert site.upload(url, b"again").status_code == 201
        assert site.endpoint.status_of("web")[0] == b"again"


def test_a_forgotten_vm_leaves_nothing_behind(site: Site) -> None:
    url, door = site.endpoint.status_url("web"), site.open()
    site.upload(url, b"status")
    site.endpoint.forget("web")
    assert refusal_of(site.client.get(url)) == (404, "ContainerNotFound")
    assert refusal_of(site.take(door)) == (404, "ContainerNotFound")
    assert site.endpoint.status_of("web") is None
    assert list((site.folder / "status").iterdir()) == []
    assert site.endpoint.recent("web") == ()


def test_metadata_and_content_type_come_back(site: Site) -> None:
    url = site.open().log_url
    site.upload(url, b"x", x_ms_meta_Stage="one", x_ms_blob_content_type="text/plain")
    assert site.put(url, "metadata", x_ms_meta_other="two").status_code == 200
    answer = site.client.head(url)
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["x-ms-meta-other"] == "two"
    assert "x-ms-meta-stage" not in answer.headers
    assert answer.headers["content-length"] == "1"


@pytest.mark.parametrize(
    ("header", "value", "code"),
    [
        ("x-ms-meta-", "v", "EmptyMetadataKey"),
        ("x-ms-meta-a-b", "v", "InvalidMetadata"),
        ("x-ms-meta-1a", "v", "InvalidMetadata"),
        ("x-ms-meta-a", "\u00e4", "InvalidMetadata"),
        ("x-ms-meta-a", "v" * 8193, "MetadataTooLarge"),
    ],
)
def test_metadata_that_azure_refuses_is_refused(
    site: Site, header: str, value: str, code: str
) -> None:
    url = site.open().log_url
    answer = site.client.put(f"{url}&comp=metadata", headers={header: value.encode("latin-1")})
    assert refusal_of(answer) == (400, code)


def test_parts_of_a_blob_can_be_read(site: Site) -> None:
    url = site.open().log_url
    site.upload(url, bytes(range(100)))
    answer = site.client.get(url, headers={"Range": "bytes=10-19"})
    assert (answer.status_code, answer.content) == (206, bytes(range(10, 20)))
    assert answer.headers["content-range"] == "bytes 10-19/100"
    newer = site.client.get(url, headers={"Range": "bytes=0-1", "x-ms-range": "bytes=90-"})
    assert newer.content == bytes(range(90, 100))


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("bytes=100-", 416, "InvalidRange"),
        ("bytes=100-200", 416, "InvalidRange"),
        ("bytes=9-1", 400, "InvalidHeaderValue"),
        ("bytes=-5", 400, "InvalidHeaderValue"),
        ("bytes=0-1,3-4", 400, "InvalidHeaderValue"),
        ("pages=0-1", 400, "InvalidHeaderValue"),
        ("bytes=0-" + "9" * 40, 400, "InvalidHeaderValue"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(
    site: Site, text: str, status: int, code: str
) -> None:
    url = site.open().log_url
    site.upload(url, bytes(100))
    assert refusal_of(site.client.get(url, headers={"Range": text})) == (status, code)


def test_an_upload_that_was_damaged_on_the_way_is_refused(site: Site) -> None:
    url = site.open().log_url
    good = base64.b64encode(hashlib.md5(b"content").digest()).decode()
    assert site.upload(url, b"content", Content_MD5=good).status_code == 201
    assert refusal_of(site.upload(url, b"c0ntent", Content_MD5=good)) == (400, "Md5Mismatch")
    wrong = site.upload(url, b"content", Content_MD5="!!")
    assert refusal_of(wrong) == (400, "InvalidHeaderValue")


def test_conditions_are_kept(site: Site) -> None:
    url = site.open().log_url
    tag = site.upload(url, b"one").headers["etag"]
    assert site.upload(url, b"two", If_Match=tag).status_code == 201
    assert refusal_of(site.upload(url, b"three", If_Match=tag)) == (412, "ConditionNotMet")
    exists = site.upload(url, b"three", If_None_Match="*")
    assert refusal_of(exists) == (409, "BlobAlreadyExists")
    answer = site.client.get(url)
    unchanged = site.client.get(url, headers={"If-None-Match": answer.headers["etag"]})
    assert (answer.content, unchanged.status_code, unchanged.content) == (b"two", 304, b"")
    since = {"If-Modified-Since": answer.headers["last-modified"]}
    assert site.client.get(url, headers=since).status_code == 304
    long_ago = {"If-Unmodified-Since": "Sun, 01 Nov 2020 00:00:00 GMT"}
    assert site.client.get(url, headers=long_ago).status_code == 412
    garbled = site.client.get(url, headers={"If-Modified-Since": "yesterday"})
    assert refusal_of(garbled) == (400, "InvalidHeaderValue")
    leased = site.upload(url, b"three", x_ms_lease_id="a")
    assert refusal_of(leased) == (412, "LeaseNotPresentWithBlobOperation")


def test_a_status_blob_made_of_pages_is_understood(site: Site) -> None:
    """Agents that are told to, or that find one, upload their status as a page blob."""
    url = site.endpoint.status_url("web")
    made = site.put(url, x_ms_blob_type="PageBlob", x_ms_blob_content_length="2048")
    assert made.status_code == 201
    status = b'{"version": "1.0"}'
    page = site.put(
        url,
        "page",
        content=status.ljust(512, b"\0"),
        x_ms_page_write="update",
        x_ms_range="bytes=512-1023",
    )
    assert page.status_code == 201
    assert site.client.get(url).content == bytes(512) + status.ljust(1536, b"\0")
    listed = site.client.get(f"{url}&comp=pagelist")
    assert "<Start>512</Start><End>1023</End>" in listed.text
    assert listed.text.count("<PageRange>") == 1
    cleared = site.put(url, "page", x_ms_page_write="clear", x_ms_range="bytes=512-1023")
    assert cleared.status_code == 201
    assert "<PageRange>" not in site.client.get(f"{url}&comp=pagelist").text
    assert site.put(url, "properties", x_ms_blob_content_length="512").status_code == 200
    assert site.client.head(url).headers["content-length"] == "512"


def test_a_status_written_as_pages_comes_without_its_padding(site: Site) -> None:
    url = site.endpoint.status_url("web")
    site.put(url, x_ms_blob_type="PageBlob", x_ms_blob_content_length="512")
    site.put(
        url,
        "page",
        content=b"{}".ljust(512, b"\0"),
        x_ms_page_write="update",
        x_ms_range="bytes=0-511",
    )
    assert site.endpoint.status_of("web")[0] == b"{}"


def test_pages_that_make_no_sense_are_refused(site: Site) -> None:
    url = site.endpoint.status_url("web")

    def page(content: bytes, text: str, what: str = "update") -> tuple[int, str]:
        return refusal_of(
            site.put(url, "page", content=content, x_ms_page_write=what, x_ms_range=text)
        )

    assert page(bytes(512), "bytes=0-511") == (409, "InvalidBlobType")
    site.put(url, x_ms_blob_type="PageBlob", x_ms_blob_content_length="1024")
    assert page(bytes(512), "bytes=1-512") == (416, "InvalidPageRange")
    assert page(bytes(512), "bytes=2048-2559") == (416, "InvalidRange")
    assert page(bytes(100), "bytes=0-511") == (400, "InvalidHeaderValue")
    assert page(bytes(512), "bytes=0-511", "burn") == (400, "InvalidHeaderValue")
    assert page(bytes(512), "bytes=0-511", "clear") == (400, "InvalidHeaderValue")
    odd = site.put(url, x_ms_blob_type="PageBlob", x_ms_blob_content_length="100")
    assert refusal_of(odd) == (400, "InvalidHeaderValue")
    huge = site.put(url, x_ms_blob_type="PageBlob", x_ms_blob_content_length=str(512 * 10**12))
    assert refusal_of(huge) == (400, "OutOfRangeInput")


def test_a_blob_needs_a_type_that_is_served(site: Site) -> None:
    url = site.open().log_url
    assert refusal_of(site.put(url, content=b"x")) == (400, "MissingRequiredHeader")
    append = site.put(url, content=b"x", x_ms_blob_type="AppendBlob")
    assert refusal_of(append) == (400, "InvalidHeaderValue")


def test_an_upload_must_say_its_length_beforehand(site: Site) -> None:
    url = site.open().log_url
    answer = site.client.put(
        url, content=iter([b"one", b"two"]), headers={"x-ms-blob-type": "BlockBlob"}
    )
    assert refusal_of(answer) == (411, "MissingContentLengthHeader")
