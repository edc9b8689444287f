"""What a failure code means."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from nicegui import ui

from quiesce.diagnosis.catalogue import CatalogueEntry, Rules, catalogue
from quiesce.diagnosis.explain import explain
from quiesce.diagnosis.phrases import retry_words
from quiesce.diagnosis.rule_words import mend_words, rule_words
from quiesce.model.failure import Failure
from quiesce.portal.diagnosis_card import code_html
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
                html(f'<div class="quiet">{retry_words(entry.retryable)}</div>')
                html(rules_html(catalogue().rules[entry.code]))
                html(links_html("Explains", entry.explains))
                if entry.aliases:
                    html(f'<div class="label">Elsewhere</div>{escape(", ".join(entry.aliases))}')
        html(related_html(answer.related))


def links_html(title: str, codes: Sequence[str]) -> str:
    """Codes that lead to their own pages; empty without any."""
    links = " ".join(code_html(code) for code in codes)
    return f'<div><div class="label">{title}</div>{links}</div>' if links else ""


def related_html(entries: Sequence[CatalogueEntry]) -> str:
    """Entries that the answer refers to, each with its title."""
    items = "".join(f"<li>{code_html(each.code)} {escape(each.title)}</li>" for each in entries)
    return (
        f'<div class="label">Possible causes and relatives</div><ul class="steps">{items}</ul>'
        if items
        else ""
    )


def rules_html(rules: Rules) -> str:
    """What proves a cause and what excludes it; empty when neither is known."""
    parts = []
    for title, each in (("Proven by", rules.proof), ("Ruled out by", rules.against)):
        said = "".join(f"<li>{with_commands(rule_words(rule))}</li>" for rule in each)
        if said:
            parts.append(f'<div class="label">{title}</div><ul class="steps">{said}</ul>')
    return "".join(parts)
