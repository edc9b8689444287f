"""The store that fails on purpose fails as it says: what the proofs beside this file stand on."""

from __future__ import annotations

import pytest
from faulty_store import Fault, FaultyStore, Killed, Rule, seeded
from paper_store import PaperStore, StaleLists
from vault_scene import FakeClock, Scene, disk_of

from quiesce.model.failure import Failure
from quiesce.vault.stores.store import ObjectMissing, Put

WITHOUT_EFFECT = {
    Fault.BEFORE: "storage.io-error",
    Fault.THROTTLED: "storage.rate-limit",
    Fault.FULL: "storage.full",
    Fault.READ_ONLY: "storage.read-only",
    Fault.EXPIRED: "storage.auth-failed",
    Fault.LOCKED: "storage.locked",
}


@pytest.fixture
def store(clock: FakeClock) -> FaultyStore:
    return FaultyStore(PaperStore(clock), pass_time=lambda seconds: clock.advance(seconds=seconds))


def keys(store: FaultyStore) -> list[str]:
    return sorted(info.key for info in store.list("points/"))


@pytest.mark.parametrize(("fault", "code"), WITHOUT_EFFECT.items())
def test_a_refusal_has_its_code_and_no_effect(store: FaultyStore, fault: Fault, code: str) -> None:
    store.rules.append(Rule("put", fault, "points/"))
    with pytest.raises(Failure) as caught:
        store.put("points/a", b"a")
    assert caught.value.code == code
    assert caught.value.retryable == (fault in (Fault.BEFORE, Fault.THROTTLED))
    assert keys(store) == []
    assert store.put("points/a", b"a") is Put.CREATED


def test_a_lost_answer_comes_after_the_effect(store: FaultyStore) -> None:
    store.rules += [Rule("put", Fault.AFTER), Rule("delete", Fault.AFTER)]
    with pytest.raises(Failure):
        store.put("points/a", b"a")
    assert store.put("points/a", b"a") is Put.ALREADY_THERE
    with pytest.raises(Failure):
        store.delete("points/a")
    assert keys(store) == []


def test_a_partial_write_leaves_a_piece_that_is_no_object(store: FaultyStore) -> None:
    store.rules.append(Rule("put", Fault.PARTIAL))
    with pytest.raises(Failure):
        store.put("points/a", b"abcdef")
    assert keys(store) == []
    (piece,) = store.list("tmp/")
    assert piece.size_bytes == 3


def test_a_change_delivered_twice_answers_as_the_second(store: FaultyStore) -> None:
    store.rules.append(Rule("put", Fault.TWICE))
    assert store.put("points/a", b"a") is Put.ALREADY_THERE
    store.rules[:] = [Rule("delete", Fault.ECHO)]
    store.delete("points/a")
    store.inner.put("points/a", b"somebody else's")
    assert keys(store) == [], "the late duplicate hits the other's object"


def test_a_late_change_fails_and_happens_before_the_next_call(store: FaultyStore) -> None:
    store.rules.append(Rule("put", Fault.LATE))
    with pytest.raises(Failure):
        store.put("points/a", b"a")
    assert list(store.inner.list("points/")) == []
    assert store.get("points/a", limit_bytes=10) == b"a"


@pytest.mark.parametrize("fault", [Fault.WRONG_BYTES, Fault.SHORT])
def test_a_lying_read_differs_from_what_is_stored(store: FaultyStore, fault: Fault) -> None:
    store.put("points/a", b"abcdef")
    store.rules.append(Rule("get", fault))
    assert store.get("points/a", limit_bytes=10) != b"abcdef"
    assert store.get("points/a", limit_bytes=10) == b"abcdef"


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault.BAD_SECTOR, "storage.io-error"), (Fault.TOO_LONG, "storage.object-too-large")],
)
def test_an_object_that_cannot_be_read_stays_so_until_it_is_another(
    store: FaultyStore, fault: Fault, code: str
) -> None:
    store.put("points/a", b"abcdef")
    store.rules.append(Rule("get", fault))
    for _ in range(2):
        with pytest.raises(Failure) as caught:
            store.get("points/a", limit_bytes=10)
        assert caught.value.code == code
    assert store.stat("points/a").size_bytes == 6
    store.delete("points/a")
    store.put("points/a", b"abcdef")
    assert store.get("points/a", limit_bytes=10) == b"abcdef"


