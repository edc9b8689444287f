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
from quiesce.model.vm import VmAddress
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
from quiesce.service.looks.panel import Case, Found, Look, Panel
from quiesce.service.network import Network
from quiesce.service.points import Points
from quiesce.service.redaction import redacted
from quiesce.service.settings import Settings
from quiesce.service.vm_table import VmTable


def _seconds(_: Found) -> float:
    return 6.0


def _inside_seconds(before: Found) -> float:
    """The collector ends itself within 16 s, and an agent that polls comes for it within 6 s and
    starts Python first. On Windows it ends itself within 75 s: each command is slow to start."""
    return 80.0 if before.value("guest.os") == "windows" else 26.0


def _probe_seconds(_: Found) -> float:
    """The probe bounds each of its hops itself, all of them by about that much."""
    return 26.0


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
        self._composition, self._guest_side = composition, guest_side
        self._panel = Panel()
        inside = InsideLook(composition, guest_side, facts_of)
        outside = ("channel", "agents", "hypervisor")
        self._looks = (
            Look("failure", look_at_failure, _seconds),
            Look("channel", ChannelLook(composition), _seconds),
            Look("hypervisor", HypervisorLook(composition, points, book), _seconds),
            Look("guest", inside, _inside_seconds, outside),
            Look("agents", AgentsLook(guest_side, clock), _seconds),
            Look("network", NetworkLook(network, _decided), _probe_seconds, (*outside, "guest")),
            Look("endpoint", EndpointLook(guest_side, clock), _seconds),
            Look("history", HistoryLook(book), _seconds),
            Look("host", HostLook(settings, guest_side), _seconds),
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
        case = Case(
            address, self._clock.now(), failure, route, job, lambda: self.taking(address, job), deep
        )
        found = self._panel.run(case, self._looks)
        return Seen(
            tuple(map(_without_secrets, found.facts)),
            found.problems,
            found.channels,
            found.papers,
            time.monotonic() - began,
        )

    def taking(self, address: VmAddress, job: Job | None = None) -> str:
        """The job that may have the guest frozen now; empty when none may. Another one than `job`
        from the beginning of its task to the end, that one while either agent has its session."""
        guest = self._composition.guest(address)
        own = "" if guest is None else guest.taking()
        if own := own or self._guest_side.taking(address.name):
            return own
        for active in self._book.active():
            if active.vm != address.name or active.kind is not JobKind.BACKUP:
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
