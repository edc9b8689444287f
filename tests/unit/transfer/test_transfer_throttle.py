import threading

from hypothesis import given
from hypothesis import strategies as st
from transfer_memory import FakeClock

from quiesce.transfer.throttle import BURST_SECONDS, Throttle


def limited(rate):
    clock = FakeClock()
    return Throttle(rate, clock=clock, wait=clock.advance), clock


def test_without_a_limit_nobody_waits():
    throttle, clock = limited(0)
    for _ in range(10):
        throttle.take(1 << 40)
    assert clock() == 0


def test_a_request_larger_than_a_second_is_worth_waits_for_no_more_than_its_due():
    throttle, clock = limited(100)
    throttle.take(1000)
    assert clock() == 0
    throttle.take(1)
    assert 10 - BURST_SECONDS <= clock() <= 10


def test_an_idle_hour_is_not_made_up_for():
    throttle, clock = limited(100)
    throttle.take(10)
    clock.advance(3600)
    before = clock()
    for _ in range(11):
        throttle.take(100)
    assert clock() - before >= 10 - BURST_SECONDS


@given(
    rate=st.integers(1, 1 << 32),
    steps=st.lists(st.tuples(st.integers(1, 1 << 22), st.floats(0, 3)), min_size=1, max_size=40),
)
def test_no_stretch_of_time_sees_more_than_its_rate_one_burst_and_one_request(rate, steps):
    throttle, clock = limited(rate)
    let_through = []
    for length, idle in steps:
        clock.advance(idle)
        throttle.take(length)
        let_through.append((clock(), length))
    for first, (began, _) in enumerate(let_through):
        total = 0
        for at, length in let_through[first:]:
            allowed = rate * (at - began + BURST_SECONDS)
            assert total <= allowed * (1 + 1e-6) + 1
            total += length


@given(st.lists(st.integers(1, 1 << 22), min_size=2, max_size=40), st.integers(1, 1 << 30))
def test_whoever_always_wants_more_gets_all_of_the_rate(lengths, rate):
    throttle, clock = limited(rate)
    for length in lengths:
        throttle.take(length)
    assert clock() <= sum(lengths[:-1]) / rate * (1 + 1e-6) + 1e-6


def test_stopping_lets_go_of_who_waits_and_of_who_comes():
    throttle = Throttle(1)
    throttle.take(1 << 20)
    waiting = threading.Thread(target=throttle.take, args=(1,))
    waiting.start()
    throttle.stop()
    waiting.join(30)
    assert not waiting.is_alive()
    throttle.take(1)
