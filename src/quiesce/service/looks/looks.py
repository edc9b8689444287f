"""All looks at one VM, side by side: what the diagnosis of a failure and the doctor reason from."""

from __future__ import annotations

import time
from dataclasses import dataclass

from quiesce.model.diagnosis import Fact
from quiesce.model.failure import FailureReport
from quiesce.model.job import Job, JobKind, TaskName, TaskStatus
from quiesce.model.papers import Papers
from quiesce.model.snapshot import Route
from quiesce.service.clock import Clock
from quiesce.service.composition import Composition
from quiesce.service.job_book import JobBook
from quiesce.service.looks.channel import ChannelLook
from quiesce.service.looks.history import HistoryLook
from quiesce.service.looks.hypervisor import HypervisorLook
from quiesce.service.looks.panel import Case, Look, Panel
from quiesce.service.points import Points
from quiesce.service.vm_table import VmTable

_SECONDS = 6.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found. `facts` holds each name at most once; `problems` are looks that could not be
    had, coded; `channels` says through what was looked, with the reason for each that did not
    answer; `papers` are the guest's own files and outputs, None when nobody could get them."""

    facts: tuple[Fact, ...]
    problems: tuple[FailureReport, ...]
    channels: tuple[str, ...]
    papers: Papers | None
    seconds: float


class Looks:
    """Thread-safe. Costs nothing until it is asked."""

    def __init__(
        self,
        clock: Clock,
        table: VmTable,
        composition: Composition,
        points: Points,
        book: JobBook,
    ) -> None:
        self._clock = clock
        self._table = table
        self._book = book
        self._panel = Panel()
        self._looks = (
            Look("channel", ChannelLook(composition), _SECONDS),
            Look("hypervisor", HypervisorLook(composition, points, book), _SECONDS),
            Look("history", HistoryLook(book), _SECONDS),
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
        found = self._panel.run(case, self._looks)
        return Seen(
            found.facts,
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
