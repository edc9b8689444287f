"""The scoreboard for people: docs/explanation/diagnosis-scoreboard.md."""

from __future__ import annotations

from collections.abc import Sequence

from diagnosis_score import PLAIN, Outcome, Score, confusion, totals

from quiesce.lab.faults.table import TABLE

_HEAD = """\
# Scoreboard of the diagnosis

Written by `make bench-diagnosis` from a real run; not edited by hand. Each fault is set into a real
guest (Debian 12 with the stock Azure Linux agent and the QEMU guest agent, in a lab network of its
own), a backup is run, and what the job says is compared with what was set in.

| | |
|---|---|
| faults set in | {injected} of the {table} that the lab knows |
| of these, nothing failed, as it should be | {avoided} |
| the proven cause is the one set in | {exact} of {failing} |
| another cause stated as proven | {wrong_proven} |
| not proven | {not_proven} |
| healed: a point of full worth, and nobody helped | {healed} of {injected} |
| seconds to find the cause, median | {median_seconds} |

In {usual} of them other products say: “{plain}”

A point counts as healed when it is at least file-system-consistent where the guest could have been
frozen; a crash-consistent one does only where it could not, such as in a paused VM.

"""


def page(rows: Sequence[Score]) -> str:
    figures = totals(rows)
    head = _HEAD.format(
        **figures,
        table=len(TABLE),
        failing=figures["injected"] - figures["avoided"],
        usual=sum(bool(row.plain) for row in rows),
        plain=PLAIN,
    )
    parts = [head, "## Confusion\n", confusion(rows), "\n## Every fault\n"]
    parts += [
        "| fault | what was set in | cause | verdict | seconds | point | done by itself |",
        "|---|---|---|---|---|---|---|",
    ]
    parts += [_row(row) for row in rows]
    return "\n".join(parts) + "\n"


def _row(row: Score) -> str:
    found = f"`{row.diagnosed}`" if row.diagnosed else "–"
    if row.expected and row.outcome is not Outcome.EXACT:
        found += f" instead of `{row.expected}`"
    seconds = f"{row.seconds:.1f}" if row.seconds is not None else "–"
    cells = (
        row.name,
        row.words,
        found,
        row.outcome.value,
        seconds,
        f"{row.consistency or 'none'}{' (healed)' if row.healed else ''}",
        ", ".join(row.mends) or "–",
    )
    return "| " + " | ".join(cells) + " |"
