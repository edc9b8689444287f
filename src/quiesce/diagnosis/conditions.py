"""The conditions of a rule, and whether facts fulfil them: true, false, or not known.

    NAME is VALUE             NAME is not VALUE        NAME is one of A, B
    NAME is known             NAME is empty            NAME is not empty
    NAME > N                  NAME < N
    failure is CODE           failure is not CODE      failure is one of CODE, CODE

`failure` stands for all codes of the failure's chain of causes; `network.*` for a family, `*` for
any. A
condition over a fact that nobody has seen is not known, and so is one over a fact that two looks at
the same instant contradict each other in. Nothing is proven by what is not known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from quiesce.diagnosis.vocabulary import FACTS, FAILURE, Kind, Look
from quiesce.model.diagnosis import Fact, FactValue

Truth = bool | None
"""None: not known."""

FAILED = "failure"
_CODE = re.compile(r"\*|[a-z]+\.(\*|[a-z0-9]+(-[a-z0-9]+)*)")
_FORM = re.compile(
    r"(?P<name>[a-z0-9.-]+) (?:(?P<how>is not empty|is empty|is known)"
    r"|(?P<how_many>is one of|is not|is|>|<) (?P<value>\S.*))"
)


class How(StrEnum):
    IS = "is"
    IS_NOT = "is not"
    ONE_OF = "is one of"
    KNOWN = "is known"
    EMPTY = "is empty"
    NOT_EMPTY = "is not empty"
    ABOVE = ">"
    BELOW = "<"


class Seen:
    """The facts by name, each the newest of its name, and the codes of what failed.

    What the vocabulary does not know, or knows with another type, is left out: a reader's mistake
    proves nothing.
    """

    def __init__(self, facts: Iterable[Fact], codes: Sequence[str] = ()) -> None:
        self.codes = tuple(codes)
        newest: dict[str, list[Fact]] = {}
        for fact in facts:
            kind = FACTS.get(fact.name)
            if kind is None or not fits(fact.value, kind):
                continue
            known = newest.setdefault(fact.name, [])
            if known and fact.observed_at > known[0].observed_at:
                known.clear()
            if not known or fact.observed_at == known[0].observed_at:
                known.append(fact)
        self._facts: Mapping[str, Fact] = {
            name: min(each, key=lambda fact: (fact.source, fact.words, fact.raw))
            for name, each in newest.items()
            if len({fact.value for fact in each}) == 1
        }

    @property
    def facts(self) -> tuple[Fact, ...]:
        return tuple(self._facts.values())

    def fact(self, name: str) -> Fact | None:
        return self._facts.get(name)

    def value(self, name: str) -> FactValue | None:
        fact = self._facts.get(name)
        return None if fact is None else fact.value

    def failed(self, code: str) -> bool:
        """Whether the code, one of the family `network.*`, or any for `*`, is in the chain."""
        if code.endswith("*"):
            return any(each.startswith(code[:-1]) for each in self.codes)
        return code in self.codes


@dataclass(frozen=True, slots=True)
class Condition:
    """`values` as the fact's type has them; none for those that compare with nothing."""

    name: str
    how: How
    values: tuple[FactValue, ...]
    text: str

    def holds(self, seen: Seen) -> Truth:
        if self.name == FAILED:
            hit = any(seen.failed(str(code)) for code in self.values)
            return not hit if self.how is How.IS_NOT else hit
        value = seen.value(self.name)
        if value is None:
            return None
        match self.how:
            case How.KNOWN:
                return True
            case How.EMPTY:
                return not str(value).strip()
            case How.NOT_EMPTY:
                return bool(str(value).strip())
            case How.IS_NOT:
                return value not in self.values
            case How.ABOVE:
                return float(value) > float(self.values[0])
            case How.BELOW:
                return float(value) < float(self.values[0])
        return value in self.values

    @property
    def look(self) -> Look:
        """The look that decides it."""
        return FAILURE if self.name == FAILED else FACTS[self.name].look

    @property
    def about_failure(self) -> bool:
        """Whether it speaks of what failed, and not of the state of anything."""
        return self.look is FAILURE


Rule = tuple[Condition, ...]
"""Conditions that must hold together."""


def all_hold(rule: Rule, seen: Seen) -> bool:
    return all(each.holds(seen) for each in rule)


def fits(value: object, kind: Kind) -> bool:
    """Whether a fact of this kind may have this value."""
    if kind.type is bool:
        return isinstance(value, bool)
    if kind.type is str:
        return isinstance(value, str) and (not kind.words or value in kind.words)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def parse(text: str) -> Condition:
    """:raise ValueError: not of the form above, a fact that the vocabulary does not know, or a
    value that does not fit its type"""
    form = _FORM.fullmatch(text)
    if form is None:
        raise ValueError(f"{text!r} is not a condition")
    name, value = form["name"], form["value"]
    how = How(form["how"] or form["how_many"])
    words = [] if value is None else [value]
    if how is How.ONE_OF:
        words = [word.strip() for word in value.split(",")]
    if name == FAILED:
        if how not in (How.IS, How.IS_NOT, How.ONE_OF) or not all(map(_CODE.fullmatch, words)):
            raise ValueError(f"{text!r}: a failure is, is not, or is one of codes")
        return Condition(name, how, tuple(words), text)
    kind = FACTS.get(name)
    if kind is None:
        raise ValueError(f"{text!r}: the vocabulary has no fact {name!r}")
    if how in (How.EMPTY, How.NOT_EMPTY) and (kind.type is not str or kind.words):
        raise ValueError(f"{text!r}: only a free text can be empty")
    if how in (How.ABOVE, How.BELOW) and kind.type not in (int, float):
        raise ValueError(f"{text!r}: only a number can be compared")
    return Condition(name, how, tuple(_value(word, kind, text) for word in words), text)


def _value(word: str, kind: Kind, text: str) -> FactValue:
    value: FactValue = word
    if kind.type is bool and word in ("true", "false"):
        value = word == "true"
    elif kind.type in (int, float):
        try:
            value = float(word)
        except ValueError:
            raise ValueError(f"{text!r}: {word!r} is not a number") from None
    if not fits(value, kind):
        raise ValueError(f"{text!r}: {word!r} is no value of {kind.says!r}")
    return value
