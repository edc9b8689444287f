"""Object stores on bad days: lost answers, throttling, refusals, buckets that go or come back
empty."""

from __future__ import annotations

from pathlib import Path

import pytest
from cloud_scene import Clouds, Place, place_in
from cloud_servers import Cut, Lost, Reply, Rule, Way
from vault_scene import FakeClock, Scene, disk_of, random_bytes

from quiesce.model.failure import Failure, StorageFailure
from quiesce.vault.stores import object_store
from quiesce.vault.stores.address import parse_address
from quiesce.vault.stores.cloud import connector
from quiesce.vault.stores.object_store import ObjectStore
from quiesce.vault.stores.store import ObjectMissing, Put

PACK = "packs/00/" + "a" * 64
SLOW_DOWN = Reply(503, "<Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>")
DENIED = Reply(403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")


@pytest.fixture
def place(clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return place_in(clouds.get("s3"), tmp_path, monkeypatch)


@pytest.fixture
def pauses() -> list[float]:
    """The pauses between tries, which nobody waits for."""
    return []


@pytest.fixture
def store(place: Place, pauses: list[float]) -> ObjectStore:
    return ObjectStore.create(
        connector(parse_address(place.address)), place.address, sleep=pauses.append
    )


def code_of(ask: object) -> str:
    with pytest.raises(StorageFailure) as refused:
        ask()  # type: ignore[operator]
    return refused.value.code


def test_a_put_whose_answer_got_lost_is_still_the_one_that_created(
    place: Place, store: ObjectStore
) -> None:
    for key, data in (("sessions/gc", b"mine"), (PACK, random_bytes(1, 2_000_000))):
        rules(place).append(Rule("PUT", key, Lost()))
        assert store.put(key, data) is Put.CREATED
        assert store.get(key, limit_bytes=len(data)) == data
        assert store.put(key, data) is Put.ALREADY_THERE


def test_an_object_that_another_put_while_answers_got_lost_is_not_taken_for_ones_own(
    place: Place, store: ObjectStore
) -> None:
    place.open().put("sessions/gc", b"other")
    rules(place).append(Rule("PUT", "sessions/gc", Lost()))
    assert store.put("sessions/gc", b"mine!") is Put.ALREADY_THERE
    assert store.get("sessions/gc", limit_bytes=10) == b"other"


def test_a_server_that_asks_for_patience_gets_it(
    place: Place, store: ObjectStore, pauses: list[float]
) -> None:
    rules(place).extend([Rule(method, "points", SLOW_DOWN, 3) for method in ("PUT", "GET", "HEAD")])
    assert store.put("points/one", b"1") is Put.CREATED
    assert store.get("points/one", limit_bytes=1) == b"1"
    assert store.stat("points/one").size_bytes == 1
    assert len(pauses) == 9
    assert pauses[0] < pauses[1] < pauses[2]


def test_patience_ends_within_a_minute(
    place: Place, store: ObjectStore, pauses: list[float]
) -> None:
    rules(place).append(Rule("PUT", "points", SLOW_DOWN, 1000))
    with pytest.raises(StorageFailure) as refused:
        store.put("points/one", b"1")
    assert refused.value.code == "storage.throttled"
    assert refused.value.retryable
    assert 10 < sum(pauses) < 60
    rules(place).clear()
    assert store.put("points/one", b"1") is Put.CREATED


def test_an_answer_that_breaks_off_is_asked_for_again(place: Place, store: ObjectStore) -> None:
    pack = random_bytes(2, 3_000_000)
    store.put(PACK, pack)
    rules(place).append(Rule("GET", PACK, Cut(), 2))
    assert store.get(PACK, limit_bytes=len(pack)) == pack
    rules(place).append(Rule("GET", PACK, Cut()))
    assert store.get_range(PACK, 1000, 2_000_000) == pack[1000:2_001_000]


def test_a_list_of_many_pages_survives_pages_that_fail(
    place: Place, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"sessions/{number:02}" for number in range(35)]
    for name in names:
        store.put(name, b"")
    assert place.cloud is not None
    paged = Way(f"http://{place.cloud.way._target.netloc}", _in_pages_of_ten)
    monkeypatch.setenv("AWS_ENDPOINT_URL", paged.url)
    monkeypatch.setattr(object_store, "_PAGE", 10)
    store._renew(store._clients)

    paged.rules.append(Rule("GET", "list-type", Reply(500)))
    listing = store.list("sessions/")
    first = [next(listing).key for _ in range(10)]
    paged.rules.append(Rule("GET", "list-type", Reply(500)))
    assert [*first, *(info.key for info in listing)] == names
    assert len([seen for seen in paged.seen if seen.status == 200]) >= 4
    paged.close()


def test_a_server_that_is_down_is_told_as_such(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = Way("http://127.0.0.1:1")
    way.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", way.url)
    store._renew(store._clients)
    assert code_of(lambda: store.get("points/one", limit_bytes=1)) == "storage.unreachable"


def test_what_these_credentials_may_not_do_is_denied_at_once(
    place: Place, store: ObjectStore, pauses: list[float]
) -> None:
    store.put("points/one", b"1")
    rules(place).append(Rule("DELETE", "points", DENIED, 9))
    with pytest.raises(StorageFailure, match="delete") as refused:
        store.delete("points/one")
    assert refused.value.code == "storage.denied"
    assert pauses == []


def test_whoever_may_only_read_can_open_and_restore(place: Place, clock: FakeClock) -> None:
    scene = Scene.create(place.create(), clock)
    point = scene.backup("one", disk_of(1, 2))
    rules(place).append(Rule("PUT", "/", DENIED, 1000))
    reader = scene.reopened(place.open())
    assert reader.restore(point) == disk_of(1, 2)
    with pytest.raises(Failure) as refused:
        reader.backup("two", disk_of(3))
    assert refused.value.code == "storage.denied"


def test_credentials_that_may_create_and_not_overwrite_are_enough(
    place: Place, store: ObjectStore
) -> None:
    store.put("points/one", b"1")
    rules(place).append(Rule("PUT", "quiesce-store", DENIED, 1000))
    rules(place).append(Rule("PUT", "points/one", DENIED, 1000))
    host = place.open()
    assert host.put("points/one", b"1") is Put.ALREADY_THERE
    assert host.put("points/two", b"2") is Put.CREATED


def test_whoever_may_not_delete_can_back_up(place: Place, clock: FakeClock) -> None:
    Scene.create(place.create(), clock)
    rules(place).append(Rule("DELETE", "/", DENIED, 1000))
    scene = Scene.at(place.open(), clock)
    points = [scene.backup(job, disk_of(n, 2)) for n, job in ((1, "one"), (3, "two"))]
    assert set(scene.reopened(place.open()).vault.points()) == set(points)


@pytest.mark.parametrize("said", ["ExpiredToken", "InvalidAccessKeyId"])
def test_credentials_that_somebody_renewed_are_found(
    place: Place, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    refused = Reply(403 if said[0] == "I" else 400, f"<Error><Code>{said}</Code></Error>")
    store.put("points/one", b"1")
    rules(place).append(Rule("GET", "points", refused))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "renewed")
    before = store._clients
    assert store.get("points/one", limit_bytes=1) == b"1"
    assert store._clients is not before


def test_credentials_that_expired_for_good_end_the_work_with_a_way_on(
    place: Place, store: ObjectStore
) -> None:
    expired = "<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>"
    rules(place).append(Rule("PUT", "points", Reply(400, expired), 1000))
    with pytest.raises(StorageFailure) as refused:
        store.put("points/one", b"1")
    assert refused.value.code == "storage.credentials-refused"
    assert refused.value.retryable
    assert "renew" in refused.value.remedy


def test_a_bucket_that_is_gone_is_not_a_vault_without_objects(
    place: Place, store: ObjectStore
) -> None:
    store.put("points/one", b"1")
    assert place.cloud is not None
    place.cloud.remove_bucket(parse_address(place.address).bucket)
    for ask in (
        lambda: store.put("points/two", b"2"),
        lambda: store.get("points/one", limit_bytes=1),
        lambda: store.get_range("points/one", 0, 1),
        lambda: store.stat("points/one"),
        lambda: list(store.list("points/")),
        lambda: store.delete("points/one"),
    ):
        assert code_of(ask) == "storage.vanished"


def test_an_emptied_bucket_is_not_a_vault_without_objects(place: Place, store: ObjectStore) -> None:
    store.put("points/one", b"1")
    empty(place)
    assert code_of(lambda: store.get("points/one", limit_bytes=1)) == "storage.vanished"
    assert code_of(place.open) == "storage.vanished"


def test_another_store_in_the_same_place_is_noticed(place: Place, store: ObjectStore) -> None:
    store.put("points/one", b"1")
    empty(place)
    place.create()
    with pytest.raises(StorageFailure, match="Another store") as refused:
        store.get("points/one", limit_bytes=1)
    assert refused.value.code == "storage.vanished"
    assert not isinstance(refused.value, ObjectMissing)


def test_a_place_with_other_objects_is_left_alone(place: Place, store: ObjectStore) -> None:
    below = place.address.rpartition("/")[0]
    assert code_of(lambda: Place(below, place.cache).create()) == "storage.not-empty"
    beside = Place(below + "/two", place.cache)
    beside.create().put("points/one", b"beside")
    assert list(store.list("points/")) == []


@pytest.mark.parametrize("answer", [None, Reply(501, "<Error><Code>NotImplemented</Code></Error>")])
def test_a_server_that_would_overwrite_is_refused_before_anything_is_written(
    place: Place, monkeypatch: pytest.MonkeyPatch, answer: Reply | None
) -> None:
    place.create().put("points/one", b"1")
    assert place.cloud is not None
    careless = Way(f"http://{place.cloud.way._target.netloc}", _without_condition)
    if answer is not None:
        careless.rules.append(Rule("PUT", "/", answer, 1000))
    monkeypatch.setenv("AWS_ENDPOINT_URL", careless.url)
    other = Place(place.address, place.cache)
    assert code_of(other.open) == "storage.no-conditional-put"
    written = {seen.path.rpartition("/")[2] for seen in careless.seen if seen.method == "PUT"}
    assert written == {"quiesce-store"}
    careless.close()


@pytest.mark.parametrize("trouble", [Lost(), SLOW_DOWN], ids=["lost", "busy"])
def test_a_busy_server_is_not_taken_for_one_that_would_overwrite(
    place: Place, store: ObjectStore, trouble: Lost | Reply
) -> None:
    rule = Rule("PUT", "quiesce-store", trouble)
    rules(place).append(rule)
    place.open().put("points/one", b"1")
    assert not rule.times, "it met the proof"


def _in_pages_of_ten(path: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    return (f"{path}&max-keys=10" if "list-type" in path else path), headers


def _without_condition(path: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    return path, {name: v for name, v in headers.items() if name.lower() != "if-none-match"}


def rules(place: Place) -> list[Rule]:
    assert place.cloud is not None
    return place.cloud.way.rules


def empty(place: Place) -> None:
    assert place.cloud is not None
    bucket = parse_address(place.address).bucket
    place.cloud.remove_bucket(bucket)
    place.cloud.make_bucket(bucket)
