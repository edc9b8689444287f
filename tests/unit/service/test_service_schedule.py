"""When runs are due, in every time zone and whatever the clock does."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paper_machine import FakeClock, PaperMachine, ended

from quiesce.service.schedule import (
    due_run,
    mended_after_clock_jump,
    next_due,
    previous_due,
)
from quiesce.service.service import Service

zones = st.sampled_from(sorted(available_timezones())).map(ZoneInfo)
times = st.times().map(lambda t: t.replace(second=0, microsecond=0, fold=0))
moments = st.datetimes(
    datetime(1990, 1, 1),  # noqa: DTZ001 - the strategy adds the zone
    datetime(2060, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(times, zones, moments)
def test_due_instants_lie_around_now_and_less_than_two_days_apart(
    at: time, zone: ZoneInfo, now: datetime
) -> None:
    before, after = previous_due(at, zone, now), next_due(at, zone, now)

    assert before <= now < after
    # Up to 25 h where summer time ends; Samoa and others once jumped over a whole day.
    assert after - before <= timedelta(hours=50)
    assert next_due(at, zone, before) == after
    assert previous_due(at, zone, after) == after


@given(times, zones, moments)
def test_a_due_instant_shows_the_wanted_local_time_or_lies_behind_a_skipped_one(
    at: time, zone: ZoneInfo, now: datetime
) -> None:
    due = next_due(at, zone, now)
    local = due.astimezone(zone)

    if local.time() != at:
        wanted = datetime.combine(local.date(), at, tzinfo=zone)
        skipped = wanted.astimezone(UTC).astimezone(zone).time() != at
        other_day = wanted - timedelta(days=1)
        assert skipped or other_day.astimezone(UTC).astimezone(zone).date() != other_day.date()


@given(times, zones, moments, st.lists(st.integers(1, 40 * 3600), max_size=30))
def test_a_clock_that_goes_forward_runs_each_due_instant_once_and_misses_none_for_long(
    at: time, zone: ZoneInfo, start: datetime, steps: list[int]
) -> None:
    served, now, runs = start, start, []
    for step in steps:
        now += timedelta(seconds=step)
        due = due_run(at, zone, served, now)
        if due is not None:
            runs.append(due)
            served = due
        assert served >= previous_due(at, zone, now) or previous_due(at, zone, now) <= start

    assert runs == sorted(set(runs))


@given(times, zones, moments, st.timedeltas(timedelta(0), timedelta(days=3000)))
def test_a_clock_set_back_neither_runs_twice_nor_stops_the_schedule(
    at: time, zone: ZoneInfo, now: datetime, back: timedelta
) -> None:
    served = previous_due(at, zone, now)
    earlier = now - back

    mended = mended_after_clock_jump(at, zone, served, earlier)

    assert due_run(at, zone, mended, earlier) is None
    following = next_due(at, zone, next_due(at, zone, earlier))
    assert due_run(at, zone, mended, following) is not None


def test_the_hour_that_summer_time_skips_and_the_one_it_repeats() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    half_past_two = time(2, 30)

    spring = next_due(half_past_two, berlin, datetime(2026, 3, 28, 12, tzinfo=UTC))
    autumn = next_due(half_past_two, berlin, datetime(2026, 10, 24, 12, tzinfo=UTC))

    assert spring == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)  # 03:30 local
    assert autumn == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # the first 02:30
    assert next_due(half_past_two, berlin, autumn) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def _protect(service: Service) -> None:
    service.policies.change(replace(service.policies.show("daily"), at="01:00", zone="UTC"))
    service.vms.protect("web", "daily")


def test_a_protected_vm_is_backed_up_at_its_time_and_only_once(
    service: Service, clock: FakeClock
) -> None:
    _protect(service)
    assert service.ticker.tick() == ()

    clock.time = datetime(2026, 3, 11, 1, 0, tzinfo=UTC)
    assert service.ticker.tick() == ("web",)
    assert service.ticker.tick() == ()

    job = ended(service, service.jobs.newest()[0])
    assert (job.trigger, job.status) == ("schedule", "Completed")
    assert service.vms.show("web").next_run == datetime(2026, 3, 12, 1, 0, tzinfo=UTC)


def test_days_of_missed_runs_are_made_up_by_one(service: Service, clock: FakeClock) -> None:
    _protect(service)

    clock.time = datetime(2026, 3, 15, 9, 0, tzinfo=UTC)

    assert service.ticker.tick() == ("web",)
    ended(service, service.jobs.newest()[0])
    assert service.ticker.tick() == ()


def test_a_run_due_while_a_backup_is_active_is_made_up_when_that_has_ended(
    service: Service, clock: FakeClock, machine: PaperMachine
) -> None:
    _protect(service)
    machine.hold("prepare")
    by_hand = service.jobs.start_backup("web")
    clock.time = datetime(2026, 3, 11, 1, 0, tzinfo=UTC)
    assert service.ticker.tick() == ()

    machine.let_go("prepare")
    ended(service, by_hand)

    assert service.ticker.tick() == ("web",)
    ended(service, service.jobs.newest()[0])


def test_a_clock_set_back_a_year_does_not_stop_the_schedule_for_a_year(
    service: Service, clock: FakeClock
) -> None:
    clock.time = datetime(2027, 3, 10, 12, tzinfo=UTC)
    _protect(service)
    clock.time = datetime(2026, 3, 10, 12, tzinfo=UTC)
    assert service.ticker.tick() == ()

    clock.time = datetime(2026, 3, 11, 1, 0, tzinfo=UTC)

    assert service.ticker.tick() == ("web",)
    ended(service, service.jobs.newest()[0])


def test_a_defect_in_the_reconciliation_does_not_stop_the_schedule(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticked = threading.Event()

    def broken() -> None:
        raise ZeroDivisionError

    ticker = service.ticker
    monkeypatch.setattr(ticker._workflows, "reconcile", broken)
    monkeypatch.setattr(ticker, "tick", ticked.set)
    ticker.start()

    assert ticked.wait(10)
    ticker.stop()
