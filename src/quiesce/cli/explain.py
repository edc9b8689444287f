"""`quiesce explain`: what a failure code means. Needs no server."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter
from rich.padding import Padding
from rich.text import Text

from quiesce.cli import screen
from quiesce.cli.options import COMMON, Common
from quiesce.diagnosis.catalogue import CatalogueEntry, catalogue
from quiesce.diagnosis.explain import Explanation, Match
from quiesce.diagnosis.explain import explain as look_up
from quiesce.diagnosis.phrases import retry_words
from quiesce.diagnosis.rule_words import mend_words, rule_words


def explain(
    *words: Annotated[
        str, Parameter(help="A code, a foreign code (121, UserErrorFsFreezeFailed), or a text.")
    ],
    reference: Annotated[
        bool, Parameter(show_default=False, help="Print the whole catalogue as Markdown.")
    ] = False,
    common: Common = COMMON,
) -> None:
    """What a failure code means and what mends it.

    Takes a code, a code of another product, a family such as "agent", or a pasted error text.
    Without any, it lists all codes. Works without a server.
    """
    if reference:
        from quiesce.diagnosis.reference import as_markdown

        print(as_markdown(catalogue()), end="")
        return
    question = " ".join(words).strip()
    if not question:
        entries = tuple(catalogue().entries.values())
        screen.emit(
            [asdict(entry) for entry in entries],
            as_json=common.json,
            human=lambda: _listing(entries),
        )
        return
    answer = look_up(question)
    screen.emit(asdict(answer), as_json=common.json, human=lambda: _show(answer))


def _show(answer: Explanation) -> None:
    if answer.match is Match.FAMILY:
        _listing(answer.entries)
        return
    for index, entry in enumerate(answer.entries):
        if index:
            screen.out.print()
        _entry(entry)
    if answer.related:
        screen.out.print()
        screen.say("Possible causes and relatives:", "bold")
        _rows(answer.related)


def _entry(entry: CatalogueEntry) -> None:
    screen.out.print(Text.assemble((entry.title, "bold"), (f"  {entry.code}", "dim")))
    screen.say(entry.cause)
    for number, step in enumerate(entry.remedy, 1):
        mark = f"{number}. " if len(entry.remedy) > 1 else ""
        screen.out.print(
            Padding(Text(mark) + screen.with_commands(step), (0, 0, 0, 2), expand=False)
        )
    if entry.mends:
        screen.say(f"By itself: {entry.mends}")
    if entry.mend_by:
        screen.say(f"What Quiesce does: it {mend_words(entry.mend_by)}.")
    screen.say(retry_words(entry.retryable))
    rules = catalogue().rules[entry.code]
    for heading, each in (("Proven by", rules.proof), ("Ruled out by", rules.against)):
        if each:
            screen.say(f"{heading}:")
            for rule in each:
                screen.out.print(
                    Padding(screen.with_commands(rule_words(rule)), (0, 0, 0, 2), expand=False)
                )
    if entry.explains:
        screen.say(f"Explains: {', '.join(entry.explains)}")
    if entry.aliases:
        screen.say(f"Elsewhere called: {', '.join(entry.aliases)}", "dim")


def _listing(entries: tuple[CatalogueEntry, ...]) -> None:
    families = catalogue().families
    family = ""
    for entry in entries:
        if entry.family != family:
            family = entry.family
            screen.say(families[family], "bold")
        _rows((entry,))


def _rows(entries: tuple[CatalogueEntry, ...]) -> None:
    for entry in entries:
        screen.say(f"  {entry.code:<30} {entry.title}")
