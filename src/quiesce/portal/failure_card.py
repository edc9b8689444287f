"""A failure as HTML: sentence, code, evidence, inner causes, next steps."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from urllib.parse import quote

from quiesce.diagnosis.catalogue import catalogue
from quiesce.diagnosis.phrases import seen_at
from quiesce.model.failure import Evidence, FailureReport
from quiesce.portal.words import with_commands


def failure_html(report: FailureReport) -> str:
    """The inside of a card of the class `failure`. Everything told is escaped."""
    entry = catalogue().entries.get(report.code)
    chain = tuple(chain_of(report))
    facts = [item for link in chain for item in link.evidence]
    steps = (report.remedy,) if report.remedy else entry.remedy if entry else ()
    parts = [
        f'<div class="card-head"><span class="failure-message">{escape(report.message)}</span>'
        f'<a class="code-pill" href="/explain/{quote(report.code, safe="")}">'
        f"{escape(report.code)}</a></div>",
        '<div class="card-body">',
    ]
    if entry:
        parts.append(f'<div><div class="label">Cause</div>{escape(entry.cause)}</div>')
    if len(chain) > 1:
        inner = "".join(
            f"<li>{escape(link.message)} <code>{escape(link.code)}</code></li>"
            for link in chain[1:]
        )
        parts.append(f'<div><div class="label">Because</div><ul class="steps">{inner}</ul></div>')
    if facts:
        parts.append(evidence_html(facts))
    if steps:
        parts.append(f'<div><div class="label">Next step</div>{steps_html(steps)}</div>')
    if entry and entry.mends:
        parts.append(f'<div><div class="label">By itself</div>{escape(entry.mends)}</div>')
    parts.append("</div>")
    return "".join(parts)


def steps_html(steps: tuple[str, ...]) -> str:
    """Numbered when there are several."""
    one = " one" if len(steps) == 1 else ""
    items = "".join(f"<li>{with_commands(step)}</li>" for step in steps)
    return f'<ol class="steps{one}">{items}</ol>'


def chain_of(report: FailureReport | None) -> Iterator[FailureReport]:
    """A failure and the causes in it, the outermost first."""
    link = report
    while link is not None:
        yield link
        link = link.cause


def evidence_html(facts: list[Evidence]) -> str:
    rows = "".join(
        f"<tr><td>{seen_at(item.observed_at)}</td><td>{escape(item.source)}</td>"
        f"<td>{escape(item.fact)}"
        + (f'<div class="raw">{escape(item.raw)}</div>' if item.raw else "")
        + "</td></tr>"
        for item in facts
    )
    return (
        '<table class="evidence"><thead><tr><th>seen at</th><th>where</th><th>evidence</th></tr>'
        f"</thead><tbody>{rows}</tbody></table>"
    )
