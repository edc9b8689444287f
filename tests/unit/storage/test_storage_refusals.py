"""Whatever is not exactly what was granted is refused, in Azure's words."""

from __future__ import annotations

import base64
import logging
import socket
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote, urlsplit

import httpx
import pytest
from storage_site import TAKEN_TEXT, Site, detail_of, refusal_of

from quiesce.model.extent import ExtentKind
from quiesce.storage.sas import sas_query


def raw(site: Site, target: str, *, method: str = "GET", headers: str = "") -> httpx.Response:
    """The answer to a request whose target no client library has tidied up."""
    url = urlsplit(site.endpoint.endpoint.url)
    with (
        socket.create_connection(("127.0.0.1", url.port or 0), timeout=10) as plain,
        site.trusting().wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
        )
        secured.sendall(head.encode("latin-1"))
        answer = b"".join(iter(lambda: secured.recv(65536), b""))
    head_bytes, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head_bytes.decode("latin-1").split("\r\n")
    pairs = [tuple(line.split(": ", 1)) for line in lines]
    return httpx.Response(int(status.split()[1]), headers=pairs, content=body)  # type: ignore[arg-type]


def target_of(url: str) -> str:
    return url.split("/", 3)[3].join(["/", ""])


def granted(site: Site, url: str, permissions: str, **change: object) -> str:
    """A SAS for the blob of `url`, made with the endpoint's own key."""
    bare = url.split("?")[0]
    container, blob = urlsplit(bare).path.split("/", 3)[2:]
    key = base64.b64decode((site.folder / "account.key").read_bytes())
    until = change.get("expires_at", datetime.now(UTC) + timedelta(hours=1))
    assert isinstance(until, datetime)
    query = sas_query(key, container, blob, permissions=permissions, expires_at=until)
    return f"{bare}?{query}"


def test_a_wrong_signature_is_told_to_be_one(site: Site) -> None:
    bare, signature = site.open().report_url.rsplit("sig=", 1)
    signed = base64.b64decode(unquote(signature))
    forged = base64.b64encode(bytes([signed[0] ^ 1]) + signed[1:]).decode()
    answer = site.client.get(f"{bare}sig={quote(forged, safe='')}")
    assert refusal_of(answer) == (403, "AuthenticationFailed")
    assert detail_of(answer) == "Signature did not match."


