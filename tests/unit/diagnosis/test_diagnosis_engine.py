"""From facts to causes: nothing is proven by less than its proof, nothing that is excluded is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_facts import fact

from quiesce.diagnosis.catalogue import catalogue
from quiesce.diagnosis.conditions import FAILED, Condition, How, Rule, Seen, all_hold
from quiesce.diagnosis.engine import diagnose, standing
from quiesce.diagnosis.vocabulary import FACTS, Kind
from quiesce.model.diagnosis import Fact, FactValue, Verdict
from quiesce.model.failure import Evidence, FailureReport

KNOWN = catalogue()
SYMPTOMS = [code for code in KNOWN.entries if KNOWN.causes[code]]


def failure(*codes: str, evidence: tuple[Evidence, ...] = ()) -> FailureReport:
    """A chain of failures, the outermost first."""
    report: FailureReport | None = None
    for code in reversed(codes):
        report = FailureReport(code, f"It failed: {code}.", evidence, cause=report)
    assert report is not None
    return report


def value_for(condition: Condition) -> FactValue:
    """A value that fulfils it."""
    kind = FACTS[condition.name]
    wanted = condition.values[0] if condition.values else None
    match condition.how:
        case How.IS | How.ONE_OF:
            assert wanted is not None
            return wanted
        case How.ABOVE:
            return float(str(wanted)) + 1
        case How.BELOW:
            return float(str(wanted)) - 1
        case How.EMPTY:
            return ""
        case How.IS_NOT:
            return next(each for each in _values(kind) if each not in condition.values)
    return "something"


def _values(kind: Kind) -> tuple[FactValue, ...]:
    if kind.type is bool:
        return (True, False)
    if kind.type is str:
        return kind.words or ("something", "another thing", "")
    return (0.0, 50.0, 95.0, 1e9, -1e9)


@dataclass(frozen=True)
class Case:
    """One proof, with one code that it would explain."""

    code: str
    symptom: str
    proof: Rule

    @property
    def facts(self) -> list[Fact]:
        found = {each.name: value_for(each) for each in self.proof if each.name != FAILED}
        return [fact(name, value) for name, value in found.items()]

    @property
    def report(self) -> FailureReport:
        return failure(self.symptom)


def cases() -> Iterator[Case]:
    """Every proof with the entry itself and every code that it explains, where that fits."""
    for code, rules in KNOWN.rules.items():
        for proof in rules.proof:
            for symptom in (*KNOWN.entries[code].explains, code):
                case = Case(code, symptom, proof)
                if _possible(case):
                    yield case


def _possible(case: Case) -> bool:
    """Not a proof by the other route's failure, nor by another code's."""
    seen = Seen(case.facts, [case.symptom])
    route = seen.value("failed.route")
    return all(each.holds(seen) for each in case.proof if each.about_failure) and (
        case.symptom not in ONLY_BY_GUEST or route in ("guest", None)
    )


ONLY_BY_GUEST = ("agent.never-seen", "agent.silent", "agent.stale")
ONLY_BY_HOST = ("agent.hung", "agent.channel-lost", "agent.exec-timeout")
CASES = list(cases())
STANDING = [
    Case(code, "", proof)
    for code, rules in KNOWN.rules.items()
    for proof in rules.proof
    if not any(each.name == FAILED and each.text != "failure is not *" for each in proof)
    and not any(each.name in ("failed.errno", "failed.mount") for each in proof)
]


def name_of(case: Case) -> str:
    return f"{case.code} from {case.symptom} by {', '.join(each.text for each in case.proof)}"


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_facts_of_a_proof_prove_exactly_that_cause(case: Case) -> None:
    found = diagnose(case.report, case.facts)
    assert (found.verdict, found.code) == (Verdict.PROVEN, case.code)


@pytest.mark.parametrize("case", [c for c in CASES if c.code != c.symptom], ids=name_of)
def test_with_any_one_fact_of_a_proof_less_it_is_not_proven(case: Case) -> None:
    facts = case.facts
    for left_out in facts:
        rest = [each for each in facts if each is not left_out]
        if holds(KNOWN.rules[case.code].proof, rest, case.symptom):
            continue  # the code itself tells the route, or less is enough by another proof
        found = diagnose(case.report, rest)
        assert case.code not in (found.code, *found.also), f"proven without {left_out.name}"


def test_every_proof_can_be_fulfilled() -> None:
    reached = {(case.code, case.proof) for case in (*CASES, *STANDING)}
    wanted = {(code, proof) for code, rules in KNOWN.rules.items() for proof in rules.proof}
    assert wanted - reached == set()


@pytest.mark.parametrize("case", STANDING, ids=name_of)
def test_what_is_wrong_is_found_before_anything_has_failed(case: Case) -> None:
    facts = [each for each in case.facts if each.name != "failed.route"]
    route = Seen(case.facts).value("failed.route")
    if route is not None:
        facts.append(fact(f"{'qga' if route == 'host' else 'waagent'}.configured", True))
    assert case.code in [found.code for found in standing(facts)]


@pytest.mark.parametrize(
    "case", [case for case in STANDING if case.proof[0].name == "failed.route"]
)
def test_what_concerns_an_agent_that_a_vm_does_not_have_is_no_trouble(case: Case) -> None:
    route = Seen(case.facts).value("failed.route")
    agent = "qga" if route == "host" else "waagent"
    facts = [each for each in case.facts if each.name != "failed.route"]
    facts.append(fact(f"{agent}.configured", False))
    assert case.code not in [found.code for found in standing(facts)]


# --- any facts at all

TELLING: dict[str, list[FactValue]] = {name: [] for name in FACTS}
for _rules in KNOWN.rules.values():
    for _rule in (*_rules.proof, *_rules.against):
        for _each in _rule:
            if _each.name != FAILED:
                TELLING[_each.name].append(value_for(_each))


@st.composite
def any_facts(draw: st.DrawFn) -> list[Fact]:
    names = draw(st.lists(st.sampled_from(sorted(FACTS)), max_size=25, unique=True))
    return [
        fact(name, draw(st.sampled_from([*TELLING[name], *_values(FACTS[name])]))) for name in names
    ]


def holds(rules: tuple[Rule, ...], facts: list[Fact], symptom: str) -> bool:
    told = [fact("failed.route", "guest")] if symptom in ONLY_BY_GUEST else []
    told += [fact("failed.route", "host")] if symptom in ONLY_BY_HOST else []
    if any(each.name == "failed.route" for each in facts):
        told = []
    seen = Seen([*facts, *told], [symptom])
    return any(all_hold(rule, seen) for rule in rules)


@given(st.sampled_from(SYMPTOMS), any_facts())
def test_nothing_is_proven_of_which_no_proof_is_wholly_true(
    symptom: str, facts: list[Fact]
) -> None:
    found = diagnose(failure(symptom), facts)
    for code in (found.code, *found.also):
        if code != symptom:
            assert holds(KNOWN.rules[code].proof, facts, symptom)
            assert not holds(KNOWN.rules[code].against, facts, symptom)
    if found.code == symptom and found.verdict is Verdict.PROVEN:
        by_facts = holds(KNOWN.rules[symptom].proof, facts, symptom)
        assert by_facts or not KNOWN.entries[symptom].symptom


@given(st.sampled_from(SYMPTOMS), any_facts())
def test_what_is_ruled_out_is_not_proven_and_the_other_way_round(
    symptom: str, facts: list[Fact]
) -> None:
    found = diagnose(failure(symptom), facts)
    named = {found.code, *found.also} if found.verdict is Verdict.PROVEN else set()
    excluded = {each.code for each in found.ruled_out}
    possible = {each.code for each in found.candidates}
    assert not named & (excluded | possible)
    assert not excluded & possible
    for each in found.ruled_out:
        assert each.evidence.fact in {every.words for every in facts}
        assert each.evidence.fact[1:] in each.why


@given(st.sampled_from(CASES), st.data())
def test_a_fact_that_excludes_a_cause_never_leaves_it_proven(
    case: Case, data: st.DataObject
) -> None:
    against = [
        rule
        for rule in KNOWN.rules[case.code].against
        if all(each.name != FAILED for each in rule) and not _contradicts(rule, case)
    ]
    if not against:
        return
    rule = data.draw(st.sampled_from(against))
    facts = [each for each in case.facts if each.name not in {c.name for c in rule}]
    facts += [fact(each.name, value_for(each)) for each in rule]
    found = diagnose(case.report, facts)
    assert case.code not in found.also
    assert found.code != case.code or found.verdict is Verdict.NOT_PROVEN


def _contradicts(rule: Rule, case: Case) -> bool:
    """A rule for the other route."""
    by = Seen(case.facts).value("failed.route")
    return by is not None and any(
        each.name == "failed.route" and by not in each.values for each in rule
    )


@given(st.sampled_from(SYMPTOMS), any_facts(), st.randoms(use_true_random=False))
def test_the_order_of_facts_changes_nothing(
    symptom: str, facts: list[Fact], random: Random
) -> None:
    shuffled = list(facts)
    random.shuffle(shuffled)
    assert diagnose(failure(symptom), shuffled) == diagnose(failure(symptom), facts)
    assert standing(shuffled) == standing(facts)


@given(any_facts())
def test_each_standing_cause_is_named_once(facts: list[Fact]) -> None:
    codes = [found.code for found in standing(facts)]
    assert len(codes) == len(set(codes))
    for found in standing(facts):
        assert found.verdict is Verdict.PROVEN
        assert not set(found.also) & set(codes)
