"""One job, live: its tasks with progress, rate and time left, its log, and what went wrong."""

from __future__ import annotations

from html import escape

from nicegui import ui

from quiesce.diagnosis.phrases import explains, setback_title
from quiesce.model.failure import Failure, FailureReport
from quiesce.model.job import Job, LogLine, Task, TaskStatus
from quiesce.model.units import rate_text
from quiesce.portal.damage_card import damage_html
from quiesce.portal.diagnosis_card import diagnosis_html, mends_html
from quiesce.portal.failure_card import failure_html
from quiesce.portal.frame import (
    ask,
    attempt,
    button,
    card,
    chip,
    fact,
    heading,
    html,
    page_frame,
    set_chip,
    show_failure,
)
from quiesce.portal.sessions import Session
from quiesce.portal.words import (
    consistency,
    frozen,
    job_title,
    task_figures,
    task_fraction,
    vm_link,
    when,
)
from quiesce.service.service import Service

_REFRESH_SECONDS = 1.0


async def job_page(service: Service, session: Session, job_id: str) -> None:
    """The page of one job; it follows the job until it has ended."""
    job = await ask(lambda: service.jobs.get(job_id))
    with page_frame(session):
        if isinstance(job, Failure):
            show_failure(job.report())
            return
        view = _JobView(service, job)

    async def fresh() -> None:
        now = await ask(lambda: service.jobs.get(job_id))
        if isinstance(now, Failure):
            return
        view.show(now)
        if now.status.ended:
            timer.deactivate()

    timer = ui.timer(_REFRESH_SECONDS, fresh, active=not job.status.ended)


class _JobView:
    """The elements of the page; `show` changes those whose value has changed."""

    def __init__(self, service: Service, job: Job) -> None:
        self._service = service
        self._job_id = job.id
        ui.link("Jobs", "/jobs").classes("crumb")
        with ui.row().classes("items-center justify-between full-width"):
            with ui.row().classes("items-center gap-3"):
                heading(job_title(job))
                self._status = chip(str(job.status))
            self._cancel = button("Cancel job", self._ask_to_cancel)
        self._trouble = ui.element("div").classes("full-width column gap-3")
        with ui.element("section").classes("card") as self._mends_card:
            with ui.element("div").classes("card-head"):
                heading("Done by itself", 2)
            self._mends = html("").classes("card-body")
        with card("Tasks"):
            self._tasks = [_TaskRow(task) for task in job.tasks]
        with card(), ui.element("div").classes("card-body facts"):
            if job.vm:
                with ui.element("div").classes("fact"):
                    ui.label("VM")
                    ui.link(job.vm, vm_link(job.vm)).classes("table-link")
            names = ("Started", "Ended", "Recovery point", "Route")
            self._facts = {name: fact(name, "–") for name in names}
            fact("Started by", job.trigger)
            fact("Job", job.id).classes("mono")
            for name in ("Consistency", "Frozen", "Reads at most"):
                self._facts[name] = fact(name, "–", wide=True)
        with card("Log"):
            self._log = ui.element("div").classes("log")
        self._logged = 0
        self._told = False
        self.show(job)

    def show(self, job: Job) -> None:
        set_chip(self._status, str(job.status))
        self._cancel.set_visibility(not job.status.ended)
        self._cancel.set_enabled(not job.cancel_requested)
        for row, task in zip(self._tasks, job.tasks, strict=False):
            row.show(task)
        self._facts["Started"].text = when(job.started_at, seconds=True)
        self._facts["Ended"].text = when(job.ended_at, seconds=True)
        self._facts["Recovery point"].text = job.point_id or "–"
        self._facts["Consistency"].text = consistency(job.consistency)
        self._facts["Frozen"].text = frozen(job.freeze)
        self._facts["Route"].text = str(job.route or "–")
        self._facts["Reads at most"].text = rate_text(job.bandwidth)
        optional = (
            ("Consistency", job.consistency),
            ("Frozen", job.freeze),
            ("Route", job.route),
            ("Reads at most", job.bandwidth or None),
        )
        for name, known in optional:
            shown = self._facts[name].parent_slot
            if shown is not None:
                shown.parent.set_visibility(known is not None)
        self._mends_card.set_visibility(bool(job.mends))
        self._mends.content = mends_html(job.mends)
        self._add_log(job.log)
        if job.status.ended and not self._told:
            self._told = True
            self._tell_trouble(job)

    def _add_log(self, lines: tuple[LogLine, ...]) -> None:
        with self._log:
            for line in lines[self._logged :]:
                html(
                    f"<span>{line.at.astimezone():%H:%M:%S}</span><span>{escape(line.text)}</span>"
                ).classes(f"log-line {line.level}")
        self._logged = max(self._logged, len(lines))

    def _tell_trouble(self, job: Job) -> None:
        """A failure whose cause is known is told by its diagnosis."""
        left = list(job.diagnoses)

        def told(failure: FailureReport) -> str:
            own = next((each for each in left if explains(each.symptom, failure)), None)
            if own is None:
                return failure_html(failure)
            left.remove(own)
            return diagnosis_html(own, failure)

        title = escape(setback_title(job.route, len(job.setbacks)))
        setbacks = [
            f'<div class="setback-title">{title}</div>{told(setback)}' for setback in job.setbacks
        ]
        with self._trouble:
            if job.failure:
                html(told(job.failure), "section").classes("card failure")
            if job.damage and job.damage.hurt_points:
                html(damage_html(job.damage), "section").classes("card failure")
            for warning in job.warnings:
                ui.label(warning).classes("note")
            for setback in setbacks:
                html(setback, "section").classes("card failure setback")
            for diagnosis in left:
                html(diagnosis_html(diagnosis), "section").classes("card failure setback")

    async def _ask_to_cancel(self) -> None:
        job = await attempt(lambda: self._service.jobs.cancel(self._job_id))
        if job is not None:
            self.show(job)


class _TaskRow:
    def __init__(self, task: Task) -> None:
        with ui.element("div").classes("task"):
            ui.label(str(task.name)).classes("task-name")
            self._bar = ui.linear_progress(value=0, show_value=False, size="7px", color=None)
            self._chip = chip(str(task.status))
            self._figures = ui.label("").classes("task-figures")
        self.show(task)

    def show(self, task: Task) -> None:
        self._bar.value = round(task_fraction(task), 3)
        unknown = task.status is TaskStatus.IN_PROGRESS and not task.progress.total_bytes
        if unknown != bool(self._bar.props.get("indeterminate")):
            self._bar.props(
                "indeterminate" if unknown else "", remove="indeterminate" * (not unknown)
            )
        set_chip(self._chip, str(task.status))
        self._figures.text = task_figures(task)
