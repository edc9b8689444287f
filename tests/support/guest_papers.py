"""Papers of made-up guests, in the words that real ones print."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from quiesce.diagnosis.reading import facts_of
from quiesce.model.diagnosis import Fact, FactValue
from quiesce.model.papers import COMMAND, Paper, Papers

NOW = datetime(2026, 11, 23, 2, 30, 0, tzinfo=UTC)
"""When the papers were taken."""

UNITS_OF_DEBIAN = """\
NRestarts=0
Result=success
ExecMainStatus=0
Environment=
Id=walinuxagent.service
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled

NRestarts=0
Result=success
ExecMainStatus=0
Environment=
Id=waagent.service
LoadState=not-found
ActiveState=inactive
SubState=dead
UnitFileState=

NRestarts=0
Result=success
ExecMainStatus=0
Environment=
Id=qemu-guest-agent.service
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=static

NRestarts=0
Id=qemu-ga.service
LoadState=not-found
ActiveState=inactive
SubState=dead
"""
UNITS_OF_SUSE = """\
Id=walinuxagent.service
LoadState=not-found
ActiveState=inactive

Id=waagent.service
LoadState=loaded
ActiveState=failed
SubState=failed
UnitFileState=enabled
Result=exit-code
"""
PROCESSES = """\
    PID    PPID STAT ELAPSED %CPU   RSS COMMAND
      1       0 Ss      4000  0.1 12000 /sbin/init
    412       1 Ss      3990  0.2 30000 /usr/bin/python3 -u /usr/sbin/waagent -daemon
    460       1 Ssl     3990  0.0  4000 /usr/sbin/qemu-ga
    512     412 Sl      3980  0.4 40000 python3 -u /usr/sbin/waagent -run-exthandlers
"""
LOG_OF_GOOD_AGENT = """\
2026-11-23T02:10:01.100000Z INFO Daemon Daemon Azure Linux Agent Version:2.7.3.0
2026-11-23T02:10:01.200000Z INFO Daemon Daemon OS: debian 12.10
2026-11-23T02:10:02.100000Z INFO Daemon Daemon Wire server endpoint:168.63.129.16
2026-11-23T02:10:03Z INFO ExtHandler Agent WALinuxAgent-2.7.3.0 is running as the goal state agent
2026-11-23T02:10:04Z INFO ExtHandler ExtHandler ProcessExtensionsGoalState started [i_1]
2026-11-23T02:10:04.100000Z INFO ExtHandler [Quiesce.VmBackup-0.2.0.1] Target handler state: enabled
2026-11-23T02:10:05.000000Z INFO ExtHandler [Quiesce.VmBackup-0.2.0.1] Command: handler.sh enable
[stdout]

[stderr]

2026-11-23T02:10:06Z INFO ExtHandler ExtHandler ProcessExtensionsGoalState completed [i_1 9 ms]
"""


def paper(path: str, text: str = "", **more: object) -> Paper:
    return Paper(path, text, len(text.encode()), **more)  # type: ignore[arg-type]


def command(name: str, text: str, status: int = 0) -> Paper:
    return paper(COMMAND + name, text, status=status)


ROOTS_VIEW = command(
    "access",
    "uid 0\nlisted /var/lib/waagent\nabsent /var/lib/quiesce\nabsent /run/quiesce\n",
)
"""Of root: what he does not see is not there."""
USERS_VIEW = command(
    "access",
    "uid 1000\nrefused /var/lib/waagent\nabsent /var/lib/quiesce\nabsent /run/quiesce\n",
)


def missing(path: str, why: str = "No such file or directory") -> Paper:
    return Paper(path, problem=why)


def papers(*all_of: Paper, taken_at: datetime | None = NOW, clock_ahead: float = 0.0) -> Papers:
    received = taken_at - timedelta(seconds=clock_ahead) if taken_at else None
    return Papers(tuple(all_of), "the guest", taken_at, received)


def facts(*all_of: Paper, taken_at: datetime | None = NOW) -> dict[str, Fact]:
    """Facts by name; each name once."""
    found = facts_of(papers(*all_of, taken_at=taken_at))
    by_name = {fact.name: fact for fact in found}
    assert len(by_name) == len(found), sorted(fact.name for fact in found)
    return by_name


def value(name: str, *all_of: Paper, taken_at: datetime | None = NOW) -> FactValue | None:
    """None: the papers do not show it."""
    fact = facts(*all_of, taken_at=taken_at).get(name)
    return fact.value if fact else None
