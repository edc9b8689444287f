"""A diagnosis in words: the cause first, then what to do, the evidence behind. It is told as the
API's JSON, whether it came over it or not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.padding import Padding
from rich.text import Text

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.remote_failure import evidence_from_json, report_from_json
from quiesce.diagnosis.phrases import retry_words, seen_at
from quiesce.model.diagnosis import MendStatus, Verdict

_MEND_STYLES: dict[str, str] = {
    MendStatus.PLANNED: "cyan",
    MendStatus.DONE: "green",
    MendStatus.FAILED: "red",
    MendStatus.SWITCHED_OFF: "dim",
}


def show_diagnosis(diagnosis: Json, *, details: bool = True) -> None:
    """Cause and remedy; with `details` also the evidence, what is ruled out and what is left."""
    _show_cause(diagnosis)
    screen.show_steps(diagnosis["remedy"])
    screen.say(retry_words(diagnosis["retry_helps"]), "dim")
    candidates = diagnosis["candidates"]
    _show_candidates(candidates if details else candidates[:1])
    if not details:
        return
    if diagnosis["evidence"]:
        screen.say("Evidence", "bold")
        screen.show_evidence(evidence_from_json(diagnosis["evidence"]))
    _show_ruled_out(diagnosis["ruled_out"])


def show_mends(mends: Sequence[Json], title: str) -> None:
    """What Quiesce did, or would do, by itself: each with its cause, and why it did not work."""
    if mends:
        screen.say(title, "bold")
    for mend in mends:
        _indented(_mend_words(mend))
        if mend["failure"]:
            failure = report_from_json(mend["failure"])
            _indented(
                Text.assemble(
                    (screen.clean(failure.message), "red"), (f" [{failure.code}]", "dim")
                ),
                by=4,
            )


def _show_cause(diagnosis: Json) -> None:
    proven = diagnosis["verdict"] == Verdict.PROVEN
    screen.out.print(
        Text.assemble(
            ("Cause: " if proven else "Cause not proven: ", "bold"),
            (screen.clean(diagnosis["cause"]), "bold red" if proven else "bold yellow"),
            (f"  [{screen.clean(diagnosis['code'])}, {diagnosis['verdict']}]", "dim"),
        )
    )
    if diagnosis["symptom"] != diagnosis["code"]:
        screen.say(f"It showed as {diagnosis['symptom']}.", "dim")
    if diagnosis["aliases"]:
        screen.say(f"Elsewhere called: {', '.join(diagnosis['aliases'])}", "dim")
    if diagnosis["also"]:
        screen.say(f"Proven too: {', '.join(diagnosis['also'])}")


def _show_candidates(candidates: Sequence[Json]) -> None:
    if not candidates:
        return
    screen.say("Possible, the likeliest first", "bold")
    for each in candidates:
        _indented(
            Text.assemble(screen.clean(each["cause"]), (f"  [{screen.clean(each['code'])}]", "dim"))
        )
        for missing in each["missing"]:
            _indented(Text(f"not seen: {screen.clean(missing)}", style="dim"), by=4)
    if probe := candidates[0]["probe"]:
        screen.say("What would decide", "bold")
        _indented(screen.with_commands(probe))


def _show_ruled_out(ruled_out: Sequence[Json]) -> None:
    if ruled_out:
        screen.say("Ruled out", "bold")
    for each in ruled_out:
        (evidence,) = evidence_from_json((each["evidence"],))
        seen = f"{screen.clean(evidence.source)}, {seen_at(evidence.observed_at)}"
        _indented(
            Text.assemble(
                (screen.clean(each["code"]), "bold"),
                f": {screen.clean(each['why'])}",
                (f"  ({seen})", "dim"),
            )
        )


def _mend_words(mend: Json) -> Text:
    words = Text()
    if mend["status"] != MendStatus.PLANNED:
        words.append(f"{seen_at(datetime.fromisoformat(mend['at']))} ", style="dim")
        words.append(mend["status"], style=_MEND_STYLES.get(mend["status"], ""))
        words.append(": ")
    words.append(screen.clean(mend["words"]))
    return words.append(
        f"  [{mend['action']}, because of {screen.clean(mend['because'])}]", style="dim"
    )


def _indented(words: Text, by: int = 2) -> None:
    screen.out.print(Padding(words, (0, 0, 0, by), expand=False))
