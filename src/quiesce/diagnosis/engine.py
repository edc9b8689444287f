"""From a failure and the facts to its cause. docs/explanation/diagnosis.md has the rules.

Pure: the same failure and the same facts in any order give the same diagnosis.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from quiesce.diagnosis.catalogue import Catalogue, CatalogueEntry, catalogue
from quiesce.diagnosis.conditions import Condition, Rule, Seen, all_hold
from quiesce.diagnosis.remedies import remedy_for
from quiesce.diagnosis.rule_words import condition_words
from quiesce.diagnosis.supposed import NEVER, ROUTE, of_now, routes
from quiesce.model.diagnosis import Candidate, Diagnosis, Fact, RuledOut, Verdict
from quiesce.model.failure import Evidence, FailureReport
from quiesce.model.snapshot import Route

_CANDIDATES = 5
"""More would be no answer."""
_ONLY = {
    **dict.fromkeys(("agent.never-seen", "agent.silent", "agent.stale"), "guest"),
    **dict.fromkeys(("agent.hung", "agent.channel-lost", "agent.exec-timeout"), "host"),
}
"""Codes that only one route raises."""
_AGENTS = {"qga": Route.HOST, "waagent": Route.GUEST}
"""Families of facts that tell of one route's agent."""


class _Word(StrEnum):
    PROVEN = "proven"
    RULED_OUT = "ruled out"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class _Judged:
    """`by` are the conditions that decide it: those of the proof that holds, those that exclude
    it, or all of the open proof that lacks least. `distance`: how many steps of `explains` lead
    to it from the symptom."""

    entry: CatalogueEntry
    word: _Word
    by: Rule
    distance: int = 0


def diagnose(
    failure: FailureReport, facts: Sequence[Fact], *, source: Catalogue | None = None
) -> Diagnosis:
    """Why it failed. `seconds` is left to who asked.

    A code that the catalogue does not know, as of an older server, is not proven.
    """
    known = source or catalogue()
    chain = tuple(_chain(failure))
    codes = [each.code for each in chain]
    facts = _with_route(facts, codes)
    seen = Seen(facts, codes)
    own_evidence = _distinct(evidence for each in chain for evidence in each.evidence)
    raised = _without_cause(chain, known)
    if not raised:
        return Diagnosis(
            failure.code, failure.code, Verdict.NOT_PROVEN, failure.message, own_evidence
        )
    symptom = known.entries[raised[0].code]
    judged = _behind([known.entries[each.code] for each in raised], seen, known)
    proven = _deepest([each for each in judged if each.word is _Word.PROVEN], known)
    themselves = [(each, _judge(known.entries[each.code], seen, known)) for each in raised]
    ruled_out = tuple(_excluded(judged, seen))
    told = next((each for each in themselves if each[1].word is _Word.PROVEN), None)
    if proven and not (told and all(each.entry.circumstance for each in proven)):
        first = proven[0]
        return Diagnosis(
            symptom=symptom.code,
            code=first.entry.code,
            verdict=Verdict.PROVEN,
            cause=first.entry.cause,
            evidence=_distinct((*_evidence(first.by, seen), *own_evidence)),
            ruled_out=ruled_out,
            also=tuple(each.entry.code for each in proven[1:]),
            remedy=remedy_for(first.entry.steps, facts),
            retry_helps=first.entry.retryable,
            aliases=first.entry.aliases,
            route=_route(seen, first),
        )
    # What was raised tells its own cause, unless it names none or the facts contradict it.
    told = told or next((each for each in themselves if _tells(each[1], seen, known)), None)
    report, itself = told or themselves[0]
    return Diagnosis(
        symptom=symptom.code,
        code=itself.entry.code,
        verdict=Verdict.PROVEN if told else Verdict.NOT_PROVEN,
        cause=itself.entry.cause,
        evidence=_distinct(
            (*(_evidence(itself.by, seen) if itself.word is _Word.PROVEN else ()), *own_evidence)
        ),
        ruled_out=ruled_out,
        candidates=() if told else tuple(_candidates([itself, *judged], seen)),
        also=tuple(each.entry.code for each in proven),
        remedy=(report.remedy,) if report.remedy else remedy_for(itself.entry.steps, facts),
        retry_helps=report.retryable or itself.entry.retryable,
        aliases=itself.entry.aliases,
        route=_route(seen, itself),
        contradicted=told is None and _is_contradicted(itself, seen, known),
    )


