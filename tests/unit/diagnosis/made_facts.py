"""Facts as tests make them."""

from __future__ import annotations

from datetime import UTC, datetime

from quiesce.diagnosis.engine import diagnose
from quiesce.model.diagnosis import Diagnosis, Fact, FactValue
from quiesce.model.failure import FailureReport

NOW = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)


def fact(name: str, value: FactValue, words: str = "", *, at: datetime = NOW) -> Fact:
    return Fact(name, value, words or f"{name} is {value}", "a test", at)


def found(code: str, **facts: FactValue) -> Diagnosis:
    """What is made of a failure with this code and these facts, named as `name_of` has it."""
    report = FailureReport(code, "It failed.")
    return diagnose(report, [fact(name_of(name), value) for name, value in facts.items()])


def name_of(word: str) -> str:
    """`_` stands for the dot of a fact's name, and `__` for a hyphen."""
    return word.replace("__", "-").replace("_", ".", 1)
