"""What a failure code means."""

from __future__ import annotations

from html import escape

from nicegui import ui

from quiesce.diagnosis.catalogue import Rules, catalogue
from quiesce.diagnosis.explain import explain
from quiesce.diagnosis.rule_words import mend_words, rule_words
from quiesce.model.failure import Failure
from quiesce.portal.failure_card import failure_html, steps_html
from quiesce.portal.frame import card, heading, html, page_frame
from quiesce.portal.sessions import Session
from quiesce.portal.words import with_commands


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
                if entry.mend_by:
                    does = f"It {mend_words(entry.mend_by)}."
                    html(f'<div class="label">What Quiesce does</div>{escape(does)}')
                html(rules_html(catalogue().rules[entry.code]))
                if entry.aliases:
                    html(f'<div class="label">Elsewhere</div>{escape(", ".join(entry.aliases))}')


def rules_html(rules: Rules) -> str:
    """What proves a cause and what excludes it; empty when neither is known."""
    parts = []
    for title, each in (("Proven by", rules.proof), ("Ruled out by", rules.against)):
        said = "".join(f"<li>{with_commands(rule_words(rule))}</li>" for rule in each)
        if said:
            parts.append(f'<div class="label">{title}</div><ul class="steps">{said}</ul>')
    return "".join(parts)