def test_a_bad_sector_on_paper_hurts_the_reads_that_touch_it() -> None:
    store = PaperStore()
    store.put("points/a", b"abcdef")
    store.bad_sectors["points/a"] = 2, 4
    assert store.get_range("points/a", 0, 2) + store.get_range("points/a", 4, 9) == b"abef"
    for read in (
        lambda: store.get_range("points/a", 0, 3),
        lambda: store.get_range("points/a", 3, 3),
        lambda: store.get("points/a", limit_bytes=9),
    ):
        with pytest.raises(Failure) as caught:
            read()
        assert caught.value.code == "storage.io-error"
    store.delete("points/a")
    store.put("points/a", b"abcdef")
    assert store.get("points/a", limit_bytes=9) == b"abcdef"


def test_a_slow_call_takes_its_time_from_the_fake_clock(
    store: FaultyStore, clock: FakeClock
) -> None:
    before = clock.now
    store.rules.append(Rule("", Fault.SLOW))
    store.put("points/a", b"a")
    assert (clock.now - before).total_seconds() == 60


@pytest.mark.parametrize("death", [Fault.KILLED_BEFORE, Fault.KILLED_PARTIAL, Fault.KILLED_AFTER])
def test_the_dead_do_nothing_more(store: FaultyStore, death: Fault) -> None:
    store.rules.append(Rule("put", death))
    with pytest.raises(Killed):
        store.put("points/a", b"a")
    for act in (lambda: store.put("points/b", b""), lambda: store.delete("points/a")):
        with pytest.raises(Killed):
            act()
    assert [info.key for info in store.inner.list("points/")] == (
        ["points/a"] if death is Fault.KILLED_AFTER else []
    )


def test_every_call_is_written_down_with_the_number_of_its_change(store: FaultyStore) -> None:
    store.put("points/a", b"a")
    store.stat("points/a")
    store.delete("points/a")
    assert [(str(call), call.change) for call in store.log] == [
        ("put points/a", 1),
        ("stat points/a", 0),
        ("delete points/a", 2),
    ]


def test_faults_by_a_seed_come_again_with_it(clock: FakeClock) -> None:
    def course(seed: int) -> list[str]:
        store = FaultyStore(PaperStore(clock))
        store.faults = seeded(seed, chance=0.3)
        said = []
        for number in range(50):
            try:
                said.append(str(store.put(f"points/{number}", b"x")))
            except Failure as failure:
                said.append(failure.code)
        return said

    assert course(1) == course(1)
    assert course(1) != course(2)
    assert "storage.rate-limit" in course(1) + course(2)


def test_lists_lag_behind_and_reads_do_not(clock: FakeClock) -> None:
    store = StaleLists(PaperStore(clock), clock, lag_seconds=60)

    def listed() -> list[str]:
        return sorted(info.key for info in store.list("points/"))

    store.put("points/old", b"o")
    clock.advance(minutes=5)
    store.put("points/new", b"n")
    store.delete("points/old")
    assert listed() == ["points/old"]
    assert store.get("points/new", limit_bytes=9) == b"n"
    with pytest.raises(ObjectMissing):
        store.stat("points/old")
    clock.advance(seconds=61)
    assert listed() == ["points/new"]


def test_a_vault_works_in_memory(clock: FakeClock) -> None:
    scene = Scene.create(PaperStore(clock), clock)
    point = scene.backup("one", disk_of(1, 2, 0, tail=5))
    assert scene.reopened().restore(point) == disk_of(1, 2, 0, tail=5)
