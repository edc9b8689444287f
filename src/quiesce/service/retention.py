"""Which points a policy keeps: a pure function from points, rules and now to a plan."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from quiesce.model.point import RecoveryPoint
from quiesce.model.policy import Retention
from quiesce.service.views import DeletionPlan, KeptPoint

_CLOCK_TOLERANCE = timedelta(minutes=5)


def plan_retention(
    points: Collection[RecoveryPoint],
    rules: Retention,
    zone: ZoneInfo,
    now: datetime,
    *,
    just_made: str = "",
) -> DeletionPlan:
    """What of one VM's points is kept and why, and what is removed.

    The rules count points and days, they never measure an age, so a clock that jumps ahead
    removes nothing by itself. A point dated in the future was made before the clock was set back:
    it is kept, and does not take a place from points made since. The newest point and the one
    with the id `just_made` are always kept.
    """
    newest_first = sorted(points, key=lambda point: (point.taken_at, point.id), reverse=True)
    reasons: dict[str, list[str]] = {point.id: [] for point in newest_first}
    present = [point for point in newest_first if point.taken_at <= now + _CLOCK_TOLERANCE]
    for point in newest_first[: len(newest_first) - len(present)]:
        reasons[point.id].append("dated in the future: the clock was set back since")
    for point in newest_first[:1]:
        reasons[point.id].append("newest")
    if just_made in reasons:
        reasons[just_made].append("just made")
    for place, point in enumerate(present[: rules.keep_last], start=1):
        reasons[point.id].append(f"last {rules.keep_last}: number {place}")
    for point in _newest_of_each_day(present, zone)[: rules.keep_daily]:
        day = point.taken_at.astimezone(zone).date()
        reasons[point.id].append(f"daily {rules.keep_daily}: newest of {day}")
    return DeletionPlan(
        removed=tuple(point for point in newest_first if not reasons[point.id]),
        kept=tuple(
            KeptPoint(point.id, point.taken_at, tuple(reasons[point.id]))
            for point in newest_first
            if reasons[point.id]
        ),
    )


def among_shown(plan: DeletionPlan, shown: Collection[str] | None) -> DeletionPlan:
    """Of the points to be removed, those with ids in `shown`, or all for None. The rules may have
    come to let go of others since someone saw a plan and agreed to it: those stay this time."""
    if shown is None:
        return plan
    later = [point for point in plan.removed if point.id not in shown]
    reason = ("not among the points that were shown before",)
    stay = (KeptPoint(point.id, point.taken_at, reason) for point in later)
    return replace(
        plan,
        removed=tuple(point for point in plan.removed if point.id in shown),
        kept=tuple(sorted((*plan.kept, *stay), key=lambda kept: kept.taken_at, reverse=True)),
    )


def _newest_of_each_day(
    newest_first: Sequence[RecoveryPoint], zone: ZoneInfo
) -> list[RecoveryPoint]:
    by_day: dict[object, RecoveryPoint] = {}
    for point in newest_first:
        by_day.setdefault(point.taken_at.astimezone(zone).date(), point)
    return list(by_day.values())
