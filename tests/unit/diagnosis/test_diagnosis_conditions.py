"""Conditions: what they mean, and that a mistake in one is found when the catalogue is read."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_facts import NOW, fact, name_of

from quiesce.diagnosis.conditions import Seen, fits, parse
from quiesce.diagnosis.rule_words import MENDS, condition_words
from quiesce.diagnosis.vocabulary import FACTS
from quiesce.model.diagnosis import Fact, FactValue, MendAction


def seen(codes: tuple[str, ...] = (), **facts: FactValue) -> Seen:
    return Seen([fact(name_of(name), value) for name, value in facts.items()], codes)


@pytest.mark.parametrize(
    ("condition", "facts", "holds"),
    [
        ("vm.power is paused", {"vm_power": "paused"}, True),
        ("vm.power is paused", {"vm_power": "running"}, False),
        ("vm.power is not paused", {"vm_power": "running"}, True),
        ("vm.power is one of paused, crashed", {"vm_power": "crashed"}, True),
        ("vm.power is one of paused, crashed", {"vm_power": "off"}, False),
        ("vm.power is known", {"vm_power": "off"}, True),
        ("waagent.polls is true", {"waagent_polls": True}, True),
        ("waagent.polls is false", {"waagent_polls": True}, False),
        ("waagent.restarts > 2", {"waagent_restarts": 3.0}, True),
        ("waagent.restarts > 2", {"waagent_restarts": 2}, False),
        ("guest.clock-ahead-seconds < -300", {"guest_clock__ahead__seconds": -301.5}, True),
        ("guest.disk-full is empty", {"guest_disk__full": ""}, True),
        ("guest.disk-full is not empty", {"guest_disk__full": "/var"}, True),
        ("guest.disk-full is not empty", {"guest_disk__full": " "}, False),
    ],
)
def test_a_condition_over_a_fact_that_was_seen_is_true_or_false(
    condition: str, facts: dict[str, FactValue], holds: bool
) -> None:
    assert parse(condition).holds(seen(**facts)) is holds


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("failure is network.dns-failed", True),
        ("failure is agent.silent", True),
        ("failure is network.*", True),
        ("failure is storage.*", False),
        ("failure is not storage.*", True),
        ("failure is one of vm.gone, agent.silent", True),
        ("failure is *", True),
        ("failure is not *", False),
    ],
)
def test_a_failure_is_any_code_of_its_chain(condition: str, holds: bool) -> None:
    assert parse(condition).holds(seen(("agent.silent", "network.dns-failed"))) is holds


def test_before_anything_failed_no_code_fits() -> None:
    assert parse("failure is *").holds(seen()) is False
    assert parse("failure is not *").holds(seen()) is True


@pytest.mark.parametrize(
    "condition",
    [
        "", "vm.power", "vm.power is", "vm.power is asleep", "vm.power is one of paused, asleep",
        "vm.power > 3", "vm.power is empty", "waagent.polls is yes", "waagent.polls is empty",
        "waagent.restarts > many", "waagent.restarts > nan", "no.such-fact is known",
        "failure > 3", "failure is known", "failure is Nonsense", "vm.power is  paused ",
        "vm.power is paused or crashed", "vm.power are paused",
    ],
)  # fmt: skip
def test_a_condition_that_is_none_is_refused(condition: str) -> None:
    with pytest.raises(ValueError, match=r"is not a condition|:"):
        parse(condition)


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_is_refused(text: str) -> None:
    try:
        condition = parse(text)
    except ValueError:
        return
    assert condition.text == text
    assert condition_words(condition)


@given(st.sampled_from(sorted(FACTS)))
def test_a_fact_that_nobody_has_seen_is_neither_true_nor_false(name: str) -> None:
    kind = FACTS[name]
    forms = ["is known"]
    if kind.type is bool:
        forms += ["is true", "is not true"]
    elif kind.type is str:
        forms += [f"is not {kind.words[0]}"] if kind.words else ["is empty", "is not empty"]
    else:
        forms += ["> 0", "< 0"]
    for form in forms:
        assert parse(f"{name} {form}").holds(Seen([])) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("vm.power", "asleep"), ("vm.power", 1), ("waagent.polls", 1), ("waagent.polls", "true"),
     ("waagent.restarts", True), ("waagent.restarts", "3"), ("waagent.restarts", float("inf"))],
)  # fmt: skip
def test_a_value_of_another_kind_is_not_seen(name: str, value: FactValue) -> None:
    assert not fits(value, FACTS[name])
    assert Seen([Fact(name, value, "w", "s", NOW)]).fact(name) is None


def test_the_newest_of_a_name_counts() -> None:
    old = Fact("vm.power", "paused", "w", "s", NOW - timedelta(seconds=1))
    new = Fact("vm.power", "running", "w", "s", NOW)
    for order in ([old, new], [new, old]):
        assert Seen(order).value("vm.power") == "running"


def test_what_two_looks_contradict_each_other_in_is_not_known() -> None:
    one = Fact("vm.power", "paused", "w", "s", NOW)
    other = Fact("vm.power", "running", "w", "t", NOW)
    assert Seen([one, other]).value("vm.power") is None


def test_each_action_is_said_in_words() -> None:
    assert set(MENDS) == set(MendAction)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("waagent.unit is one of inactive, failed", "its service is inactive or failed"),
        ("waagent.restarts > 2", "more than 2"),
        ("guest.cpu-percent > 90", "more than 90 %"),
        ("waagent.installed is false", "not so – Azure Linux agent: its program is there"),
        ("failed.route is guest", "the guest route failed"),
        ("failure is not *", "nothing has failed yet"),
        ("failure is one of vm.gone, vm.paused", "what failed is `vm.gone` or `vm.paused`"),
    ],
)  # fmt: skip
def test_a_condition_is_said_in_words(condition: str, words: str) -> None:
    assert words in condition_words(parse(condition))
