"""Whether the guest came to the storage endpoint for the job's snapshot, and what it was told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from quiesce.model.diagnosis import Fact
from quiesce.model.snapshot import Route
from quiesce.service.clock import Clock
from quiesce.service.guest_side import GuestSide
from quiesce.service.looks.panel import Case, Found
from quiesce.storage.journal import Seen

CHANNEL = "storage endpoint's log"
_SNAPSHOT = "snapshot"
"""The query's `comp` of Azure's Snapshot Blob."""
_SLACK = timedelta(seconds=5)


class EndpointLook:
    """The log is lost with a restart: that nothing is in it means something only for a job that
    began after this server did."""

    def __init__(self, guest_side: GuestSide, clock: Clock) -> None:
        self._guest_side = guest_side
        self._born = clock.now()

    def __call__(self, case: Case, _: Found) -> Found:
        job = case.job
        if job is None or job.started_at is None or not case.address.agent.waagent:
            return Found()
        since, until = job.started_at, (job.ended_at or case.now) + _SLACK
        asked = [
            seen
            for seen in self._guest_side.recent(case.vm)
            if seen.operation == _SNAPSHOT and since <= seen.at <= until
        ]
        remembered = job.started_at >= self._born and case.route is Route.GUEST
        if not asked and not remembered:
            return Found()
        return Found(tuple(_facts(asked, case.now)), channels=(CHANNEL,))


def _facts(asked: Sequence[Seen], now: datetime) -> Iterator[Fact]:
    raw = "\n".join(
        f"{seen.at:%H:%M:%S} {seen.method} {seen.path} {seen.status} {seen.code}".rstrip()
        for seen in asked
    )
    if not asked:
        words = "the guest has not asked the storage endpoint for the snapshot"
        yield Fact("endpoint.asked", False, words, CHANNEL, now)
        return
    last = asked[-1]
    words = f"the guest has asked for the snapshot {len(asked)} times"
    yield Fact("endpoint.asked", True, words, CHANNEL, last.at, raw)
    words = f"the storage endpoint's last answer was {last.status} {last.code}".rstrip()
    yield Fact("endpoint.status", float(last.status), words, CHANNEL, last.at, raw)
    yield Fact("endpoint.code", last.code, words, CHANNEL, last.at, raw)
    taken = any(200 <= seen.status < 300 for seen in asked)
    words = "the snapshot was taken" if taken else "no snapshot was taken"
    yield Fact("endpoint.taken", taken, words, CHANNEL, last.at, raw)
