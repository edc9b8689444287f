"""Reading an open snapshot: ranges, page lists, and the end of it."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from xml.etree import ElementTree

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from storage_site import MIB, TAKEN_TEXT, PaperDisk, Site, message_of, refusal_of

from quiesce.model.extent import Extent, ExtentKind
from quiesce.model.failure import StorageFailure
from quiesce.storage.naming import instant_text
from quiesce.storage.pages import page_ranges
from quiesce.storage.refusal import Refusal
from quiesce.storage.request import read_range

DATA, ZERO, CLEAN = ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.CLEAN
BLOCK = PaperDisk.BLOCK
BEFORE = datetime(2026, 11, 21, 23, 0, tzinfo=UTC)


def test_a_whole_disk_comes_as_it_was(site: Site) -> None:
    disk, url = site.published([DATA, ZERO, DATA] * 7)
    answer = site.client.get(url)
    assert answer.status_code == 200
    assert answer.content == disk.content
    assert answer.headers["x-ms-blob-type"] == "PageBlob"
    assert answer.headers["x-ms-snapshot"] == TAKEN_TEXT


def test_a_range_comes_as_it_was(site: Site) -> None:
    disk, url = site.published([DATA] * 16)
    answer = site.client.get(url, headers={"x-ms-range": "bytes=1000-700000"})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes 1000-700000/{MIB}"
    assert answer.content == disk.content[1000:700001]


def test_the_size_can_be_asked_alone(site: Site) -> None:
    disk, url = site.published([DATA] * 3)
    answer = site.client.head(url)
    assert answer.status_code == 200
    assert answer.headers["content-length"] == str(len(disk.content))
    assert answer.content == b""


def test_a_range_beyond_the_disk_is_refused(site: Site) -> None:
    disk, url = site.published([DATA])
    beyond = {"Range": f"bytes={len(disk.content)}-"}
    assert refusal_of(site.client.get(url, headers=beyond)) == (416, "InvalidRange")


def listed(site: Site, url: str, **query: str) -> tuple[list[tuple[str, int, int]], str]:
    text = "".join(f"&{name}={value}" for name, value in query.items())
    answer = site.client.get(f"{url}&comp=pagelist{text}")
    assert answer.status_code == 200, answer.text
    root = ElementTree.fromstring(answer.content)
    ranges = [
        (part.tag, int(part.findtext("Start") or ""), int(part.findtext("End") or "") + 1)
        for part in root
        if part.tag != "NextMarker"
    ]
    return ranges, root.findtext("NextMarker") or ""


def test_the_page_list_names_what_holds_data(site: Site) -> None:
    _, url = site.published([DATA, DATA, ZERO, DATA])
    assert listed(site, url) == (
        [("PageRange", 0, 2 * BLOCK), ("PageRange", 3 * BLOCK, 4 * BLOCK)],
        "",
    )


def test_the_page_list_since_the_previous_point_names_what_changed(site: Site) -> None:
    _, url = site.published([CLEAN, DATA, ZERO, CLEAN], previous=BEFORE)
    changed, _ = listed(site, url, prevsnapshot=instant_text(BEFORE))
    assert changed == [
        ("PageRange", BLOCK, 2 * BLOCK),
        ("ClearRange", 2 * BLOCK, 3 * BLOCK),
    ]


def test_what_has_not_changed_counts_as_data_in_a_full_list(site: Site) -> None:
    _, url = site.published([CLEAN, DATA, ZERO, CLEAN], previous=BEFORE)
    everything, _ = listed(site, url)
    assert everything == [("PageRange", 0, 2 * BLOCK), ("PageRange", 3 * BLOCK, 4 * BLOCK)]


@pytest.mark.parametrize("previous", [None, BEFORE])
def test_changes_since_a_point_that_is_not_the_base_are_refused(
    site: Site, previous: datetime | None
) -> None:
    _, url = site.published([CLEAN], **({"previous": previous} if previous else {}))
    for asked in (instant_text(datetime(2026, 11, 20, tzinfo=UTC)), "", "nonsense"):
        answer = site.client.get(f"{url}&comp=pagelist&prevsnapshot={asked}")
        assert refusal_of(answer) == (409, "PreviousSnapshotNotFound")


def test_a_page_list_can_be_had_in_parts(site: Site) -> None:
    _, url = site.published([DATA, ZERO] * 5)
    whole, _ = listed(site, url)
    parts, marker = listed(site, url, maxresults="2")
    while marker:
        further, marker = listed(site, url, maxresults="2", marker=marker)
        parts += further
    assert parts == whole
    assert len(whole) == 5


def test_a_page_list_of_a_range_ends_with_it(site: Site) -> None:
    _, url = site.published([DATA] * 4)
    answer = site.client.get(
        f"{url}&comp=pagelist", headers={"Range": f"bytes={BLOCK // 2}-{2 * BLOCK - 1}"}
    )
    assert f"<Start>{BLOCK // 2}</Start><End>{2 * BLOCK - 1}</End>" in answer.text
    assert answer.text.count("<PageRange>") == 1


@pytest.mark.parametrize("query", ["maxresults=0", "maxresults=x", "marker=-1", "maxresults=99999"])
def test_page_lists_asked_for_in_nonsense_are_refused(site: Site, query: str) -> None:
    _, url = site.published([DATA])
    assert site.client.get(f"{url}&comp=pagelist&{query}").status_code == 400


def test_a_list_of_many_thousand_ranges_comes_whole(site: Site) -> None:
    _, url = site.published([DATA, ZERO] * 8)

    class Fragmented(PaperDisk):
        def extents(self):  # type: ignore[no-untyped-def]
            for number in range(0, self.size_bytes // 64, 2):
                yield Extent(number * 64, 64, DATA)
                yield Extent(number * 64 + 64, 64, ZERO)

    site.endpoint.publish("attempt-1", {"vda": Fragmented([DATA] * 16)})
    ranges, _ = listed(site, url)
    assert len(ranges) == 16 * BLOCK // 128


def test_the_running_disk_is_never_served(site: Site) -> None:
    """The guest's own SAS takes points and reads nothing."""
    door = site.open()
    for url in (door.snapshot_urls["vda"], f"{door.snapshot_urls['vda']}&snapshot={TAKEN_TEXT}"):
        assert refusal_of(site.client.get(url)) == (403, "AuthorizationPermissionMismatch")


