"""What can be done to a small blob: read it, replace it, write pages, set metadata.

Answers are made of a `Blob` value; whatever changes one runs in a worker thread, since a status
blob lies on a disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive

from quiesce.storage import refusal
from quiesce.storage.blob import PAGE_BYTES, Blob, BlobType, Cell, new_etag
from quiesce.storage.conditions import check_conditions, http_time
from quiesce.storage.pages import content_extents, page_list_xml, page_ranges
from quiesce.storage.ports import InThread
from quiesce.storage.request import BlobRequest, read_body, read_metadata, read_range, whole_number

_PIECE_BYTES = 64 * 1024
_MOST_RANGES = 1000


async def answer(request: BlobRequest, receive: Receive, cell: Cell, run: InThread) -> Response:
    """:raise Refusal:"""
    if request.snapshot:
        raise refusal.blob_not_found()
    if request.method in ("GET", "HEAD"):
        blob = await run(cell.load)
        check_conditions(request.headers, blob, reading=True)
        if request.comp == "pagelist":
            return await _page_list(request, blob, run)
        return _read(request, blob)
    edit = await _edit(request, receive, cell.limit_bytes)
    blob = await run(lambda: cell.change(lambda old: _edited(request, old, edit)))
    return Response(
        status_code=200 if request.comp in ("metadata", "properties") else 201,
        headers=_identity(blob) | {"x-ms-request-server-encrypted": "false"},
    )


Edit = Callable[[Blob], Blob]


async def _edit(request: BlobRequest, receive: Receive, limit_bytes: int) -> Edit:
    if request.comp == "snapshot":
        raise refusal.invalid_blob_type()
    body = await read_body(request.headers, receive, limit_bytes)
    if request.comp == "metadata":
        metadata = read_metadata(request.headers)
        return lambda old: replace(old, metadata=metadata)
    if request.comp == "properties":
        return _properties(request, limit_bytes)
    if request.comp == "page":
        return _pages(request, body)
    return _whole(request, body, limit_bytes)


def _edited(request: BlobRequest, old: Blob, edit: Edit) -> Blob:
    check_conditions(request.headers, old, reading=False)
    return replace(edit(old), etag=new_etag(), modified_at=datetime.now(UTC))


def _whole(request: BlobRequest, body: bytes, limit_bytes: int) -> Edit:
    kind = request.headers.get("x-ms-blob-type")
    if kind is None:
        raise refusal.missing_header("x-ms-blob-type")
    blob = Blob(
        content=body,
        metadata=read_metadata(request.headers),
        content_type=_content_type(request, "application/octet-stream"),
        written=True,
    )
    if kind == BlobType.BLOCK:
        return lambda old: blob
    if kind != BlobType.PAGE:
        raise refusal.invalid_header("x-ms-blob-type", kind)
    if body:
        raise refusal.invalid_header("Content-Length", str(len(body)))
    size = _page_blob_size(request, limit_bytes)
    if size is None:
        raise refusal.missing_header("x-ms-blob-content-length")
    return lambda old: replace(blob, kind=BlobType.PAGE, content=bytes(size))


def _properties(request: BlobRequest, limit_bytes: int) -> Edit:
    size = _page_blob_size(request, limit_bytes)

    def edit(old: Blob) -> Blob:
        new = replace(old, content_type=_content_type(request, old.content_type))
        if size is None:
            return new
        if old.kind is not BlobType.PAGE:
            raise refusal.invalid_blob_type()
        return replace(new, content=old.content[:size].ljust(size, b"\0"))

    return edit


def _pages(request: BlobRequest, body: bytes) -> Edit:
    what = request.headers.get("x-ms-page-write", "").lower()
    if what not in ("update", "clear"):
        raise refusal.invalid_header("x-ms-page-write", what)

    def edit(old: Blob) -> Blob:
        if old.kind is not BlobType.PAGE:
            raise refusal.invalid_blob_type()
        asked = read_range(request.headers, len(old.content))
        if asked is None:
            raise refusal.missing_header("x-ms-range")
        first, end = asked
        if first % PAGE_BYTES or end % PAGE_BYTES:
            raise refusal.invalid_page_range()
        new = body if what == "update" else bytes(end - first)
        if len(new) != end - first or (what == "clear" and body):
            raise refusal.invalid_header("Content-Length", str(len(body)))
        content = old.content[:first] + new + old.content[end:]
        return replace(old, content=content, written=True)

    return edit


def _read(request: BlobRequest, blob: Blob) -> Response:
    headers = _identity(blob) | {
        "x-ms-blob-type": blob.kind,
        "Accept-Ranges": "bytes",
        "Content-Type": blob.content_type,
        **{f"x-ms-meta-{name}": value for name, value in blob.metadata.items()},
    }
    size = len(blob.content)
    if request.comp == "metadata":
        return Response(headers=headers)
    if request.method == "HEAD":
        return Response(headers=headers | {"Content-Length": str(size)})
    asked = read_range(request.headers, size)
    first, end = asked or (0, size)
    if asked is not None:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    return StreamingResponse(
        _pieces(blob.content, first, end),
        status_code=200 if asked is None else 206,
        headers=headers | {"Content-Length": str(end - first)},
    )


async def _pieces(content: bytes, first: int, end: int) -> AsyncIterator[bytes]:
    """In pieces the answer has ended when its reader has read it. In one, it would have ended
    before, and lie in the connection's buffer, which nobody counts."""
    for offset in range(first, end, _PIECE_BYTES):
        yield content[offset : min(offset + _PIECE_BYTES, end)]


async def _page_list(request: BlobRequest, blob: Blob, run: InThread) -> Response:
    if blob.kind is not BlobType.PAGE:
        raise refusal.invalid_blob_type()
    if "prevsnapshot" in request.query:
        raise refusal.unsupported_query("prevsnapshot")
    size = len(blob.content)
    first, end = read_range(request.headers, size) or (0, size)
    first = max(first, whole_number(request, "marker", 0, size) or 0)
    limit = min(whole_number(request, "maxresults", 1, 10_000) or _MOST_RANGES, _MOST_RANGES)

    def document() -> bytes:
        extents = content_extents(blob.content)
        ranges = page_ranges(extents, first=first, end=end, since_previous=False)
        return b"".join(page_list_xml(ranges, limit=limit))

    return Response(
        await run(document),
        media_type="application/xml",
        headers=_identity(blob) | {"x-ms-blob-content-length": str(size)},
    )


def _identity(blob: Blob) -> dict[str, str]:
    return {"ETag": blob.etag, "Last-Modified": http_time(blob.modified_at)}


def _content_type(request: BlobRequest, otherwise: str) -> str:
    text = request.headers.get("x-ms-blob-content-type")
    if text is None and request.comp != "properties":
        text = request.headers.get("content-type")
    if text is None:
        return otherwise
    if len(text) > 200 or not text.isascii() or not text.isprintable():
        raise refusal.invalid_header("x-ms-blob-content-type", text)
    return text


def _page_blob_size(request: BlobRequest, limit_bytes: int) -> int | None:
    text = request.headers.get("x-ms-blob-content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 19) or int(text) % PAGE_BYTES:
        raise refusal.invalid_header("x-ms-blob-content-length", text)
    if int(text) > limit_bytes:
        raise refusal.out_of_range("x-ms-blob-content-length")
    return int(text)