def test_an_expired_url_is_told_when_it_expired(site: Site) -> None:
    url = site.open().report_url
    late = granted(site, url, "r", expires_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    answer = site.client.get(late)
    assert refusal_of(answer) == (403, "AuthenticationFailed")
    assert "Expiry [2026-01-02T03:04:05Z]" in detail_of(answer)


def test_a_url_that_reads_does_not_write_nor_take_points(site: Site) -> None:
    door = site.open()
    mismatch = (403, "AuthorizationPermissionMismatch")
    assert refusal_of(site.upload(granted(site, door.report_url, "r"), b"x")) == mismatch
    assert refusal_of(site.put(granted(site, door.report_url, "c"), "metadata")) == mismatch
    readable = granted(site, door.snapshot_urls["vda"], "r")
    assert refusal_of(site.put(readable, "snapshot")) == mismatch
    assert site.takes.calls == 0


def test_no_snapshot_is_taken_of_a_small_blob_and_no_disk_is_written(site: Site) -> None:
    door = site.open()
    assert refusal_of(site.put(door.report_url, "snapshot")) == (409, "InvalidBlobType")
    disk = granted(site, door.snapshot_urls["vda"], "rwc")
    assert refusal_of(site.upload(disk, b"x")) == (409, "InvalidBlobType")
    page = site.put(
        disk, "page", content=bytes(512), x_ms_page_write="update", x_ms_range="bytes=0-511"
    )
    assert refusal_of(page) == (409, "InvalidBlobType")


@pytest.mark.parametrize("authorization", ["Bearer token", "SharedKey quiesce:sig", "Basic eDp5"])
def test_other_credentials_are_refused_even_beside_a_good_sas(
    site: Site, authorization: str
) -> None:
    url = site.open().report_url
    for asked in (url, url.split("?")[0]):
        answer = site.client.get(asked, headers={"Authorization": authorization})
        assert refusal_of(answer) == (403, "AuthenticationFailed")


def test_nobody_comes_in_without_a_signature(site: Site) -> None:
    url = site.open().report_url.split("?")[0]
    assert refusal_of(site.client.get(url)) == (403, "AuthenticationFailed")
    assert refusal_of(site.client.put(url, content=b"x")) == (403, "AuthenticationFailed")


@pytest.mark.parametrize("method", ["POST", "PATCH", "OPTIONS", "TRACE", "MKCOL", "get"])
def test_other_verbs_are_unsupported(site: Site, method: str) -> None:
    url = site.open().report_url
    answer = raw(site, target_of(url), method=method)
    assert refusal_of(answer) == (405, "UnsupportedHttpVerb")
    assert answer.headers["allow"] == "GET, HEAD, PUT"


def test_a_tunnel_through_the_endpoint_is_unsupported(site: Site) -> None:
    answer = raw(site, "10.0.0.1:22", method="CONNECT")
    assert answer.status_code == 405


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ("comp=delete", 400, "InvalidQueryParameterValue"),
        ("comp=blocklist", 400, "InvalidQueryParameterValue"),
        ("comp=metadata&comp=metadata", 400, "InvalidQueryParameterValue"),
        ("sp=rw", 400, "InvalidQueryParameterValue"),
        ("sig=x", 400, "InvalidQueryParameterValue"),
        ("s%69g=x", 400, "InvalidQueryParameterValue"),
        ("versionid=1", 400, "UnsupportedQueryParameter"),
        ("restype=container", 400, "UnsupportedQueryParameter"),
        ("rsct=text/html", 403, "AuthenticationFailed"),
        ("a=%ff", 400, "InvalidUri"),
        ("&".join(f"a{n}=1" for n in range(50)), 400, "InvalidUri"),
        ("a=" + "b" * 5000, 400, "InvalidUri"),
    ],
)
def test_queries_that_are_not_served_are_refused(
    site: Site, change: str, status: int, code: str
) -> None:
    url = site.open().report_url
    assert refusal_of(raw(site, f"{target_of(url)}&{change}")) == (status, code)


def test_unknown_parameters_are_passed_over_as_azure_does(site: Site) -> None:
    url = site.open().report_url
    assert site.client.get(f"{url}&timeout=30&trace=1").status_code == 200


def test_response_headers_cannot_be_chosen_by_url(site: Site) -> None:
    url = site.open().report_url
    container, blob = urlsplit(url.split("?")[0]).path.split("/", 3)[2:]
    key = base64.b64decode((site.folder / "account.key").read_bytes())
    from quiesce.storage.sas import signature

    query = {"sv": "2020-12-06", "se": "2999-01-01", "sr": "b", "sp": "r", "rsct": "text/html"}
    sig = signature(key, query, container, blob)
    answer = site.client.get(url.split("?")[0], params={**query, "sig": sig})
    assert refusal_of(answer) == (400, "UnsupportedQueryParameter")


@pytest.mark.parametrize("version", ["latest", "2020-12-06\t", "2020-12-6"])
def test_a_version_that_is_none_is_refused(site: Site, version: str) -> None:
    answer = site.put(site.open().snapshot_urls["vda"], "snapshot", x_ms_version=version + "x")
    assert refusal_of(answer) == (400, "InvalidHeaderValue")
    assert site.takes.calls == 0


def test_a_snapshot_command_with_a_body_takes_nothing(site: Site) -> None:
    answer = site.put(site.open().snapshot_urls["vda"], "snapshot", content=b"surprise")
    assert refusal_of(answer) == (400, "InvalidHeaderValue")
    chunked = site.client.put(
        site.open("two").snapshot_urls["vda"] + "&comp=snapshot", content=iter([b"x"])
    )
    assert refusal_of(chunked) == (411, "MissingContentLengthHeader")
    assert site.takes.calls == 0


