"""The guest's way to the storage endpoint, tested when asked for."""

from __future__ import annotations

from html import escape

from nicegui import ui

from quiesce.diagnosis.phrases import hop_title, mark
from quiesce.model.network import Hop, NetworkReport
from quiesce.portal.failure_card import failure_html
from quiesce.portal.frame import attempt, button, heading, html
from quiesce.service.service import Service

_TONES = {True: "good", False: "bad", None: "idle"}


class NetworkCard:
    """A button, and what the newest test that it began has seen."""

    def __init__(self, service: Service, vm: str) -> None:
        self._service = service
        self._vm = vm
        with ui.element("section").classes("card"):
            with ui.element("div").classes("card-head"):
                heading("Network", 2)
                self._button = button("Test", self._test)
                self._button.classes("small").props('aria-label="Test the network"')
            self._body = ui.element("div").classes("full-width")
        self._say("How the guest gets to the storage endpoint, probed from inside, hop by hop.")

    async def _test(self) -> None:
        self._button.set_enabled(False)
        self._say("The guest is probing …")
        report = await attempt(lambda: self._service.network.test(self._vm))
        self._button.set_enabled(True)
        if report is None:
            self._say("The probe could not be run.")
            return
        self._body.clear()
        with self._body:
            html(hops_html(report)).classes("card-body")
            if report.failure:
                html(failure_html(report.failure)).classes("failure full-width")

    def _say(self, words: str) -> None:
        self._body.clear()
        with self._body, ui.element("div").classes("card-body"):
            ui.label(words).classes("quiet")


def hops_html(report: NetworkReport) -> str:
    """The hops as a table. Everything that the guest told is escaped."""
    rows = "".join(_row(hop) for hop in report.hops)
    tried = "".join(
        f'<div class="note">Tried first: {escape(setback.message)} '
        f"<code>{escape(setback.code)}</code></div>"
        for setback in report.setbacks
    )
    return (
        f'{tried}<div class="quiet">Asked through {escape(report.channel)}, '
        f"towards {escape(report.endpoint)}</div>"
        '<table class="evidence hops"><thead><tr><th></th><th>hop</th><th>seen</th><th>ms</th></tr>'
        f"</thead><tbody>{rows}</tbody></table>"
    )


def _row(hop: Hop) -> str:
    raw = f'<div class="raw">{escape(hop.raw)}</div>' if hop.ok is False and hop.raw else ""
    took = "" if hop.ok is None else f"{hop.milliseconds:.0f}"
    return (
        f'<tr><td><span class="hop tone-{_TONES[hop.ok]}">{mark(hop.ok)}</span></td>'
        f"<td>{escape(hop_title(hop.name))}</td><td>{escape(hop.detail)}{raw}</td>"
        f"<td>{took}</td></tr>"
    )
