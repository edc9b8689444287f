"""The first page: all VMs."""

from __future__ import annotations

from nicegui import ui

from quiesce.model.failure import Failure
from quiesce.portal.frame import ask, attempt, card, empty, heading, page_frame
from quiesce.portal.sessions import Session
from quiesce.portal.tables import VM_COLUMNS, paged_table, refresh, vm_row
from quiesce.portal.words import job_link
from quiesce.service.service import Service

_REFRESH_SECONDS = 2.0


async def vms_page(service: Service, session: Session) -> None:
    """Every VM with its state, its newest point and a button to back it up."""
    vms = await ask(service.vms.all)

    async def back_up(name: str) -> None:
        job = await attempt(lambda: service.jobs.start_backup(name))
        if job is not None:
            ui.navigate.to(job_link(job.id))

    with page_frame(session, "/"):
        heading("VMs")
        with card():
            if isinstance(vms, Failure) or not vms:
                empty(
                    "No VM is known yet",
                    "Add the first one: `quiesce vm add web1 --qmp SOCKET --qga SOCKET`",
                )
                return
            table = paged_table(VM_COLUMNS, [vm_row(vm) for vm in vms], on_act=back_up)

    async def fresh() -> None:
        now = await ask(service.vms.all)
        if now and not isinstance(now, Failure):
            refresh(table, [vm_row(vm) for vm in now])

    ui.timer(_REFRESH_SECONDS, fresh)
