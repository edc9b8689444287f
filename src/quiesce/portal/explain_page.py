"""What a failure code means."""

from __future__ import annotations

from html import escape

from nicegui import ui

from quiesce.diagnosis.explain import explain
from quiesce.model.failure import Failure
from quiesce.portal.failure_card import failure_html, steps_html
from quiesce.portal.frame import card, heading, html, page_frame
from quiesce.portal.sessions import Session


def explain_page(session: Session, question: str) -> None:
    """The catalogue's entry for a code, an alias or a family."""
    with page_frame(session):
        try:
            answer = explain(question)
        except Failure as unknown:
            html(failure_html(unknown.report()), "section").classes("card failure")
            return
        for entry in answer.entries:
            heading(entry.title)
            with card(), ui.element("div").classes("card-body"):
                html(f'<span class="code-pill">{escape(entry.code)}</span>')
                ui.label(entry.cause)
                html(f'<div class="label">Next step</div>{steps_html(entry.remedy)}')
                if entry.mends:
                    html(f'<div class="label">By itself</div>{escape(entry.mends)}')
                if entry.aliases:
                    html(f'<div class="label">Elsewhere</div>{escape(", ".join(entry.aliases))}')