def test_a_snapshot_is_not_there_before_it_is_published(site: Site) -> None:
    door = site.open()
    with pytest.raises(StorageFailure) as early:
        site.endpoint.read_url("attempt-1", "vda")
    assert early.value.code == "storage.door-closed"
    site.take(door)
    url = site.endpoint.read_url("attempt-1", "vda")
    assert refusal_of(site.client.get(url)) == (404, "BlobNotFound")


def test_a_url_for_one_disk_does_not_read_the_other(site: Site) -> None:
    site.take(site.open())
    site.endpoint.publish(
        "attempt-1", {"vda": PaperDisk([DATA], seed=1), "vdb": PaperDisk([DATA], seed=2)}
    )
    one, other = (site.endpoint.read_url("attempt-1", disk) for disk in ("vda", "vdb"))
    assert site.client.get(one).status_code == site.client.get(other).status_code == 200
    crossed = f"{other.split('?')[0]}?{one.split('?')[1]}"
    assert refusal_of(site.client.get(crossed)) == (403, "AuthenticationFailed")
    assert site.client.get(one).content != site.client.get(other).content


def test_closing_the_attempt_closes_the_disks_and_ends_the_reading(site: Site) -> None:
    disk, url = site.published([DATA])
    site.endpoint.close("attempt-1")
    assert disk.closed
    assert refusal_of(site.client.get(url)) == (404, "BlobNotFound")