def test_what_a_guest_sends_stays_text_in_the_answer(site: Site) -> None:
    hostile = "</Code><Injected/>&evil;"
    answer = site.put(site.open().report_url, x_ms_blob_type=hostile)
    assert refusal_of(answer) == (400, "InvalidHeaderValue")
    assert b"<Injected" not in answer.content


def test_an_answer_without_http_is_still_azures(site: Site) -> None:
    answer = raw(site, "/a b c", method="GE T")
    assert answer.status_code == 400
    assert answer.headers["x-ms-error-code"] == "InvalidInput"


# -------------------------------------------------------------- one guest and another's


def test_a_url_of_one_vm_does_not_reach_another_vms_blob(site: Site) -> None:
    mine, others = site.endpoint.status_url("mine"), site.endpoint.status_url("other")
    site.upload(others, b"secret")
    path, query = urlsplit(others).path, urlsplit(mine).query
    own = urlsplit(mine).path
    own_container, other_container = own.rsplit("/", 1)[0], path.rsplit("/", 1)[0]
    other_name = other_container.rsplit("/", 1)[1]
    attempts = [
        path,
        f"{own_container}/../{other_name}/status",
        f"{own_container}/%2e%2e/{other_name}/status",
        f"{own_container}/%252e%252e/{other_name}/status",
        f"{own_container}/..%2f{other_name}%2fstatus",
        f"{own_container}/..%5c{other_name}%5cstatus",
        f"{own}/../../{other_name}/status",
        f"{own}%00/../../{other_name}/status",
        f"/quiesce//{other_name}/status",
        f"/quiesce/./{other_name}/status",
        f"//quiesce/{other_name}/status",
        f"{own};/../../{other_name}/status",
        f"https://localhost{path}",
        f"/{path}",
        path.replace("quiesce", "%71uiesce"),
        path.replace("/status", "%2fstatus"),
        path.upper(),
    ]
    for attempt in attempts:
        answer = raw(site, f"{attempt}?{query}")
        assert answer.status_code in (400, 403, 404), attempt
        assert b"secret" not in answer.content, attempt
        written = raw(
            site,
            f"{attempt}?{query}",
            method="PUT",
            headers="x-ms-blob-type: BlockBlob\r\nContent-Length: 0\r\n",
        )
        assert written.status_code in (400, 403, 404), attempt
    assert site.endpoint.status_of("other")[0] == b"secret"


def test_a_second_path_or_name_in_the_query_changes_nothing(site: Site) -> None:
    mine, others = site.endpoint.status_url("mine"), site.endpoint.status_url("other")
    site.upload(mine, b"mine")
    site.upload(others, b"secret")
    other_path = urlsplit(others).path
    for extra in (f"path={other_path}", f"resource={other_path}", f"sr%00=c&blob={other_path}"):
        answer = raw(site, f"{target_of(mine)}&{extra}")
        assert b"secret" not in answer.content
    both = raw(site, f"{target_of(mine)}&{urlsplit(others).query}")
    assert refusal_of(both) == (400, "InvalidQueryParameterValue")


def test_a_url_of_one_attempt_does_not_take_the_next_ones_point(site: Site) -> None:
    first = site.open("one")
    site.endpoint.close("one")
    second = site.open("two")
    query = urlsplit(first.snapshot_urls["vda"]).query
    crossed = f"{second.snapshot_urls['vda'].split('?')[0]}?{query}&comp=snapshot"
    assert refusal_of(site.client.put(crossed)) == (403, "AuthenticationFailed")
    assert refusal_of(site.take(first)) == (404, "BlobNotFound")
    assert site.takes.calls == 0


def test_a_snapshot_url_reads_no_other_snapshot(site: Site) -> None:
    _, url = site.published([ExtentKind.DATA])
    assert site.client.get(url).status_code == 200
    other = url.replace(TAKEN_TEXT.replace(":", "%3A"), "2026-11-22T23%3A01%3A02.1234570Z")
    assert other != url
    assert refusal_of(site.client.get(other)) == (403, "AuthenticationFailed")
    twice = f"{url}&snapshot={TAKEN_TEXT}"
    assert refusal_of(site.client.get(twice)) == (400, "InvalidQueryParameterValue")


