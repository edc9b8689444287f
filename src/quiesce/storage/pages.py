"""Which pages of a disk hold something: extents as Azure's page list.

    <PageList><PageRange><Start>0</Start><End>511</End></PageRange><ClearRange>…</ClearRange>
    <NextMarker>…</NextMarker></PageList>

Both ends are inclusive. A list without a previous snapshot has PageRanges alone; one with it has as
PageRange what was written and as ClearRange what was zeroed since then.
Source: "Get Page Ranges" of Azure's REST reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from quiesce.model.extent import Extent, ExtentKind
from quiesce.storage.blob import PAGE_BYTES


@dataclass(frozen=True, slots=True)
class PageRange:
    """`end_bytes` is exclusive."""

    start_bytes: int
    end_bytes: int
    clear: bool


def page_ranges(
    extents: Iterable[Extent], *, first: int, end: int, since_previous: bool
) -> Iterator[PageRange]:
    """What lies between `first` and `end` (bytes, exclusive), neighbours joined."""
    pending: PageRange | None = None
    for extent in extents:
        start, stop = max(extent.offset_bytes, first), min(extent.end_bytes, end)
        clear = _clear(extent.kind, since_previous)
        if clear is None or start >= stop:
            if extent.offset_bytes >= end:
                break
            continue
        if pending is not None and (pending.end_bytes, pending.clear) == (start, clear):
            pending = PageRange(pending.start_bytes, stop, clear)
            continue
        if pending is not None:
            yield pending
        pending = PageRange(start, stop, clear)
    if pending is not None:
        yield pending


def content_extents(content: bytes) -> Iterator[Extent]:
    """The pages of a small blob."""
    for offset in range(0, len(content), PAGE_BYTES):
        page = content[offset : offset + PAGE_BYTES]
        kind = ExtentKind.ZERO if page.count(0) == len(page) else ExtentKind.DATA
        yield Extent(offset, len(page), kind)


def page_list_xml(ranges: Iterable[PageRange], *, limit: int | None = None) -> Iterator[bytes]:
    """The document, piece by piece. After `limit` ranges it ends with a marker: where to go on."""
    yield b'<?xml version="1.0" encoding="utf-8"?><PageList>'
    for number, part in enumerate(ranges):
        if limit is not None and number >= limit:
            yield f"<NextMarker>{part.start_bytes}</NextMarker></PageList>".encode()
            return
        tag = "ClearRange" if part.clear else "PageRange"
        yield (
            f"<{tag}><Start>{part.start_bytes}</Start><End>{part.end_bytes - 1}</End></{tag}>"
        ).encode()
    yield b"<NextMarker/></PageList>"


def _clear(kind: ExtentKind, since_previous: bool) -> bool | None:
    """Whether such an extent is listed as cleared or as written; None when it is not listed.

    What is CLEAN has not changed, which says nothing about what it holds: without a previous
    snapshot it counts as written."""
    if since_previous:
        return {ExtentKind.DATA: False, ExtentKind.ZERO: True}.get(kind)
    return None if kind is ExtentKind.ZERO else False
