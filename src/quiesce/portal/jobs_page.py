"""The newest jobs of all VMs."""

from __future__ import annotations

from nicegui import ui

from quiesce.model.failure import Failure
from quiesce.portal.frame import ask, card, empty, heading, page_frame
from quiesce.portal.sessions import Session
from quiesce.portal.tables import JOB_COLUMNS, job_row, paged_table, refresh
from quiesce.service.service import Service

_REFRESH_SECONDS = 2.0
_NEWEST = 500


async def jobs_page(service: Service, session: Session) -> None:
    """What ran, what runs, and how it ended."""
    jobs = await ask(lambda: service.jobs.newest(limit=_NEWEST))
    with page_frame(session, "/jobs"):
        heading("Jobs")
        with card():
            if isinstance(jobs, Failure) or not jobs:
                empty("No job has run yet", "Start one: `quiesce backup VM --wait`")
                return
            table = paged_table(JOB_COLUMNS, [job_row(job) for job in jobs])

    async def fresh() -> None:
        now = await ask(lambda: service.jobs.newest(limit=_NEWEST))
        if not isinstance(now, Failure):
            refresh(table, [job_row(job) for job in now])

    ui.timer(_REFRESH_SECONDS, fresh)