def _tells(itself: _Judged, seen: Seen, known: Catalogue) -> bool:
    return not itself.entry.symptom and not _is_contradicted(itself, seen, known)


def _is_contradicted(itself: _Judged, seen: Seen, known: Catalogue) -> bool:
    return any(all_hold(rule, seen) for rule in known.rules[itself.entry.code].against)


def _route(seen: Seen, judged: _Judged) -> Route | None:
    """The route that failed or is supposed to; else that of the one agent of which the proof
    speaks."""
    told = seen.value(ROUTE)
    if told is not None:
        return Route(str(told))
    agents = {each.name.partition(".")[0] for each in judged.by} & set(_AGENTS)
    return _AGENTS[agents.pop()] if len(agents) == 1 else None


def standing(facts: Sequence[Fact], *, source: Catalogue | None = None) -> tuple[Diagnosis, ...]:
    """What the facts prove to be wrong though nothing need have failed yet, each cause once: what
    only follows from another one is in its `also`.

    A cause of one route counts if this VM has that route: what would fail if it were taken.
    """
    known = source or catalogue()
    facts = tuple(of_now(facts))
    proven: dict[str, _Judged] = {}
    views: dict[str, Seen] = {}
    for supposed in routes(Seen(facts)):
        seen = Seen([*_without_route(facts), *supposed])
        for entry in known.entries.values():
            judged = _judge(entry, seen, known)
            if judged.word is _Word.PROVEN and entry.code not in proven:
                proven[entry.code], views[entry.code] = judged, seen
    return tuple(
        Diagnosis(
            symptom=root.entry.code,
            code=root.entry.code,
            verdict=Verdict.PROVEN,
            cause=root.entry.cause,
            evidence=_evidence(
                (each for each in root.by if not each.about_failure), views[root.entry.code]
            ),
            also=tuple(sorted(_reach(root.entry, known) & set(proven))),
            remedy=remedy_for(root.entry.steps, views[root.entry.code].facts),
            retry_helps=root.entry.retryable,
            aliases=root.entry.aliases,
            route=_route(views[root.entry.code], root),
        )
        for root in _deepest(list(proven.values()), known)
    )


def excluded(code: str, facts: Sequence[Fact], route: Route | None = None) -> bool:
    """Whether the facts show that this cannot be the cause, of a failure of `route`."""
    known = catalogue()
    supposed = [] if route is None else [Fact(ROUTE, route.value, "it is asked about", "", NEVER)]
    seen = Seen([*_without_route(facts), *supposed])
    entry = known.entries.get(code)
    return entry is not None and _judge(entry, seen, known).word is _Word.RULED_OUT


def can_stand(code: str, *, source: Catalogue | None = None) -> bool:
    """Whether `standing` can ever show this code: a proof of it needs no failure."""
    rules = (source or catalogue()).rules.get(code)
    return rules is not None and any(
        not any(each.about_failure and each.name != ROUTE for each in rule) for rule in rules.proof
    )


def _with_route(facts: Sequence[Fact], codes: Sequence[str]) -> Sequence[Fact]:
    """The facts, with the route that failed where the codes alone tell it."""
    told = {_ONLY[code] for code in codes if code in _ONLY}
    if len(told) != 1 or any(fact.name == ROUTE for fact in facts):
        return facts
    [route] = told
    return [*facts, Fact(ROUTE, route, f"the {route} route failed", "the failure's code", NEVER)]


def _without_route(facts: Sequence[Fact]) -> Iterator[Fact]:
    return (fact for fact in facts if fact.name != ROUTE)


def _chain(failure: FailureReport) -> Iterator[FailureReport]:
    each: FailureReport | None = failure
    while each is not None:
        yield each
        each = each.cause


def _without_cause(chain: Sequence[FailureReport], known: Catalogue) -> list[FailureReport]:
    """What the search starts from: the innermost failure whose code is known and, as long as they
    name no cause by themselves, those around it."""
    found: list[FailureReport] = []
    for each in reversed(chain):
        entry = known.entries.get(each.code)
        if entry is not None:
            found.append(each)
            if not entry.symptom:
                break
    return found


