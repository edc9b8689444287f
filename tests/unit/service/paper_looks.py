"""Looks that find what a test says, and a way to put them into a service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from quiesce.model.diagnosis import Fact, FactValue
from quiesce.model.failure import FailureReport
from quiesce.service.service import Service


@dataclass
class PaperSeen:
    facts: tuple[Fact, ...] = ()
    problems: tuple[FailureReport, ...] = ()


@dataclass
class PaperLooks:
    """`values` is what is found; of a failed route, its name too. `before` is called first."""

    values: dict[str, FactValue] = field(default_factory=dict)
    problems: tuple[FailureReport, ...] = ()
    before: Callable[[], Any] = lambda: None
    asked: list[FailureReport | None] = field(default_factory=list)
    on_behalf_of: list[str] = field(default_factory=list)
    """Job ids. A guest is not looked into while another job takes its snapshot."""

    def facts(self, vm, *, failure=None, route=None, job=None, deep=False):  # type: ignore[no-untyped-def]
        self.asked.append(failure)
        self.on_behalf_of.append(job.id if job else "")
        self.before()
        values = dict(self.values)
        if route is not None:
            values["failed.route"] = route.value
        facts = tuple(
            Fact(name, value, f"{name}: {value}", "paper") for name, value in values.items()
        )
        return PaperSeen(facts, self.problems)


def seeing(service: Service, looks: PaperLooks) -> PaperLooks:
    """From now on, what fails on the service's jobs is looked at by these."""
    service._parts.diagnosing._looks = looks
    object.__setattr__(service._parts, "looks", looks)
    return looks
