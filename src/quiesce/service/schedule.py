"""When runs are due: pure functions over a policy's local time of day.

A policy's day has one due instant. Where the local clock skips that time (summer time begins) the
run is due as much later as the clock skipped; where it shows the time twice, at the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

# A zone that moves over the date line skips or repeats a whole local day (Samoa, 2011).
_DAYS_AROUND = 2


def previous_due(at: time, zone: ZoneInfo, now: datetime) -> datetime:
    """The last due instant not after `now`, UTC."""
    return max(due for due in _around(at, zone, now) if due <= now)


def next_due(at: time, zone: ZoneInfo, after: datetime) -> datetime:
    """The first due instant after `after`, UTC."""
    return min(due for due in _around(at, zone, after) if due > after)


def due_run(at: time, zone: ZoneInfo, served_until: datetime, now: datetime) -> datetime | None:
    """The instant of the run that should start now, or None.

    However many runs were missed, one makes them up. `served_until` is the instant of the run
    that was started last, or when protection began.
    """
    latest = previous_due(at, zone, now)
    return latest if latest > served_until else None


def mended_after_clock_jump(
    at: time, zone: ZoneInfo, served_until: datetime, now: datetime
) -> datetime:
    """`served_until`, unless the clock was set back so far that it would hold up more than the
    next run: then the last due instant, so that the schedule goes on from today's clock."""
    if served_until > next_due(at, zone, now):
        return previous_due(at, zone, now)
    return served_until


def _around(at: time, zone: ZoneInfo, moment: datetime) -> Iterator[datetime]:
    today = moment.astimezone(zone).date()
    for days in range(-_DAYS_AROUND, _DAYS_AROUND + 1):
        # fold=0: the first of two equal local times; a skipped one is read with the offset from
        # before the gap, which lands as far behind the gap as it lay inside.
        local = datetime.combine(today + timedelta(days=days), at, tzinfo=zone).replace(fold=0)
        yield local.astimezone(UTC)
