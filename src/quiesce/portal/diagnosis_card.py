"""A diagnosis and what was mended, as HTML: the cause first, the evidence behind. Everything that
is told is escaped: most of it comes from guests."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from quiesce.diagnosis.phrases import retry_words, seen_at
from quiesce.model.diagnosis import Candidate, Diagnosis, Mend, MendStatus, RuledOut
from quiesce.model.failure import Evidence, FailureReport
from quiesce.portal.failure_card import chain_of, evidence_html, steps_html
from quiesce.portal.words import tone, with_commands


def diagnosis_html(diagnosis: Diagnosis, failure: FailureReport | None = None) -> str:
    """The inside of a card of the class `failure`. `failure` is the raw one that it explains: its
    sentence and its facts are shown, once."""
    parts = [
        f'<div class="card-head"><span class="failure-message">{escape(diagnosis.cause)}</span>'
        f'<div class="verdict"><span class="chip tone-{tone(diagnosis.verdict)}">'
        f"{diagnosis.verdict}</span>{code_html(diagnosis.code)}</div></div>",
        '<div class="card-body">',
    ]
    if failure and failure.message != diagnosis.cause:
        code = "" if failure.code == diagnosis.code else code_html(failure.code)
        parts.append(_part("What failed", f"{escape(failure.message)} {code}"))
    elif diagnosis.symptom != diagnosis.code:
        parts.append(_part("It showed as", code_html(diagnosis.symptom)))
    if diagnosis.aliases:
        parts.append(_part("Elsewhere called", escape(", ".join(diagnosis.aliases))))
    if diagnosis.also:
        parts.append(_part("Proven too", " ".join(code_html(code) for code in diagnosis.also)))
    if diagnosis.remedy:
        parts.append(_part("Next step", steps_html(diagnosis.remedy)))
    parts.append(f'<div class="quiet">{retry_words(diagnosis.retry_helps)}</div>')
    if diagnosis.candidates:
        parts.append(_candidates(diagnosis.candidates))
    if facts := _facts(diagnosis, failure):
        parts.append(_part("Evidence", evidence_html(facts)))
    if diagnosis.ruled_out:
        parts.append(_ruled_out(diagnosis.ruled_out))
    parts.append("</div>")
    return "".join(parts)


def mends_html(mends: Sequence[Mend]) -> str:
    """What was done, or would be, one row each, in order."""
    rows = "".join(_mend(mend) for mend in mends)
    return f'<table class="evidence mends"><tbody>{rows}</tbody></table>'


def code_html(code: str) -> str:
    return f'<a class="code-pill" href="/explain/{quote(code, safe="")}">{escape(code)}</a>'


def _part(label: str, inside: str) -> str:
    return f'<div><div class="label">{label}</div>{inside}</div>'


def _facts(diagnosis: Diagnosis, failure: FailureReport | None) -> list[Evidence]:
    """The diagnosis's, then those of the failure and its causes that are not among them."""
    facts = list(diagnosis.evidence)
    known = {(item.fact, item.raw) for item in facts}
    for link in chain_of(failure):
        facts += [item for item in link.evidence if (item.fact, item.raw) not in known]
    return facts


def _candidates(candidates: Sequence[Candidate]) -> str:
    items = "".join(
        f"<li>{escape(each.cause)} {code_html(each.code)}"
        + "".join(f'<div class="quiet">not seen: {escape(one)}</div>' for one in each.missing)
        + "</li>"
        for each in candidates
    )
    probe = candidates[0].probe
    decide = _part("What would decide", with_commands(probe)) if probe else ""
    return _part("Possible, the likeliest first", f'<ol class="steps">{items}</ol>') + decide


def _ruled_out(ruled_out: Sequence[RuledOut]) -> str:
    rows = "".join(
        f"<tr><td>{code_html(each.code)}</td><td>{escape(each.why)}</td>"
        f"<td>{escape(each.evidence.source)}, {seen_at(each.evidence.observed_at)}"
        "</td></tr>"
        for each in ruled_out
    )
    return _part("Ruled out", f'<table class="evidence ruled-out"><tbody>{rows}</tbody></table>')


def _mend(mend: Mend) -> str:
    at = "" if mend.status is MendStatus.PLANNED else seen_at(mend.at)
    why = (
        f'<div class="raw">{escape(mend.failure.message)} [{escape(mend.failure.code)}]</div>'
        if mend.failure
        else ""
    )
    return (
        f"<tr><td>{at}</td>"
        f'<td><span class="chip tone-{tone(mend.status)}">{mend.status}</span></td>'
        f"<td>{escape(mend.words)}{why}</td><td>{code_html(mend.because)}</td></tr>"
    )
