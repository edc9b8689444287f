"""What commands print: tables, times, and failures with their evidence and next step.

Results go to standard output, failures and questions to standard error. Names and raw error texts
come from elsewhere: they are never taken as markup, and control characters in them are made
visible, so that a guest's words cannot steer the operator's terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quiesce.diagnosis.catalogue import catalogue
from quiesce.diagnosis.phrases import seen_at
from quiesce.model.agent import AgentCondition
from quiesce.model.failure import Evidence, FailureReport
from quiesce.model.job import JobStatus, TaskStatus

_UNBROKEN = 10_000
"""Columns where there is no terminal: a line is what a program, or a person later, takes it for."""


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _UNBROKEN
    return console


out, err = _console(), _console(stderr=True)

_STYLES = {
    JobStatus.COMPLETED: "green",
    JobStatus.COMPLETED_WITH_WARNING: "yellow",
    JobStatus.FAILED: "red",
    JobStatus.CANCELLED: "yellow",
    JobStatus.IN_PROGRESS: "cyan",
    TaskStatus.SKIPPED: "yellow",
    "running": "green",
    "crashed": "red",
    "application": "green",
    "file-system": "green",
    "offline": "green",
    "crash": "yellow",
    AgentCondition.READY: "green",
    AgentCondition.NOT_READY: "red",
    AgentCondition.STALE: "yellow",
    "Ready": "green",  # the Azure Linux agent's own words
    "NotReady": "red",
    "Unresponsive": "red",
}


def emit(value: Any, *, as_json: bool, human: Callable[[], None]) -> None:
    """Print an answer: as JSON for programs, else by `human` for people."""
    if as_json:
        print_json(value)
    else:
        human()


def print_json(value: Any) -> None:
    # Not rich's: that would wrap long strings at the terminal's width.
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n")


def _plain(value: object) -> str:
    """Of a failure that this process met; times as the API writes them."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value)


def clean(text: object) -> str:
    """`text` with control characters made visible; line ends and tabs stay."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else ascii(character)[1:-1]
        for character in str(text)
    )


def styled(word: str) -> Text:
    """A status or label in the colour it has everywhere."""
    return Text(clean(word), style=_STYLES.get(word, ""))


def when(stamp: str | None, *, seconds: bool = False) -> str:
    """An ISO time as local time with its zone; "–" for none."""
    if not stamp:
        return "–"
    local = datetime.fromisoformat(stamp).astimezone()
    return local.strftime("%Y-%m-%d %H:%M:%S %Z" if seconds else "%Y-%m-%d %H:%M %Z")


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    right: str = "",
    whole: str = "",
) -> None:
    """Rows under headings; headings named in `right` (separated by spaces) are aligned right, the
    cells of those in `whole` stay on one line."""
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for heading in headings:
        grid.add_column(
            heading,
            justify="right" if heading in right.split() else "left",
            overflow="fold",
            no_wrap=heading in whole.split(),
        )
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(clean(cell)) for cell in row))
    _print(grid, out)


def facts(pairs: Iterable[tuple[str, str | Text]]) -> None:
    """One thing's properties, a name and a value on each line; empty values are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            grid.add_row(name, value if isinstance(value, Text) else Text(clean(value)))
    _print(grid, out)


def _print(grid: Table | Padding, console: Console) -> None:
    """Where there is no terminal, without the blanks that fill each line up."""
    if console.is_terminal:
        console.print(grid)
        return
    with console.capture() as rendered:
        console.print(grid)
    for line in rendered.get().splitlines():
        console.print(line.rstrip(), soft_wrap=True)


def say(text: str, style: str = "") -> None:
    out.print(Text(clean(text), style=style))


def show_failure(failure: FailureReport, *, to: Console | None = None) -> None:
    """A failure for a person: sentence, code, evidence, inner causes, next step."""
    console = to or err
    show_failure_line(failure, console)
    show_causes(failure, console)
    show_steps(remedy_steps(failure), console)
    if failure.code in catalogue().entries:
        console.print(Text(f"More: quiesce explain {failure.code}", style="dim"))


