"""The scoreboard for people: docs/explanation/diagnosis-scoreboard.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diagnosis_merge import Run, guests_at_once
from diagnosis_score import PLAIN, Outcome, Score, confusion, totals

from quiesce.lab.faults.table import TABLE

_HEAD = """\
# Scoreboard of the diagnosis

Written by `make bench-diagnosis` from real runs; not edited by hand. {runs}

Each fault is set into a real guest (Debian 12 with the stock Azure Linux agent and the QEMU guest
agent, in a lab network of its own), a backup is run, and what the job says is compared with what
was set in.

| | |
|---|---|
| faults set in | {injected} of the {table} that the lab knows |
| of these, nothing failed, as it should be | {avoided} |
| a call was refused, as it should be, and there was no cause to find | {refused} |
| the proven cause is the one set in | {exact} of {failing} |
| another cause stated as proven | {wrong_proven} |
| not proven | {not_proven} |
| something failed, and a point was at stake | {failed} |
| of these, healed: a point of full worth, and nobody helped | {healed} |
| of these, the lab expected {healable} to be healed | {healed_of} |
| seconds to find the cause, median | {median_seconds} |

Of the {usual} faults of an agent or its extension other products would say, whatever the cause:
“{plain}”

The proven cause is the one set in only when no other one is stated as proven beside it; what a row
allowed beside it stands below with its reason. The seconds run from the failure
until that cause is stated. A point counts as healed when something had failed and the point is
still at least file-system-consistent; a crash-consistent one does only where the guest could not
have been frozen, such as in a paused VM. A script that failed is never healed, and a backup that
only reads more, for want of change tracking, had nothing to heal.

## What is not set in

{left_out}

"""


_LEFT_OUT = """
These causes have no row, and their rules are tested against recorded papers only:

- `schedule.crowded`: the crowds that were tried, twenty VMs in a queue and twelve at once, made no
  snapshot fail. The row of the twenty has nothing fail; that is what is checked.
- `network.slow`: the lab's kernel has no network emulator, and an endpoint that answers late is
  another cause than a slow way to it.
- `network.tls-failed`, `storage.slow`, `storage.io-error`, `vm.locked`, `vm.not-found`,
  `disk.unsupported`: nothing sets them in yet. A raw disk has a row; it works, and fails nothing.
- `extension.not-installed`, `extension.download-failed`, `extension.install-failed`,
  `extension.enable-failed`, `extension.update-failed`, `extension.timeout`, `extension.outdated`:
  what the agent says of an extension that another cause has broken. Rows set in that cause instead.
- `job.superseded`, `job.stale-command`: nothing sets them in yet. `freeze.failed` is only accepted
  beside the cause that a kernel gives it for.
"""


def page(rows: Sequence[Score], runs: Sequence[Run]) -> str:
    figures = totals(rows)
    head = _HEAD.format(
        **figures,
        table=len(TABLE),
        failing=figures["injected"] - figures["avoided"] - figures["refused"],
        healed_of=sum(row.healed and row.heals for row in rows),
        usual=sum(bool(row.plain) for row in rows),
        plain=PLAIN,
        runs=_runs(runs),
        left_out=_LEFT_OUT.strip(),
    )
    parts = [head, "## Confusion\n", confusion(rows), "\n## Every fault\n"]
    parts += [
        "| fault | what was set in | cause | verdict | seconds | point | done by itself |",
        "|---|---|---|---|---|---|---|",
    ]
    parts += [_row(row) for row in rows]
    parts += ["\n## True beside the cause\n", *_beside(rows)]
    return "\n".join(parts) + "\n"


def _beside(rows: Sequence[Score]) -> Iterator[str]:
    reasons = {
        row.name: {**dict.fromkeys(row.accepted, row.because), **row.beside} for row in TABLE
    }
    for row in rows:
        for code, reason in reasons[row.name].items():
            if code in (row.diagnosed, *row.also):
                yield f"- {row.name}: `{code}`, since {reason}."


def _runs(runs: Sequence[Run]) -> str:
    commits = ", ".join(sorted({run.commit or "(not noted)" for run in runs}))
    guests = guests_at_once(runs)
    beside = f"up to {guests} guests ran side by side" if guests > 1 else "one guest ran at a time"
    return f"They were made at commit {commits}; {beside}, each emulated without KVM."


def _row(row: Score) -> str:
    found = f"`{row.diagnosed}`" if row.diagnosed else "–"
    if row.expected and row.outcome not in (Outcome.EXACT, Outcome.REFUSED):
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
