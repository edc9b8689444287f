"""What can be done to a disk: take the point while it is open, read the snapshot once published.

The running disk itself is never served.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator

import structlog
from starlette.responses import Response, StreamingResponse

from quiesce.model.extent import Extent
from quiesce.model.failure import Failure, report_of
from quiesce.storage import refusal
from quiesce.storage.attempt import Withdrawn
from quiesce.storage.conditions import http_time
from quiesce.storage.containers import DiskBlob
from quiesce.storage.pages import page_list_xml, page_ranges
from quiesce.storage.ports import InThread
from quiesce.storage.request import BlobRequest, read_metadata, read_range, whole_number

log = structlog.get_logger(__name__)

_READ_BYTES = 256 * 1024
_RANGES_AT_ONCE = 2000
_MOST_RESULTS = 10_000

_CONDITIONS = (
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "x-ms-lease-id",
)


async def answer(request: BlobRequest, blob: DiskBlob, run: InThread) -> Response:
    """:raise Refusal:"""
    for name in _CONDITIONS:
        # The SDK names the ETag it was given for every further piece of a download.
        if name in request.headers and request.headers[name] != _etag(blob):
            raise refusal.unsupported_header(name)
    if request.method == "PUT":
        if request.comp != "snapshot":
            raise refusal.invalid_blob_type()
        return await _take(request, blob)
    if not request.snapshot or request.snapshot != blob.attempt.snapshot:
        raise refusal.blob_not_found()
    try:
        with blob.attempt.reading(blob.disk) as disk:
            size = disk.size_bytes
        if request.comp == "pagelist":
            return await _page_list(request, blob, size, run)
        return await _read(request, blob, size, run)
    except Withdrawn as gone:
        raise refusal.blob_not_found() from gone
    except Failure as failure:
        log.warning("snapshot unreadable", attempt=blob.attempt.name, failure=str(failure))
        raise refusal.Refusal(500, "InternalError", str(failure)) from failure


async def _take(request: BlobRequest, blob: DiskBlob) -> Response:
    if request.snapshot:
        raise refusal.invalid_query("snapshot", "A snapshot has no snapshots.")
    if "transfer-encoding" in request.headers:
        raise refusal.missing_length()
    if request.headers.get("content-length", "0") != "0":
        raise refusal.invalid_header("Content-Length", request.headers["content-length"])
    read_metadata(request.headers)  # accepted as Azure does, and of no use here
    try:
        await asyncio.wrap_future(blob.attempt.point())
    except Withdrawn as gone:
        raise refusal.blob_not_found() from gone
    except Exception as error:
        raise _not_taken(error) from error
    headers = _identity(blob) | {
        "x-ms-snapshot": blob.attempt.snapshot,
        "x-ms-request-server-encrypted": "false",
    }
    return Response(status_code=201, headers=headers)


def _not_taken(error: Exception) -> refusal.Refusal:
    """What the hypervisor's failure is called at a storage endpoint. 409 unless it is a defect or
    took too long: a client that repeats it by itself would do so while its guest is frozen. The
    guest hears the code; the sentence tells of the host, and is the job's."""
    report = report_of(error)
    text = f"The point could not be taken [{report.code}]."
    if report.code == "storage.snapshot-limit":
        limit = "The snapshot count against this blob has been exceeded."
        return refusal.Refusal(409, "SnapshotCountExceeded", f"{limit} {text}")
    if report.code == "storage.rate-limit":
        rate = "The rate of snapshot blob calls is exceeded."
        return refusal.Refusal(409, "SnapshotOperationRateExceeded", f"{rate} {text}")
    if report.code.endswith("timeout"):
        return refusal.Refusal(500, "OperationTimedOut", text)
    if report.code.startswith("internal."):
        return refusal.Refusal(500, "InternalError", text)
    return refusal.Refusal(409, "InvalidOperation", text)


async def _read(request: BlobRequest, blob: DiskBlob, size: int, run: InThread) -> Response:
    headers = _identity(blob) | {
        "x-ms-blob-type": "PageBlob",
        "x-ms-snapshot": blob.attempt.snapshot,
        "x-ms-blob-sequence-number": "0",
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
    }
    if request.method == "HEAD" or request.comp == "metadata":
        length = "0" if request.comp == "metadata" else str(size)
        return Response(headers=headers | {"Content-Length": length})
    asked = read_range(request.headers, size)
    first, end = asked or (0, size)
    headers["Content-Length"] = str(end - first)
    if asked is not None:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"

    async def pieces() -> AsyncIterator[bytes]:
        for offset in range(first, end, _READ_BYTES):
            length = min(_READ_BYTES, end - offset)
            yield await run(lambda o=offset, n=length: _bytes(blob, o, n))  # type: ignore[misc]

    return await _streamed(pieces(), 200 if asked is None else 206, headers)


def _bytes(blob: DiskBlob, offset_bytes: int, length_bytes: int) -> bytes:
    content = bytearray(length_bytes)
    with blob.attempt.reading(blob.disk) as disk:
        disk.read_into(offset_bytes, memoryview(content))
    return bytes(content)


async def _page_list(request: BlobRequest, blob: DiskBlob, size: int, run: InThread) -> Response:
    since_previous = "prevsnapshot" in request.query
    base = blob.attempt.previous_snapshot
    if since_previous and (not base or request.query["prevsnapshot"] != base):
        raise refusal.Refusal(
            409, "PreviousSnapshotNotFound", "The previous snapshot is not found."
        )
    first, end = read_range(request.headers, size) or (0, size)
    first = max(first, whole_number(request, "marker", 0, size) or 0)
    limit = whole_number(request, "maxresults", 1, _MOST_RESULTS)
    ranges = page_ranges(_extents(blob), first=first, end=end, since_previous=since_previous)
    document = page_list_xml(ranges, limit=limit)

    async def pieces() -> AsyncIterator[bytes]:
        while piece := await run(lambda: _next_piece(blob, document)):
            yield piece

    headers = _identity(blob) | {
        "Content-Type": "application/xml",
        "x-ms-blob-content-length": str(size),
    }
    return await _streamed(pieces(), 200, headers)


def _extents(blob: DiskBlob) -> Iterator[Extent]:
    with blob.attempt.reading(blob.disk) as disk:
        extents = disk.extents()
    yield from extents


def _next_piece(blob: DiskBlob, document: Iterable[bytes]) -> bytes:
    with blob.attempt.reading(blob.disk):
        return b"".join(itertools.islice(document, _RANGES_AT_ONCE))


async def _streamed(pieces: AsyncIterator[bytes], status: int, headers: dict[str, str]) -> Response:
    """The first piece is had before the answer begins, so that a failure can still be said."""
    first = await anext(pieces, b"")

    async def all_pieces() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return StreamingResponse(all_pieces(), status_code=status, headers=headers)


def _identity(blob: DiskBlob) -> dict[str, str]:
    taken_at = blob.attempt.taken_at
    assert taken_at is not None
    return {"ETag": _etag(blob), "Last-Modified": http_time(taken_at)}


def _etag(blob: DiskBlob) -> str:
    named = f"{blob.attempt.name}\n{blob.disk}\n{blob.attempt.snapshot}".encode()
    return f'"0x{hashlib.sha256(named).hexdigest()[:16].upper()}"'