def show_failure_line(failure: FailureReport, console: Console = out) -> None:
    """Its sentence and its code."""
    console.print(
        Text.assemble((clean(failure.message), "bold red"), (f"  [{clean(failure.code)}]", "dim"))
    )


def show_causes(
    failure: FailureReport, console: Console = out, *, without: Sequence[Evidence] = ()
) -> None:
    """Its evidence, and the inner failures with theirs; facts in `without` are known already."""
    known = {(item.fact, item.raw) for item in without}
    shown: set[tuple[str, str, str]] = set()
    link: FailureReport | None = failure
    while link is not None:
        if link is not failure:
            console.print(Text(f"  because: {clean(link.message)} [{clean(link.code)}]"))
        new = [
            item
            for item in link.evidence
            if (item.fact, item.raw) not in known
            and (item.fact, item.source, item.raw) not in shown
        ]
        show_evidence(new, console)
        shown |= {(item.fact, item.source, item.raw) for item in new}
        link = link.cause


def remedy_steps(failure: FailureReport) -> tuple[str, ...]:
    """What to do next: the failure's own remedy, else the catalogue's."""
    if failure.remedy:
        return (failure.remedy,)
    entry = catalogue().entries.get(failure.code)
    return entry.remedy if entry else ()


def failure_json(failure: FailureReport) -> Any:
    """The object printed for a failure under `--json`: with the remedy that people see, a step a
    line."""
    return asdict(failure) | {"remedy": "\n".join(remedy_steps(failure))}


def with_commands(text: str, console: Console = out) -> Text:
    """A sentence whose `backticked` parts are set apart as commands: by colour on a terminal,
    else by the backticks."""
    words = Text()
    for index, part in enumerate(clean(text).split("`")):
        if index % 2 == 0:
            words.append(part)
        elif console.is_terminal and not console.no_color:
            words.append(part, style="bold cyan")
        else:
            words.append(f"`{part}`")
    return words


def show_steps(steps: Sequence[str], console: Console = out) -> None:
    """What to do next, under a heading."""
    if steps:
        console.print(Text("Next step" if len(steps) == 1 else "Next steps", style="bold"))
    list_steps(steps, console)


def advise(text: str, style: str = "", console: Console | None = None) -> None:
    """A sentence with a command in it: see `list_steps`."""
    list_steps([text], console or out, indent=0, style=style)


def list_steps(
    steps: Sequence[str], console: Console = out, *, indent: int = 2, style: str = ""
) -> None:
    """Each wrapped between words, its commands whole: they are to be copied. One that is longer
    than a line is left to the terminal to wrap."""
    for step in steps:
        line = Text(" " * indent)
        for atom in _atoms(step, console):
            if (
                console.is_terminal
                and len(line) > indent
                and len(line) + len(atom.plain.rstrip()) > console.width
            ):
                console.print(line, soft_wrap=True, style=style)
                line = Text(" " * indent)
            line.append_text(atom)
        console.print(line, soft_wrap=True, style=style)


def _atoms(step: str, console: Console) -> Iterator[Text]:
    """The parts of a sentence that a line may end behind: words, and whole commands with what
    stands right beside them."""
    atom = Text()
    for index, part in enumerate(clean(step).split("`")):
        if index % 2:
            atom.append_text(with_commands(f"`{part}`", console))
            continue
        for word in re.split(r"(?<=\s)", part):
            atom.append(word)
            if word[-1:].isspace():
                yield atom
                atom = Text()
    if atom:
        yield atom


def show_evidence(evidence: Sequence[Evidence], console: Console = out) -> None:
    """Facts as a table: when, where, what, with the raw words beneath."""
    if not evidence:
        return
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    grid.add_column("seen at", no_wrap=True)
    grid.add_column("where", overflow="fold", ratio=2)
    grid.add_column("evidence", overflow="fold", ratio=3)
    for item in evidence:
        words = Text(clean(item.fact))
        if item.raw:
            words.append(f"\n{clean(item.raw)}", style="dim")
        grid.add_row(Text(seen_at(item.observed_at)), Text(clean(item.source)), words)
    _print(Padding(grid, (0, 0, 0, 2), expand=False), console)
