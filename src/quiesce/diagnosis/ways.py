"""What matters for the ways by which a VM is reached: what a way that is not its own would need is
not wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from quiesce.diagnosis.conditions import Seen
from quiesce.diagnosis.supposed import routes
from quiesce.model.diagnosis import Fact

_PRESENCE = ("installed", "unit", "process")


@dataclass(frozen=True, slots=True)
class Ways:
    """By which agents a VM is reached."""

    waagent: bool
    qga: bool

    def matters(self, fact: Fact) -> bool:
        """The guest's network is needed for the Azure Linux agent alone."""
        family, _, name = fact.name.partition(".")
        if name == "configured":
            return True
        if family in ("waagent", "net", "hop"):
            return self.waagent
        return family != "qga" or self.qga

    def is_shown(self, fact: Fact) -> bool:
        """What matters, and whether the other agent is there at all."""
        return self.matters(fact) or fact.name.partition(".")[2] in _PRESENCE


def ways_of(facts: Iterable[Fact], *, failed: bool) -> Ways:
    """The ways of a VM that nobody has named: those whose agent serves, else those whose agent may
    be there. `failed`: a backup through the Azure Linux agent has, so it is one."""
    seen = Seen(facts)
    supposed = {fact.value for facts in routes(seen) for fact in facts}

    def leads(route: str, agent: str) -> bool:
        return route in supposed or (not supposed and seen.value(f"{agent}.installed") is not False)

    return Ways(waagent=failed or leads("guest", "waagent"), qga=leads("host", "qga"))
