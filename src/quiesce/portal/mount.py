"""Mounting the portal into the API's application."""

from __future__ import annotations

from fastapi import FastAPI, Request
from nicegui import ui

from quiesce.portal.explain_page import explain_page
from quiesce.portal.gate import Gate
from quiesce.portal.job_page import job_page
from quiesce.portal.jobs_page import jobs_page
from quiesce.portal.login import add_login
from quiesce.portal.sessions import COOKIE, Session, Sessions
from quiesce.portal.vault_page import vault_page
from quiesce.portal.vm_page import vm_page
from quiesce.portal.vms_page import vms_page
from quiesce.service.service import Service

_FAVICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' fill='none' stroke='%230f766e' "
    "stroke-width='2'><circle cx='12' cy='12' r='10.5'/><path d='M4 13.2c2-3.4 4-3.4 6 0s4 3.4 "
    "5.4.6H20' stroke-linecap='round'/></svg>"
)


def mount(app: FastAPI, service: Service) -> None:
    """Add the portal to `app`: pages at `/`, behind a login with the portal's password.

    Once in a process: NiceGUI keeps its pages in a global application. Nothing is stored by
    NiceGUI; who is logged in is kept in memory.
    """
    sessions = Sessions(service.portal_password)
    add_login(app, sessions, str(service.settings.portal_password_file))
    _add_pages(service, sessions)
    app.add_middleware(Gate, sessions=sessions)
    ui.run_with(app, title="Quiesce", favicon=_FAVICON, dark=None, show_welcome_message=False)


def _add_pages(service: Service, sessions: Sessions) -> None:
    def session_of(request: Request) -> Session:
        # The gate lets nobody in without one; it may have ended in this very moment.
        return sessions.of(request.cookies.get(COOKIE)) or Session(expires_at=0)

    @ui.page("/", title="VMs · Quiesce")
    async def _vms(request: Request) -> None:
        await vms_page(service, session_of(request))

    @ui.page("/vm/{name}", title="VM · Quiesce")
    async def _vm(request: Request, name: str) -> None:
        ui.page_title(f"{name} · Quiesce")
        await vm_page(service, session_of(request), name)

    @ui.page("/jobs", title="Jobs · Quiesce")
    async def _jobs(request: Request) -> None:
        await jobs_page(service, session_of(request))

    @ui.page("/job/{job_id}", title="Job · Quiesce")
    async def _job(request: Request, job_id: str) -> None:
        await job_page(service, session_of(request), job_id)

    @ui.page("/vault", title="Vault · Quiesce")
    async def _vault(request: Request) -> None:
        await vault_page(service, session_of(request))

    @ui.page("/explain/{question}", title="Explained · Quiesce")
    def _explain(request: Request, question: str) -> None:
        explain_page(session_of(request), question)
