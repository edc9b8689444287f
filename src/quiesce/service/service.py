"""The backup service: everything that CLI, REST and portal can ask for, in one object."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import structlog

from quiesce.diagnosis.explain import Explanation, explain
from quiesce.model.job import TaskName, TaskStatus
from quiesce.service.agents import AgentRecords
from quiesce.service.clock import Clock, SystemClock
from quiesce.service.composition import Composition
from quiesce.service.console import Cancellations
from quiesce.service.database import Database
from quiesce.service.diagnosing import Diagnosing
from quiesce.service.doctor import Doctor
from quiesce.service.home import Home
from quiesce.service.job_book import JobBook
from quiesce.service.jobs import Jobs
from quiesce.service.log_collection import LogCollection
from quiesce.service.looks import Looks
from quiesce.service.mending import Mending
from quiesce.service.network import Network
from quiesce.service.patience import Patience
from quiesce.service.points import Points
from quiesce.service.policies import FIRST_POLICY, Policies
from quiesce.service.protections import Protections
from quiesce.service.settings import Settings
from quiesce.service.sweep import sweep_all
from quiesce.service.ticker import Ticker
from quiesce.service.upkeep import Upkeep
from quiesce.service.vm_table import VmTable
from quiesce.service.vms import Vms
from quiesce.service.work import Parts
from quiesce.service.workflow import Workflows

log = structlog.get_logger(__name__)

_SNAPSHOT_GRACE_SECONDS = 15.0
"""How long a stop waits for guests that are being frozen right now."""


class Service:
    """A started service. One in a process, and one on a data folder.

    `vms`, `policies`, `jobs`, `points` and `network` hold the operations, `looks` finds out what
    bears on a failure, `doctor` examines and mends, `guest_logs` makes log bundles, `upkeep` sees
    to the vault's keys, copies and garbage; `api_token` and `portal_password` are the secrets that
    the faces compare with.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        composition: Composition | None = None,
        clock: Clock | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Make what is missing, take the data folder, recover what a former process left.

        :raise ServerFailure: server.already-running and others of `Home`
        :raise VaultFailure: the vault cannot be opened
        """
        clock = clock or SystemClock()
        composition = composition or Composition(settings)
        self.settings = settings
        self._opened = ExitStack()
        try:
            home = Home(settings)
            self._opened.callback(home.close)
            self.api_token = home.api_token
            self.portal_password = home.portal_password
            database = Database(settings.database)
            self._opened.callback(database.close)
            database.migrate()
            book = JobBook(database, clock)
            self._book = book
            self.policies = Policies(database)
            if not self.policies.all() and not book.newest(limit=1):
                self.policies.add(FIRST_POLICY)
            self.points = Points(composition.vault(), book)
            table = VmTable(database, settings.proxy)
            guest_side = composition.guest_side(
                AgentRecords(database), table.recognisable, table.proxy_of
            )
            self._opened.callback(guest_side.close)
            self.network = Network(settings, table, composition, guest_side, book)
            self.vms = Vms(
                database, table, clock, composition, guest_side, book, self.policies, self.points
            )
            self.looks = Looks(
                settings, clock, table, composition, guest_side, self.points, book, self.network
            )
            patience = patience or Patience()
            self._parts = Parts(
                clock,
                composition,
                guest_side,
                book,
                Cancellations(book),
                self.vms,
                self.points,
                self.looks,
                Diagnosing(book, self.looks, quick=patience.quick, seconds=patience.diagnosis),
                patience,
                settings.agent_address,
            )
            self.doctor = Doctor(
                table, self.policies, book, composition, self.looks, Mending(self._parts)
            )
            self.guest_logs = LogCollection(
                clock,
                table,
                composition,
                guest_side,
                self.network,
                self.doctor,
                book,
                settings.data_folder / "verbose",
            )
            # Before the engine, which goes on with jobs that may wait for a guest to report.
            guest_side.start()
            workflows = Workflows(settings, self._parts)
            self._opened.callback(workflows.close)
            self.jobs = Jobs(self._parts, workflows)
            self.upkeep = Upkeep(settings, clock, self.points, book, self.vms)
            self.ticker = Ticker(
                clock,
                Protections(database),
                self.jobs,
                workflows,
                settings.schedule_seconds,
                chores=(
                    guest_side.mend,
                    self.guest_logs.recover_soon,
                    self.jobs.collect_if_overdue,
                ),
            )
            self._opened.callback(self.ticker.stop)
        except BaseException:
            self._opened.close()
            raise
        self._sweeper = threading.Thread(target=self._sweep, name="sweep", daemon=True)

    def start(self) -> None:
        """Begin to work by itself: the schedule, and freeing what dead jobs left in VMs."""
        self._sweeper.start()
        self.ticker.start()
        log.info("service started", data=str(self.settings.data_folder))

    def health(self) -> str:
        """ "ok" when the tables can be read.

        :raise ServerFailure: server.database-failed
        """
        self._book.newest(limit=1)
        return "ok"

    def explain(self, code: str) -> Explanation:
        """:raise NotFoundFailure: request.unknown-code"""
        return explain(code)

    def close(self) -> bool:
        """Stop taking up work and let go of everything. True when jobs are still running: then
        the process must end for them to stop, and the next start recovers them.

        A job that is taking its snapshot is waited for, some seconds at most, so that no guest
        stays frozen until its watchdog thaws it.
        """
        deadline = time.monotonic() + _SNAPSHOT_GRACE_SECONDS
        while self._freezing() and time.monotonic() < deadline:
            time.sleep(0.1)
        running = any(job.started_at for job in self._book.active())
        self._opened.close()
        return running

    def _sweep(self) -> None:
        """What a former process left in VMs."""
        sweep_all(self._parts)
        self.guest_logs.recover()

    def _freezing(self) -> bool:
        return any(
            task.name is TaskName.TAKE_SNAPSHOT and task.status is TaskStatus.IN_PROGRESS
            for job in self._book.active()
            for task in job.tasks
        )
