"""All looks at one VM, side by side: what the diagnosis of a failure and the doctor reason from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from quiesce.diagnosis.engine import diagnose
from quiesce.diagnosis.reading import facts_of
from quiesce.diagnosis.vocabulary import FACTS
from quiesce.model.diagnosis import Fact, Verdict
from quiesce.model.failure import FailureReport
from quiesce.model.job import Job, JobKind, TaskName, TaskStatus
from quiesce.model.papers import Papers
from quiesce.model.snapshot import Route
from quiesce.service.clock import Clock
from quiesce.service.composition import Composition
from quiesce.service.guest_side import GuestSide
from quiesce.service.job_book import JobBook
from quiesce.service.looks.agents import AgentsLook
from quiesce.service.looks.channel import ChannelLook
from quiesce.service.looks.endpoint import EndpointLook
from quiesce.service.looks.failed import look_at_failure
from quiesce.service.looks.history import HistoryLook
from quiesce.service.looks.host import HostLook
from quiesce.service.looks.hypervisor import HypervisorLook
from quiesce.service.looks.inside import InsideLook
from quiesce.service.looks.network import NetworkLook
from quiesce.service.looks.panel import Case, Look, Panel
from quiesce.service.network import Network
from quiesce.service.points import Points
from quiesce.service.redaction import redacted
from quiesce.service.settings import Settings
from quiesce.service.vm_table import VmTable

_SECONDS = 6.0
_INSIDE_SECONDS = 26.0
"""The collector ends itself within 7 s; an agent that polls comes for it within 6 s and starts
Python first. On Windows each of its commands is slow to start, and a minute may not do."""
_PROBE_SECONDS = 26.0
"""The probe bounds each of its hops itself, all of them by about that much."""
_ALL_SECONDS = 36.0
"""Of which a look at a failure seldom takes more than five."""
_DEEP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found. `facts` holds each name at most once, and no secret; `problems` are looks
    that could not be had, coded; `channels` says through what was looked, with the reason for each
    that did not answer; `papers` are the guest's own files and outputs, raw, None when nobody could
    get them."""

    facts: tuple[Fact, ...]
    problems: tuple[FailureReport, ...]
    channels: tuple[str, ...]
    papers: Papers | None
    seconds: float


class Looks:
    """Thread-safe. Costs nothing until it is asked."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        table: VmTable,
        composition: Composition,
        guest_side: GuestSide,
        points: Points,
        book: JobBook,
        network: Network,
    ) -> None:
        self._clock = clock
        self._table = table
        self._book = book
        self._panel = Panel()
        inside = InsideLook(composition, guest_side, facts_of)
        outside = ("channel", "agents", "hypervisor")
        self._looks = (
            Look("failure", look_at_failure, _SECONDS),
            Look("channel", ChannelLook(composition), _SECONDS),
            Look("hypervisor", HypervisorLook(composition, points, book), _SECONDS),
            Look("guest", inside, _INSIDE_SECONDS, outside),
            Look("agents", AgentsLook(guest_side, clock), _SECONDS),
            Look("network", NetworkLook(network, _decided), _PROBE_SECONDS, (*outside, "guest")),
            Look("endpoint", EndpointLook(guest_side, clock), _SECONDS),
            Look("history", HistoryLook(book), _SECONDS),
            Look("host", HostLook(settings, guest_side), _SECONDS),
        )

    def facts(
        self,
        vm: str,
        *,
        failure: FailureReport | None = None,
        route: Route | None = None,
        job: Job | None = None,
        deep: bool = False,
    ) -> Seen:
        """Look at `vm` through everything that answers. `failure`, the `route` that it happened on
        and its `job` say what to look for, None of them when nothing has failed yet; `deep` spares
        no look (the network probe takes up to half a minute). What goes wrong is in `problems`.

        :raise NotFoundFailure: vm.unknown
        """
        began = time.monotonic()
        address = self._table.address(vm)
        taking = self._taking(address.name, job)
        case = Case(address, self._clock.now(), failure, route, job, taking, deep)
        seconds = _DEEP_SECONDS if deep else _ALL_SECONDS
        found = self._panel.run(case, self._looks, seconds=seconds)
        return Seen(
            tuple(map(_without_secrets, found.facts)),
            found.problems,
            found.channels,
            found.papers,
            time.monotonic() - began,
        )

    def _taking(self, vm: str, job: Job | None) -> str:
        """The job, another than the one that is asked about, that may have the guest frozen."""
        for active in self._book.active():
            if active.vm != vm or active.kind is not JobKind.BACKUP:
                continue
            if job is not None and active.id == job.id:
                continue
            for task in active.tasks:
                if task.name is TaskName.TAKE_SNAPSHOT and task.status is TaskStatus.IN_PROGRESS:
                    return active.id
        return ""


def _without_secrets(fact: Fact) -> Fact:
    """Guests' own words, such as a line of a configuration, may hold some."""
    value = fact.value
    kind = FACTS.get(fact.name)
    if isinstance(value, str) and not (kind and kind.words):
        value = redacted(value)
    return replace(fact, value=value, words=redacted(fact.words), raw=redacted(fact.raw))


def _decided(failure: FailureReport, facts: Sequence[Fact]) -> bool:
    """Whether more looks could not tell more about this failure."""
    return diagnose(failure, facts).verdict is Verdict.PROVEN
