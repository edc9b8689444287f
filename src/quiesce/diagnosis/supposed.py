"""What is supposed where nothing has failed: which ways lead to the VM, and which news are old."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from quiesce.diagnosis.conditions import Seen
from quiesce.model.diagnosis import Fact

ROUTE = "failed.route"
NEVER = datetime.min.replace(tzinfo=UTC)
"""When something is concluded and not observed."""
_NO_NEWS = timedelta(days=7)
"""What the agent has complained of longer ago, and went on since, is not what is wrong now."""
_DOWN = ("inactive", "failed")
"""Of a unit that is to start at boot: somebody, or something, has ended it."""


def routes(seen: Seen) -> Iterator[tuple[Fact, ...]]:
    """No route, and each that this VM has; without a server to ask, each whose agent serves."""
    yield ()
    for route, agent, other in (("host", "qga", "waagent"), ("guest", "waagent", "qga")):
        configured = seen.value(f"{agent}.configured")
        if configured or (configured is None and _serves(agent, other, seen)):
            yield (Fact(ROUTE, route, f"the VM has the {route} route", "supposed", NEVER),)


def _serves(agent: str, other: str, seen: Seen) -> bool:
    """Many systems ship with both agents, and one of them has nothing to talk to: QEMU's where the
    VM has no port, the Azure one, switched off, where there is no Azure. So one that is down
    counts only where the other is, too, or where it was to start at every boot, as a unit of the
    Azure agent is that nobody has disabled; QEMU's waits for its port."""
    if _is_up(agent, seen):
        return True
    meant = agent == "waagent" and seen.value("waagent.unit") in _DOWN
    return seen.value(f"{agent}.installed") is True and (meant or not _is_up(other, seen))


def _is_up(agent: str, seen: Seen) -> bool:
    return (
        seen.value(f"{agent}.process") in ("running", "stopped", "blocked")
        or seen.value(f"{agent}.unit") in ("active", "activating")
        or seen.value(f"{agent}.answers") is True
    )


def of_now(facts: Sequence[Fact]) -> Iterator[Fact]:
    """Without a complaint of the agent's that is long past by its own log."""
    seen = Seen(facts)
    yield from (fact for fact in facts if fact.name != "waagent.says" or not _is_old(fact, seen))


def _is_old(complaint: Fact, seen: Seen) -> bool:
    """Whether the agent has written on for long since. Its log has the guest's clock, which may be
    wrong; when the log was looked at is known by ours."""
    age, ahead = seen.fact("waagent.log-age-seconds"), seen.value("guest.clock-ahead-seconds")
    if age is None:
        return False
    passed = (age.observed_at - complaint.observed_at).total_seconds()
    return passed + float(ahead or 0) - float(age.value) > _NO_NEWS.total_seconds()
