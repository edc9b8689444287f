"""What the portal shows of a code."""

from __future__ import annotations

from quiesce.diagnosis.catalogue import catalogue
from quiesce.diagnosis.explain import explain
from quiesce.portal.explain_page import links_html, related_html, rules_html


def test_a_cause_is_shown_with_what_proves_it_and_what_excludes_it() -> None:
    shown = rules_html(catalogue().rules["agent.not-running"])
    assert shown.count("<ul") == shown.count("</ul>") == 2
    assert "Proven by" in shown
    assert "the agent's port is closed" in shown.replace("&#x27;", "'")
    assert "<code>" not in rules_html(catalogue().rules["vm.paused"])


def test_a_code_without_rules_shows_none() -> None:
    assert rules_html(catalogue().rules["policy.not-found"]) == ""


def test_what_a_cause_explains_and_what_is_related_lead_to_their_pages() -> None:
    entry = catalogue().entries["agent.not-running"]
    shown = links_html("Explains", entry.explains)
    assert 'href="/explain/agent.silent"' in shown
    assert links_html("Explains", ()) == ""
    related = related_html(explain("agent.silent").related)
    assert 'href="/explain/agent.not-running"' in related
    assert entry.title in related
    assert related_html(()) == ""