def _behind(symptoms: list[CatalogueEntry], seen: Seen, known: Catalogue) -> list[_Judged]:
    """Everything that may stand behind the symptoms, nearest first. What is ruled out stands in
    nobody's way: a cause behind it would have shown by it."""
    found: dict[str, _Judged] = {}
    edge, distance = symptoms, 0
    while edge:
        nearer, edge, distance = edge, [], distance + 1
        for entry in nearer:
            for cause in known.causes[entry.code]:
                if cause.code in found or not cause.proof:
                    continue
                judged = replace(_judge(cause, seen, known), distance=distance)
                found[cause.code] = judged
                if judged.word is not _Word.RULED_OUT:
                    edge.append(cause)
    return list(found.values())


def _judge(entry: CatalogueEntry, seen: Seen, known: Catalogue) -> _Judged:
    rules = known.rules[entry.code]
    for rule in rules.against:
        if all_hold(rule, seen):
            return _Judged(entry, _Word.RULED_OUT, rule)
    holding = [rule for rule in rules.proof if all_hold(rule, seen)]
    if holding:
        return _Judged(entry, _Word.PROVEN, max(holding, key=len))
    false = [[each for each in rule if each.holds(seen) is False] for rule in rules.proof]
    if false and all(false):
        return _Judged(entry, _Word.RULED_OUT, tuple(each for some in false for each in some))
    still = [rule for rule, no in zip(rules.proof, false, strict=True) if not no]
    nearest = min(still, key=lambda rule: (_lacking(rule, seen), -len(rule)), default=())
    return _Judged(entry, _Word.OPEN, nearest)


def _lacking(rule: Rule, seen: Seen) -> int:
    return sum(each.holds(seen) is None for each in rule)


def _deepest(proven: Sequence[_Judged], known: Catalogue) -> list[_Judged]:
    """Those that no other explains, circumstances last. The one with the most particular proof
    comes first; of as particular ones the nearest to the symptom, then the one that explains
    least: it says the most."""
    reach = {each.entry.code: _reach(each.entry, known) for each in proven}
    explained = set().union(*reach.values())
    return sorted(
        (each for each in proven if each.entry.code not in explained),
        key=lambda each: (
            each.entry.circumstance,
            -len(each.by),
            each.distance,
            len(reach[each.entry.code]),
            each.entry.code,
        ),
    )


def _reach(entry: CatalogueEntry, known: Catalogue) -> set[str]:
    """All that it explains, directly and by way of others."""
    found: set[str] = set()
    edge = list(entry.explains)
    while edge:
        code = edge.pop()
        if code not in found:
            found.add(code)
            edge.extend(known.entries[code].explains)
    return found


def _excluded(judged: Iterable[_Judged], seen: Seen) -> Iterator[RuledOut]:
    """Those that a fact excludes. That it was another route, or another code, that failed is no
    news to anybody."""
    for each in judged:
        if each.word is not _Word.RULED_OUT:
            continue
        telling = [condition for condition in each.by if not condition.about_failure]
        fact = seen.fact(telling[0].name) if telling else None
        if fact is not None:
            why = f"{each.entry.title}? No. {_sentence(fact.words)}"
            yield RuledOut(each.entry.code, why, fact.evidence())


def _sentence(words: str) -> str:
    said = words[:1].upper() + words[1:]
    return said if said.endswith((".", "!", "?")) else f"{said}."


def _candidates(judged: Iterable[_Judged], seen: Seen) -> Iterator[Candidate]:
    open_ones = [each for each in judged if each.word is _Word.OPEN and each.by]

    def likely(each: _Judged) -> tuple[int, int, str]:
        held = sum(bool(one.holds(seen)) for one in each.by if not one.about_failure)
        return (-held, _lacking(each.by, seen), each.entry.code)

    for each in sorted(open_ones, key=likely)[:_CANDIDATES]:
        missing = [condition for condition in each.by if condition.holds(seen) is None]
        yield Candidate(
            code=each.entry.code,
            cause=each.entry.cause,
            missing=tuple(condition_words(condition) for condition in missing),
            probe=missing[0].look.how,
        )


def _evidence(conditions: Iterable[Condition], seen: Seen) -> tuple[Evidence, ...]:
    facts = (seen.fact(each.name) for each in conditions if each.name != ROUTE)
    return _distinct(fact.evidence() for fact in facts if fact is not None)


def _distinct(evidence: Iterable[Evidence]) -> tuple[Evidence, ...]:
    return tuple(dict.fromkeys(evidence))
