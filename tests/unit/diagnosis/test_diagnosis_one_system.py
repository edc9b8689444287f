"""A rule that wants what no one system shows can never hold: it is dead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import quiesce.diagnosis.reading
from quiesce.diagnosis.catalogue import catalogue
from quiesce.diagnosis.conditions import FAILED, Rule
from quiesce.diagnosis.vocabulary import FACTS, GUEST

READERS = Path(quiesce.diagnosis.reading.__file__).parent
OF_ALL = {"guest.clock-ahead-seconds", "guest.examined", "guest.frozen"}
"""The collection's own and the agent's own, whatever the system."""
RULES = [
    (code, rule)
    for code, rules in catalogue().rules.items()
    for rule in (*rules.proof, *rules.against)
]


def yielded(*, windows: bool) -> set[str]:
    """Names of facts in the sources of the readers for that kind of system, as `"guest.os"` or,
    for both agents, `f"{agent.name}.unit"`."""
    files = [each for each in READERS.glob("*.py") if each.name.startswith("windows") is windows]
    text = "\n".join(each.read_text() for each in files)
    names = set(re.findall(r'"([a-z]+\.[a-z0-9-]+)"', text))
    for word in re.findall(r'f"\{agent\.name\}\.([a-z-]+)"', text):
        names |= {f"waagent.{word}", f"qga.{word}"}
    return names | OF_ALL


WINDOWS, LINUX = yielded(windows=True), yielded(windows=False)


def of_guest(rule: Rule) -> set[str]:
    return {each.name for each in rule if each.name != FAILED and FACTS[each.name].look is GUEST}


def test_every_fact_about_a_guest_is_yielded_by_a_reader() -> None:
    known = {name for name, kind in FACTS.items() if kind.look is GUEST}
    assert known - WINDOWS - LINUX == set()


@pytest.mark.parametrize(
    ("code", "rule"), RULES, ids=lambda each: each if isinstance(each, str) else each[0].text
)
def test_what_a_rule_wants_can_be_seen_in_one_guest(code: str, rule: Rule) -> None:
    names = of_guest(rule)
    of_windows = any(each.text == "guest.os is windows" for each in rule)
    assert names <= WINDOWS or (not of_windows and names <= LINUX)