def test_closing_waits_for_the_read_that_is_under_way(site: Site) -> None:
    disk, url = site.published([DATA] * 64)
    reading, may_read = threading.Event(), threading.Event()

    def hold() -> None:
        reading.set()
        assert may_read.wait(20)

    disk.before_read = hold
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(site.client.get, url)
        assert reading.wait(10)
        closing = pool.submit(site.endpoint.close, "attempt-1")
        while site.client.head(url).status_code != 404:
            pass  # it has not begun to close yet
        assert not disk.closed
        may_read.set()
        closing.result(10)
        assert disk.closed
        with pytest.raises(httpx.RemoteProtocolError):  # cut off, and seen to be
            answer.result(10)


def test_publishing_to_a_closed_door_closes_the_disks(site: Site) -> None:
    site.take(site.open())
    site.endpoint.close("attempt-1")
    with pytest.raises(StorageFailure) as gone:
        site.endpoint.publish("attempt-1", {"vda": PaperDisk([DATA])})
    assert gone.value.code == "storage.door-closed"


def test_a_snapshot_that_broke_is_told_with_its_code(site: Site) -> None:
    disk, url = site.published([DATA])
    disk.failure = StorageFailure("storage.scratch-full", "The snapshot broke.")
    answer = site.client.get(url)
    assert refusal_of(answer) == (500, "InternalError")
    assert "storage.scratch-full" in message_of(answer)


def range_or_refusal(text: str, size: int) -> tuple[int, int] | int:
    """What is read, as first byte and end, or the status of the refusal."""
    try:
        got = read_range(Headers(raw=[(b"range", text.encode("latin-1"))]), size)
    except Refusal as no:
        return no.status
    assert got is not None
    return got


@given(first=st.integers(0, 2000), last=st.none() | st.integers(0, 2000), size=st.integers(0, 1000))
def test_a_range_is_read_as_it_is_meant_or_refused(first: int, last: int | None, size: int) -> None:
    got = range_or_refusal(f"bytes={first}-{'' if last is None else last}", size)
    wanted = list(range(size))[first : None if last is None else last + 1]
    if last is not None and last < first:
        assert got == 400
    elif first >= size:
        assert got == 416
    else:
        assert isinstance(got, tuple)
        assert list(range(*got)) == wanted


@given(text=st.text(st.characters(max_codepoint=255), max_size=40))
def test_no_text_for_a_range_is_more_than_refused(text: str) -> None:
    got = range_or_refusal(text, 1000)
    assert got in (400, 416) or (isinstance(got, tuple) and 0 <= got[0] < got[1] <= 1000)


@given(
    kinds=st.lists(st.sampled_from([DATA, ZERO, CLEAN]), max_size=30),
    window=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    since=st.booleans(),
)
def test_page_ranges_cover_exactly_what_they_should(
    kinds: list[ExtentKind], window: tuple[int, int], since: bool
) -> None:
    first, end = min(window), max(window)
    extents = [Extent(number * 10, 10, kind) for number, kind in enumerate(kinds)]
    ranges = list(page_ranges(extents, first=first, end=end, since_previous=since))
    written = {byte for part in ranges if not part.clear for byte in span(part)}
    cleared = {byte for part in ranges if part.clear for byte in span(part)}
    inside = {byte: kinds[byte // 10] for byte in range(first, min(end, len(kinds) * 10))}
    as_written = {DATA} if since else {DATA, CLEAN}
    assert written == {byte for byte, kind in inside.items() if kind in as_written}
    assert cleared == {byte for byte, kind in inside.items() if since and kind is ZERO}
    for one, next_one in itertools.pairwise(ranges):
        assert one.end_bytes < next_one.start_bytes or one.clear != next_one.clear


def span(part) -> range:  # type: ignore[no-untyped-def]
    return range(part.start_bytes, part.end_bytes)
