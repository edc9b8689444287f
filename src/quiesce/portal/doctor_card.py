"""The doctor in one VM's page: examined when asked for, with a light for each thing looked at."""

from __future__ import annotations

from html import escape
from itertools import groupby

from nicegui import ui

from quiesce.diagnosis.phrases import area_order, area_title
from quiesce.model.diagnosis import Check, Examination, Light, Mend, MendStatus
from quiesce.portal.diagnosis_card import code_html, diagnosis_html, mends_html
from quiesce.portal.failure_card import evidence_html, steps_html
from quiesce.portal.frame import attempt, button, card, chip, heading, html, set_chip
from quiesce.portal.words import tone
from quiesce.service.service import Service

_MARKS = {Light.GREEN: "✓", Light.AMBER: "!", Light.RED: "✗", Light.UNKNOWN: "?"}


class DoctorCard:
    """A button, and what the newest examination that it began has found."""

    def __init__(self, service: Service, vm: str) -> None:
        self._service = service
        self._vm = vm
        with ui.element("section").classes("card"):
            with ui.element("div").classes("card-head"):
                with ui.row().classes("items-center gap-3"):
                    heading("Doctor", 2)
                    self._light = chip(Light.UNKNOWN)
                    self._light.set_visibility(False)
                with ui.row().classes("gap-2 no-wrap"):
                    self._mend = button("Mend …", self._confirm).classes("small")
                    self._mend.set_visibility(False)
                    self._examine = button("Examine", self._look).classes("small")
            self._body = ui.element("div").classes("full-width")
            # Not in the body: what is shown there is cleared while a dialog may be open.
            self._dialogs = ui.element("div")
        self._planned: list[Mend] = []
        self._say("What would make a backup fail, looked for without one. Nothing is changed.")

    async def _look(self) -> None:
        self._busy("Looking at the hypervisor, agents, guest, network, storage and other jobs …")
        self._show(await attempt(lambda: self._service.doctor.examine(self._vm)))

    async def _do(self) -> None:
        actions = [mend.action for mend in self._planned]
        self._busy("Mending, then looking again; this may take minutes …")
        self._show(await attempt(lambda: self._service.doctor.fix(self._vm, actions)))

    def _confirm(self) -> None:
        with self._dialogs, ui.dialog(value=True) as dialog, card(f"Mend {self._vm}?"):
            body = ui.element("div").classes("card-body")
        with body:
            ui.label("This is done, in this order; then the VM is examined again.")
            html(mends_html(self._planned))
            with ui.row().classes("justify-end full-width"):
                button("Leave it", dialog.close)

                async def go() -> None:
                    dialog.close()
                    await self._do()

                button("Mend", go, main=True)

    def _busy(self, words: str) -> None:
        self._examine.set_enabled(False)
        self._mend.set_visibility(False)
        self._say(words)

    def _show(self, found: Examination | None) -> None:
        self._examine.set_enabled(True)
        self._light.set_visibility(found is not None)
        if found is None:
            self._say("It could not be examined.")
            return
        set_chip(self._light, found.light)
        self._planned = [mend for mend in found.plan if mend.status is MendStatus.PLANNED]
        self._mend.set_visibility(bool(self._planned))
        self._body.clear()
        with self._body:
            for diagnosis in found.diagnoses:
                html(diagnosis_html(diagnosis)).classes("failure full-width")
            html(examination_html(found)).classes("card-body")

    def _say(self, words: str) -> None:
        self._body.clear()
        with self._body, ui.element("div").classes("card-body"):
            ui.label(words).classes("quiet")


def examination_html(found: Examination) -> str:
    """What was mended or would be, and a table of lights by area."""
    proven = {code for each in found.diagnoses for code in (each.code, *each.also)}
    parts = []
    if found.plan:
        parts.append(f'<div><div class="label">By itself</div>{mends_html(found.plan)}</div>')
    checks = sorted(found.checks, key=lambda check: area_order(check.area))
    for area, lines in groupby(checks, key=lambda check: check.area):
        rows = "".join(_row(check, brief=bool(proven.intersection(check.codes))) for check in lines)
        parts.append(
            f'<div><div class="label">{escape(area_title(area))}</div>'
            f'<table class="evidence checks"><tbody>{rows}</tbody></table></div>'
        )
    if found.problems:
        items = "".join(
            f"<li>{escape(problem.message)} {code_html(problem.code)}</li>"
            for problem in found.problems
        )
        parts.append(
            '<div><div class="label">Could not be looked at</div>'
            f'<ul class="steps">{items}</ul></div>'
        )
    parts += [f'<div class="quiet">Looked through {escape(each)}</div>' for each in found.channels]
    return "".join(parts)


def _row(check: Check, *, brief: bool) -> str:
    """`brief`: a diagnosis says the rest at length."""
    more = ""
    if check.light in (Light.AMBER, Light.RED) and not brief:
        more = (evidence_html(list(check.evidence)) if check.evidence else "") + (
            steps_html(check.remedy) if check.remedy else ""
        )
    codes = " ".join(code_html(code) for code in check.codes) if more or brief else ""
    return (
        f'<tr><td><span class="hop tone-{tone(check.light)}" title="{check.light}">'
        f"{_MARKS[check.light]}</span></td><td>{escape(check.title)}</td>"
        f"<td>{escape(check.words)} {codes}{more}</td></tr>"
    )
