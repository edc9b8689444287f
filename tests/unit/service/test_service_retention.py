"""Which points a policy keeps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from hypothesis import given
from hypothesis import strategies as st

from quiesce.model.point import RecoveryPoint
from quiesce.model.policy import Retention
from quiesce.model.snapshot import Consistency, ConsistencyLabel, Route
from quiesce.service.retention import plan_retention

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def point(number: int, taken_at: datetime) -> RecoveryPoint:
    return RecoveryPoint(
        id=f"{number:04}",
        vm="web",
        job_id=f"{number:012x}",
        taken_at=taken_at,
        committed_at=taken_at,
        route=Route.HOST,
        consistency=ConsistencyLabel(Consistency.CRASH),
        freeze=None,
        disks=(),
    )


instants = st.datetimes(
    datetime(2026, 1, 1),  # noqa: DTZ001 - the strategy adds the zone
    datetime(2026, 4, 10),  # noqa: DTZ001
    timezones=st.just(UTC),
)
histories = st.lists(instants, max_size=60).map(
    lambda all_taken: [point(number, taken) for number, taken in enumerate(all_taken)]
)
rules = st.builds(Retention, keep_last=st.integers(1, 20), keep_daily=st.integers(0, 20))
zones = st.sampled_from(sorted(available_timezones())).map(ZoneInfo)


@given(histories, rules, zones)
def test_every_point_is_either_kept_with_reasons_or_removed(
    points: list[RecoveryPoint], rule: Retention, zone: ZoneInfo
) -> None:
    plan = plan_retention(points, rule, zone, NOW)

    kept = [kept.point_id for kept in plan.kept]
    assert sorted(kept + [gone.id for gone in plan.removed]) == [point.id for point in points]
    assert all(kept.reasons for kept in plan.kept)
    assert not plan.executed


@given(histories, rules, zones)
def test_the_newest_and_the_last_n_of_the_past_and_all_of_the_future_stay(
    points: list[RecoveryPoint], rule: Retention, zone: ZoneInfo
) -> None:
    removed = {gone.id for gone in plan_retention(points, rule, zone, NOW).removed}

    by_time = sorted(points, key=lambda p: (p.taken_at, p.id))
    past = [p for p in by_time if p.taken_at <= NOW]
    future = [p for p in by_time if p.taken_at > NOW]
    assert not removed & {p.id for p in by_time[-1:]}
    assert not removed & {p.id for p in past[-rule.keep_last :]}
    assert not removed & {p.id for p in future}


@given(histories, rules, zones)
def test_applying_a_plan_twice_removes_nothing_more(
    points: list[RecoveryPoint], rule: Retention, zone: ZoneInfo
) -> None:
    removed = plan_retention(points, rule, zone, NOW).removed
    left = [p for p in points if p not in removed]

    assert plan_retention(left, rule, zone, NOW).removed == ()


@given(histories, rules, zones, st.timedeltas(timedelta(0), timedelta(days=4000)))
def test_a_clock_that_jumps_ahead_removes_no_more_than_the_rules_count(
    points: list[RecoveryPoint], rule: Retention, zone: ZoneInfo, jump: timedelta
) -> None:
    kept = plan_retention(points, rule, zone, NOW + jump).kept

    assert len(kept) >= min(len(points), rule.keep_last)


def test_a_point_just_made_by_a_clock_set_back_stays() -> None:
    old = [point(n, NOW - timedelta(days=n)) for n in range(10)]
    made = point(99, NOW - timedelta(days=400))

    plan = plan_retention(
        [*old, made], Retention(3, 0), ZoneInfo("UTC"), made.taken_at, just_made=made.id
    )

    assert plan.removed == ()


def test_a_day_is_that_of_the_policys_time_zone() -> None:
    # 22:30 and 23:30 UTC are one day in London and two in Berlin's winter.
    points = [
        point(1, datetime(2026, 1, 5, 22, 30, tzinfo=UTC)),
        point(2, datetime(2026, 1, 5, 23, 30, tzinfo=UTC)),
        point(3, datetime(2026, 1, 7, 12, 0, tzinfo=UTC)),
    ]

    def kept(zone: str) -> list[str]:
        plan = plan_retention(points, Retention(1, 7), ZoneInfo(zone), NOW)
        return [kept.point_id for kept in plan.kept]

    assert kept("Europe/London") == ["0003", "0002"]
    assert kept("Europe/Berlin") == ["0003", "0002", "0001"]
