"""The one call that is made while a guest is frozen."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from storage_site import TAKEN_TEXT, Site, message_of, refusal_of

from quiesce.model.failure import SnapshotFailure, StorageFailure


def test_the_snapshot_command_takes_the_point_and_names_its_instant(site: Site) -> None:
    answer = site.take(site.open())
    assert answer.status_code == 201
    assert answer.headers["x-ms-snapshot"] == TAKEN_TEXT
    assert answer.headers["etag"].startswith('"0x')
    assert answer.headers["last-modified"] == "Sun, 22 Nov 2026 23:01:02 GMT"
    assert answer.headers["x-ms-request-id"]
    assert answer.headers["x-ms-version"] == "2020-12-06"
    assert answer.content == b""


def test_a_client_may_send_metadata_a_version_and_its_own_request_id(site: Site) -> None:
    answer = site.put(
        site.open().snapshot_urls["vda"],
        "snapshot",
        x_ms_meta_backup="job 7",
        x_ms_version="2012-02-12",
        x_ms_date="Sun, 22 Nov 2026 23:01:02 GMT",
        x_ms_client_request_id="my-own",
    )
    assert answer.status_code == 201
    assert answer.headers["x-ms-version"] == "2012-02-12"
    assert answer.headers["x-ms-client-request-id"] == "my-own"


def test_metadata_beyond_azures_limit_does_not_take_the_point(site: Site) -> None:
    answer = site.put(site.open().snapshot_urls["vda"], "snapshot", x_ms_meta_big="x" * 9000)
    assert refusal_of(answer) == (400, "MetadataTooLarge")
    assert site.takes.calls == 0


def test_the_other_disks_and_every_repeat_get_the_same_point(site: Site) -> None:
    door = site.open()
    instants = [
        site.take(door, disk).headers["x-ms-snapshot"] for disk in ("vda", "vdb", "vda", "vdb")
    ]
    assert instants == [TAKEN_TEXT] * 4
    assert site.takes.calls == 1


def test_commands_for_several_disks_at_once_wait_for_one_and_the_same_point(site: Site) -> None:
    disks = [f"vd{letter}" for letter in "abcdefgh"]
    door = site.open(disks=disks)
    site.takes.may_end.clear()
    with ThreadPoolExecutor(8) as guest:
        answers = [guest.submit(site.take, door, disk) for disk in disks]
        assert site.takes.began.wait(10)
        time.sleep(0.1)  # for a second take to begin, if it ever would
        assert not any(answer.done() for answer in answers)
        site.takes.may_end.set()
        assert {answer.result().headers["x-ms-snapshot"] for answer in answers} == {TAKEN_TEXT}
    assert site.takes.calls == 1


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (StorageFailure("storage.snapshot-limit", "No more."), 409, "SnapshotCountExceeded"),
        (StorageFailure("storage.rate-limit", "Too fast."), 409, "SnapshotOperationRateExceeded"),
        (SnapshotFailure("snapshot.failed", "QEMU said no."), 409, "InvalidOperation"),
        (SnapshotFailure("freeze.timeout", "Too late."), 500, "OperationTimedOut"),
        (RuntimeError("a defect"), 500, "InternalError"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_point_that_cannot_be_taken_is_refused_with_its_code_and_not_tried_again(
    site: Site, failure: Exception, status: int, code: str
) -> None:
    door = site.open()
    site.takes.failure = failure
    first, repeat = site.take(door), site.take(door, "vdb")
    assert refusal_of(first) == refusal_of(repeat) == (status, code)
    expected = failure.code if isinstance(failure, StorageFailure | SnapshotFailure) else "internal"
    assert expected in message_of(first)
    assert site.takes.calls == 1


def test_clients_find_the_words_that_they_look_for_when_there_are_too_many_snapshots(
    site: Site,
) -> None:
    site.takes.failure = StorageFailure("storage.snapshot-limit", "Four already.")
    assert "The snapshot count against this blob has been exceeded" in site.take(site.open()).text


def test_after_the_door_is_closed_no_point_is_taken(site: Site) -> None:
    door = site.open()
    site.endpoint.close("attempt-1")
    assert refusal_of(site.take(door)) == (404, "BlobNotFound")
    assert site.takes.calls == 0


def test_closing_waits_for_a_point_that_is_being_taken(site: Site) -> None:
    door = site.open()
    site.takes.may_end.clear()
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(site.take, door)
        assert site.takes.began.wait(10)
        closing = pool.submit(site.endpoint.close, "attempt-1")
        time.sleep(0.1)
        assert not closing.done()
        site.takes.may_end.set()
        closing.result(10)
        assert answer.result(10).status_code == 201


def test_no_point_is_taken_after_a_close_that_came_in_between(site: Site) -> None:
    """Many rounds of a race: once `close` has returned the count does not change any more."""
    for number in range(30):
        door = site.open(f"race-{number}")
        command = threading.Thread(target=site.take, args=[door])
        command.start()
        site.endpoint.close(f"race-{number}")
        calls = site.takes.calls
        command.join()
        assert site.takes.calls == calls


def test_closing_twice_or_closing_what_never_was_is_no_matter(site: Site) -> None:
    site.open()
    for attempt in ("attempt-1", "attempt-1", "never"):
        site.endpoint.close(attempt)


def test_one_attempt_is_not_opened_twice(site: Site) -> None:
    site.open()
    with pytest.raises(StorageFailure) as taken:
        site.open()
    assert taken.value.code == "storage.door-taken"


def test_a_guest_that_hangs_up_does_not_lose_the_point(site: Site) -> None:
    door = site.open()
    site.takes.may_end.clear()
    impatient = httpx.Client(verify=site.trusting(), timeout=httpx.Timeout(20, read=0.5))
    with impatient, pytest.raises(httpx.ReadTimeout):
        impatient.put(door.snapshot_urls["vda"] + "&comp=snapshot")
    site.takes.may_end.set()
    assert site.take(door).headers["x-ms-snapshot"] == TAKEN_TEXT
    assert site.takes.calls == 1


def test_a_slow_point_of_one_guest_does_not_keep_another_waiting(site: Site) -> None:
    slow = site.open("slow", vm="one")
    site.takes.may_end.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(site.take, slow)
        assert site.takes.began.wait(10)
        report = site.endpoint.open(
            "two", "quick", [], take=site.takes, reported=site.reports.append
        ).report_url
        assert site.upload(report, b"{}").status_code == 201
        assert not waiting.done()
        site.takes.may_end.set()


def test_a_point_for_which_there_is_no_thread_fails_and_closing_does_not_hang(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def no_more_threads(thread: threading.Thread) -> None:
        if thread.name.startswith("take-"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_more_threads)
    assert refusal_of(site.take(site.open())) == (500, "InternalError")
    closing = threading.Thread(target=site.endpoint.close, args=["attempt-1"], daemon=True)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()
    assert site.takes.calls == 0
