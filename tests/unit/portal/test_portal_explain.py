"""What the portal shows of a code."""

from __future__ import annotations

from quiesce.diagnosis.catalogue import catalogue
from quiesce.portal.explain_page import rules_html


def test_a_cause_is_shown_with_what_proves_it_and_what_excludes_it() -> None:
    shown = rules_html(catalogue().rules["agent.not-running"])
    assert shown.count("<ul") == shown.count("</ul>") == 2
    assert "Proven by" in shown
    assert "the agent's port is closed" in shown.replace("&#x27;", "'")
    assert "<code>" not in rules_html(catalogue().rules["vm.paused"])


def test_a_code_without_rules_shows_none() -> None:
    assert rules_html(catalogue().rules["policy.not-found"]) == ""
