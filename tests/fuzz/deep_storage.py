"""The storage endpoint, to be fuzzed: `{SIG}` stands for a signature that is good."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote
from xml.etree import ElementTree

from deep_http import (
    ATTEMPT,
    BETWEEN,
    VM,
    HereAndNow,
    Target,
    answered,
    assert_fair,
    event_loop,
    requests_of,
    scope_of,
)
from storage_site import PaperDisk, Takes

from quiesce.model.extent import ExtentKind
from quiesce.storage.blob import Blob
from quiesce.storage.blob_service import BlobService
from quiesce.storage.containers import Containers
from quiesce.storage.naming import STATUS_BLOB, container_of, disk_blob, log_blob, report_blob
from quiesce.storage.sas import signature


class _Visit:
    def let_in(self) -> None:
        pass


def storage() -> Target:
    """Every signed operation; `sig={SIG}` is a good signature of whatever the rest of the query
    says by then. Each input begins with the same blobs."""
    containers = Containers(Path("build/fuzz/storage/blobs"))  # libFuzzer's exit cleans nothing up
    attempt = containers.open(
        VM, ATTEMPT, ["vda", "vdb"], take=Takes(), reported=lambda content: None
    )
    taken_at = attempt.point().result(5)
    kinds = [ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.CLEAN, ExtentKind.DATA]
    attempt.publish({"vda": PaperDisk(kinds)}, previous=taken_at)
    status = containers.status(VM)
    key, here = bytes(32), HereAndNow(1)
    service = BlobService(containers, key, writers=here, readers=here)
    loop = event_loop()

    def target(data: bytes) -> None:
        attempt.report._blob = attempt.log._blob = Blob()
        status.remove()
        for raw in requests_of(data):
            request = scope_of(raw, "https")
            if request is None:
                continue
            scope, body = request
            scope["query_string"] = _signed(scope["raw_path"], scope["query_string"], key)
            scope["state"] = {"visit": _Visit()}
            answer = loop.run_until_complete(answered(service, scope, body))
            assert_fair(answer)
            if answer.status >= 400:
                assert answer.headers["x-ms-error-code"], answer
                said = ElementTree.fromstring(answer.body).findtext("Code")
                assert said == answer.headers["x-ms-error-code"], answer

    return target


def _signed(raw_path: bytes, query: bytes, key: bytes) -> bytes:
    if b"{SIG}" not in query:
        return query
    try:
        fields = dict(parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict"))
        container, blob = unquote(raw_path.decode("ascii"), errors="strict").split("/", 3)[2:]
        fields.setdefault("sv", "")
        fields.setdefault("sr", "")
        good = signature(key, fields, container, blob)
    except ValueError:
        return query
    return query.replace(b"{SIG}", quote(good, safe="").encode())


def storage_seeds() -> list[bytes]:
    folder = f"/quiesce/{container_of(VM)}/"
    disk, report = folder + disk_blob(ATTEMPT, "vda"), folder + report_blob(ATTEMPT)
    log, status = folder + log_blob(ATTEMPT), folder + STATUS_BLOB
    snapshot = "&snapshot=2026-11-22T23:01:02.1234560Z"

    def ask(
        line: str, extra: str = "", headers: Sequence[str] = (), body: bytes = b"", sr: str = "b"
    ) -> bytes:
        method, _, path = line.partition(" ")
        query = f"sv=2020-12-06&spr=https&se=2099-01-01T00%3A00%3A00Z&sr={sr}&sp=racwd{extra}"
        head = [f"{method} {path}?{query}&sig={{SIG}} HTTP/1.1", "Host: h", *headers, "", ""]
        return "\r\n".join(head).encode() + body

    block, page = "x-ms-blob-type: BlockBlob", "x-ms-blob-type: PageBlob"
    made = ask(f"PUT {status}", headers=[page, "x-ms-blob-content-length: 2048"])
    update = ["x-ms-page-write: update", "x-ms-range: bytes=0-511"]
    clear = ["x-ms-page-write: clear", "x-ms-range: bytes=512-1023"]
    single = [
        ask(f"PUT {disk}", "&comp=snapshot", ["x-ms-meta-task: 1", "x-ms-version: 2020-12-06"]),
        ask(f"GET {disk}", snapshot, ["x-ms-range: bytes=512-1023"], sr="bs"),
        ask(f"HEAD {disk}", snapshot, sr="bs"),
        ask(f"GET {disk}", f"{snapshot}&comp=pagelist&maxresults=1&marker=512", sr="bs"),
        ask(f"GET {disk}", f"{snapshot}&comp=pagelist&prevsnapshot=2026-11-22T23:01:02.1234560Z"),
        ask(f"PUT {log}", "&comp=metadata", ["x-ms-meta-a: b", "If-Match: *"]),
        ask(f"GET {report}", "&st=2020-01-01&sip=127.0.0.1-127.0.0.255", sr="c"),
    ]
    whole = [block, "Content-MD5: XUFAKrxLKna5cZ2REBfFkg==", "x-ms-client-request-id: 1"]
    since = "If-Modified-Since: Sun, 22 Nov 2026 23:01:02 GMT"
    courses = [
        [ask(f"PUT {report}", "", whole, b"hello"), ask(f"GET {report}", "", [since])],
        [ask(f"PUT {log}", "", [block, "If-None-Match: *"], b"x"), ask(f"HEAD {log}")],
        [
            made,
            ask(f"PUT {status}", "&comp=page", update, bytes(511) + b"x"),
            ask(f"PUT {status}", "&comp=page", clear),
            ask(f"GET {status}", "&comp=pagelist", ["Range: bytes=0-1023"]),
        ],
        [
            made,
            ask(f"PUT {status}", "&comp=properties", ["x-ms-blob-content-length: 512"]),
            ask(f"GET {status}", "&comp=metadata"),
        ],
    ]
    return [*single, *(BETWEEN.join(course) for course in courses)]