def test_two_vms_whose_names_look_alike_have_containers_of_their_own(site: Site) -> None:
    names = ["web 1", "web-1", "WEB-1", "web_1", "wéb 1", "web 1 ", "-", "..", "a" * 128, "a" * 127]
    urls = {site.endpoint.status_url(name).split("?")[0] for name in names}
    assert len(urls) == len(names)
    for url in urls:
        container = url.split("/")[-2]
        assert 3 <= len(container) <= 63
        assert "--" not in container
        assert container.replace("-", "").isalnum()
        assert container == container.lower()


def test_two_disks_whose_names_look_alike_are_two_blobs(site: Site) -> None:
    disks = ["virtio/0", "virtio-0", "VIRTIO 0", "../vda", "", "vda?x=1&y#z"]
    door = site.open(disks=disks)
    assert len(set(door.snapshot_urls.values())) == len(disks)
    for disk in disks:
        assert site.take(door, disk).status_code == 201


def test_a_container_that_is_not_there_is_not_found(site: Site) -> None:
    url = f"{site.endpoint.endpoint.url}/quiesce/vm-nobody/status"
    assert refusal_of(site.client.get(granted(site, url, "r"))) == (404, "ContainerNotFound")
    assert refusal_of(site.client.get(f"{site.endpoint.endpoint.url}/quiesce/only")) == (
        404,
        "ResourceNotFound",
    )
    assert refusal_of(site.client.get(f"{site.endpoint.endpoint.url}/other/a/b")) == (
        404,
        "ResourceNotFound",
    )


# -------------------------------------------------------------- what is remembered


def test_what_was_seen_of_a_vm_is_kept_without_its_secrets(site: Site) -> None:
    door = site.open()
    site.take(door)
    site.client.get(door.report_url.split("?")[0])
    site.take(site.open("other", vm="db"))
    taken, refused = site.endpoint.recent("web")
    assert (taken.method, taken.operation, taken.status, taken.code) == ("PUT", "snapshot", 201, "")
    assert taken.path == urlsplit(door.snapshot_urls["vda"]).path
    assert (refused.method, refused.status, refused.code) == ("GET", 403, "AuthenticationFailed")
    assert refused.peer == "127.0.0.1"
    assert "sig" not in repr(site.endpoint.recent("web"))
    assert len(site.endpoint.recent("db")) == 1


def test_a_stranger_cannot_push_out_what_the_guest_did(site: Site) -> None:
    door = site.open()
    site.take(door)
    bare = door.snapshot_urls["vda"].split("?")[0]
    for _ in range(100):
        site.client.get(bare)
        site.client.get(f"{bare}?comp=nonsense")
    seen = site.endpoint.recent("web")
    assert [one.status for one in seen].count(201) == 1
    assert len(seen) <= 128


def test_line_ends_do_not_reach_what_is_remembered(site: Site) -> None:
    container = urlsplit(site.endpoint.status_url("web")).path.split("/")[2]
    raw(site, f"/quiesce/{container}/a%E2%80%A8b{'c' * 1000}?comp=x%E2%80%A8y")
    (seen,) = site.endpoint.recent("web")
    assert seen.path.isprintable()
    assert seen.operation.isprintable()
    assert len(seen.path) <= 200


def test_reading_is_remembered_as_reading_a_snapshot(site: Site) -> None:
    _, url = site.published([ExtentKind.DATA])
    site.client.get(f"{url}&comp=pagelist")
    assert site.endpoint.recent("web")[-1].operation == "pagelist of snapshot"


def test_no_signature_reaches_any_log(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("uvicorn.access"), "propagate", True)
    caplog.set_level(logging.DEBUG)
    _, url = site.published([ExtentKind.DATA])
    site.client.get(url)
    site.client.get(url.replace("sp=r", "sp=w"))
    raw(site, target_of(url), method="GE T")
    site.endpoint.close("attempt-1")
    site.client.get(url)
    signature = url.rsplit("sig=", 1)[1]
    from_the_server = [one for one in caplog.records if not one.name.startswith("httpx")]
    assert not [one for one in from_the_server if signature in one.getMessage()]
    assert not [one for one in from_the_server if "sig=" in one.getMessage()]
