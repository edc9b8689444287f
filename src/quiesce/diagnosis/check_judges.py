"""What makes a line of the doctor's green, amber or red: judges over facts."""

from __future__ import annotations

from collections.abc import Callable

from quiesce.diagnosis.conditions import Seen
from quiesce.model.diagnosis import Light

Judge = Callable[[Seen], Light | None]
"""None: the line has nothing to say of this guest."""
GREEN, AMBER, RED, UNKNOWN = Light.GREEN, Light.AMBER, Light.RED, Light.UNKNOWN


def flag(name: str, *, bad: bool, light: Light) -> Judge:
    def judge(seen: Seen) -> Light | None:
        value = seen.value(name)
        return None if value is None else light if value is bad else GREEN

    return judge


def empty(name: str, light: Light, *, bad: bool = False) -> Judge:
    """Green when the text is empty; with `bad`, when it is not."""

    def judge(seen: Seen) -> Light | None:
        value = seen.value(name)
        return None if value is None else GREEN if bool(str(value).strip()) is bad else light

    return judge


def word(name: str, **lights: Light) -> Judge:
    """Each word's light, with `_` for `-` and blanks; others are amber."""

    def judge(seen: Seen) -> Light | None:
        value = seen.value(name)
        if value is None:
            return None
        return lights.get(str(value).replace("-", "_").replace(" ", "_"), AMBER)

    return judge


def above(name: str, amber: float, red: float = float("inf")) -> Judge:
    def judge(seen: Seen) -> Light | None:
        value = seen.value(name)
        if value is None:
            return None
        return RED if float(value) > red else AMBER if float(value) > amber else GREEN

    return judge


def below(name: str, amber: float, red: float) -> Judge:
    def judge(seen: Seen) -> Light | None:
        value = seen.value(name)
        if value is None:
            return None
        return RED if float(value) < red else AMBER if float(value) < amber else GREEN

    return judge


def agent(agent: str, other: str) -> Judge:
    """Whether an agent runs. One that the VM is not set to be reached by is left out, and where
    nobody has said by which, one that is not known to be there while the other one is, or when
    none is (`no_agent`). One of two that is down may be one that nobody needs."""

    def judge(seen: Seen) -> Light | None:
        configured = seen.value(f"{agent}.configured")
        installed = seen.value(f"{agent}.installed")
        if configured is False:
            return None
        if configured is None:
            if installed is not True and _is_there(seen, other):
                return None
            if no_agent(seen) is not None:
                return None
        light = _runs(seen)
        spare = configured is None and seen.value(f"{other}.process") == "running"
        return AMBER if light is RED and spare else light

    def _runs(seen: Seen) -> Light | None:
        installed = seen.value(f"{agent}.installed")
        unit, process = seen.value(f"{agent}.unit"), seen.value(f"{agent}.process")
        answers = (seen.value(f"{agent}.answers"), seen.value(f"{agent}.polls"))
        if process in ("stopped", "blocked") or False in answers:
            return RED
        if process == "running":
            return AMBER if unit in ("disabled", "masked") else GREEN
        if unit == "active":
            return GREEN
        if True in answers:
            return GREEN
        if process == "absent" or installed is False or unit in ("inactive", "failed", "masked"):
            return RED
        if unit is None:
            return None
        return AMBER if unit == "activating" else RED

    return judge


def no_agent(seen: Seen) -> Light | None:
    """Of a machine that nobody has set a way to."""
    agents = ("waagent", "qga")
    named = any(seen.value(f"{agent}.configured") is not None for agent in agents)
    absent = all(seen.value(f"{agent}.installed") is False for agent in agents)
    return RED if absent and not named else None


def _is_there(seen: Seen, agent: str) -> bool:
    return seen.value(f"{agent}.installed") is True or seen.value(f"{agent}.process") == "running"


def proxy_for_host(seen: Seen) -> Light | None:
    proxy = seen.value("waagent.proxy")
    if proxy is None:
        return None
    return AMBER if proxy and seen.value("waagent.proxy-for-host") is True else GREEN


def option_245(seen: Seen) -> Light | None:
    value = seen.value("net.option-245")
    if value is None or seen.value("waagent.configured") is False:
        return None
    if seen.value("waagent.configured") is None and not _is_there(seen, "waagent"):
        return None
    # The well-known address serves an agent that is not told another.
    return GREEN if value or seen.value("waagent.polls") is True else AMBER


def clock(seen: Seen) -> Light | None:
    value = seen.value("guest.clock-ahead-seconds")
    if value is None:
        return None
    return RED if abs(float(value)) > 300 else AMBER if abs(float(value)) > 60 else GREEN
