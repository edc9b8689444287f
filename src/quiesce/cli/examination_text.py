"""An examination in words: what is proven, then every line by area with its light, then what
Quiesce would mend. It comes as the API's JSON, whether it came over it or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import groupby
from typing import Any

from rich.padding import Padding
from rich.text import Text

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.diagnosis_text import show_diagnosis, show_mends
from quiesce.diagnosis.phrases import area_order, area_title
from quiesce.model.diagnosis import Examination, Light, MendStatus

_LIGHTS = {
    Light.GREEN: ("✓", "green"),
    Light.AMBER: ("!", "yellow"),
    Light.RED: ("✗", "bold red"),
    Light.UNKNOWN: ("?", "dim"),
}


def examination_json(examination: Examination) -> Json:
    """An examination that was made here, as the API would send it."""
    return {**_plain(asdict(examination)), "light": examination.light.value}


def show_examination(examination: Json) -> None:
    """All that the doctor found."""
    screen.out.print(_headline(examination))
    for diagnosis in examination["diagnoses"]:
        screen.out.print()
        show_diagnosis(diagnosis)
    said = {code for one in examination["diagnoses"] for code in (one["code"], *one["also"])}
    _show_checks(examination["checks"], said)
    if examination["problems"]:
        screen.out.print()
        screen.say("Could not be looked at", "bold")
        for problem in examination["problems"]:
            words = f"{problem['message']} [{problem['code']}]"
            screen.out.print(Padding(Text(screen.clean(words)), (0, 0, 0, 2), expand=False))
    if examination["plan"]:
        screen.out.print()
        show_plan(examination)


def show_plan(examination: Json) -> None:
    """What was mended just now, and what Quiesce would mend when told to."""
    begun = (MendStatus.DONE, MendStatus.FAILED)
    done = [mend for mend in examination["plan"] if mend["status"] in begun]
    show_mends(done, "Done")
    rest = [mend for mend in examination["plan"] if mend not in done]
    show_mends(rest, "What Quiesce would do when told to")


def _headline(examination: Json) -> Text:
    mark, style = _LIGHTS[Light(examination["light"])]
    counts = ((light, sum(c["light"] == light for c in examination["checks"])) for light in Light)
    words = ", ".join(f"{count} {light.value}" for light, count in counts if count)
    line = Text.assemble((f"{mark} ", style), (screen.clean(examination["subject"]), "bold"))
    line.append(f": {words or 'nothing could be looked at'}")
    for channel in examination["channels"]:
        line.append(f"\nLooked through {screen.clean(channel)}", "dim")
    return line


def _show_checks(checks: Sequence[Json], said: set[str]) -> None:
    by_area = sorted(checks, key=lambda check: area_order(check["area"]))
    for area, lines in groupby(by_area, key=lambda check: str(check["area"])):
        screen.out.print()
        screen.say(area_title(area), "bold")
        for check in lines:
            _show_check(check, brief=bool(said.intersection(check["codes"])))


def _show_check(check: Json, *, brief: bool) -> None:
    """`brief`: a diagnosis above has said the rest at length."""
    mark, style = _LIGHTS[Light(check["light"])]
    line = Text.assemble((f"  {mark} ", style), screen.clean(check["title"]))
    line.append(f": {screen.clean(check['words'])}")
    troubled = check["light"] in (Light.AMBER, Light.RED)
    if check["codes"] and troubled:
        line.append(f"  [{', '.join(check['codes'])}]", style="dim")
    screen.out.print(line)
    if brief or not troubled:
        return
    for item in check["evidence"]:
        raw = f"\n{screen.clean(item['raw'])}" if item["raw"] else ""
        words = Text(f"{screen.clean(item['source'])}{raw}", style="dim")
        screen.out.print(Padding(words, (0, 0, 0, 6), expand=False))
    screen.list_steps(check["remedy"], indent=6)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.isoformat() if isinstance(value, datetime) else value
