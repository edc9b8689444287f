"""A job in words: how it ended, what it moved, how long the guest was frozen, what went wrong."""

from __future__ import annotations

from datetime import datetime

from rich.text import Text

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.diagnosis_text import show_diagnosis, show_mends
from quiesce.cli.remote_failure import evidence_from_json, report_from_json
from quiesce.diagnosis.phrases import explains, setback_title
from quiesce.model.failure import FailureReport
from quiesce.model.job import JobKind
from quiesce.model.units import duration_text, rate_text, size_text

_TELLING = (JobKind.VERIFY, JobKind.COLLECT, JobKind.COPY, JobKind.REBUILD)
"""Jobs whose result is what they say: there is no point and no file to look at."""


def show_outcome(job: Json) -> None:
    """What somebody who waited for the job wants to know."""
    kind = JobKind(job["kind"]).label
    what = f"{kind} of {job['vm']}" if job["vm"] else kind
    took = _seconds(job["started_at"], job["ended_at"])
    line = Text(f"{screen.clean(what)}: ")
    line.append_text(screen.styled(job["status"]))
    if took is not None:
        line.append(f" in {duration_text(took)}")
    screen.out.print(line)
    screen.facts(
        (
            ("job", job["id"]),
            ("point", job["point_id"]),
            ("moved", _moved(job)),
            ("route", job["route"] or ""),
            ("consistency", consistency(job["consistency"])),
            ("frozen", frozen(job["freeze"])),
        )
    )
    if JobKind(job["kind"]) in _TELLING:
        for entry in job["log"]:
            if entry["level"] != "error":  # those are the failure's evidence
                screen.advise(entry["text"], "yellow" if entry["level"] == "warning" else "")
    _trouble(job, details=False)


def show_job(job: Json) -> None:
    """Everything about one job."""
    screen.facts(
        (
            ("job", job["id"]),
            ("kind", f"{job['kind']}, {job['trigger']}"),
            ("VM", job["vm"]),
            ("status", screen.styled(job["status"])),
            ("created", screen.when(job["created_at"], seconds=True)),
            ("started", screen.when(job["started_at"], seconds=True)),
            ("ended", screen.when(job["ended_at"], seconds=True) if job["ended_at"] else ""),
            ("point", job["point_id"]),
            ("route", job["route"] or ""),
            ("consistency", consistency(job["consistency"])),
            ("frozen", frozen(job["freeze"])),
            ("reads at most", rate_text(job["bandwidth"]) if job["bandwidth"] else ""),
            ("cancelling", "asked for" if job["cancel_requested"] and not job["ended_at"] else ""),
        )
    )
    screen.out.print()
    screen.table(
        ("task", "status", "took", "read", "stored"),
        (
            (
                task["name"],
                screen.styled(task["status"]),
                _took(task),
                size_text(task["progress"]["done_bytes"]),
                size_text(task["progress"]["stored_bytes"]),
            )
            for task in job["tasks"]
        ),
        right="took read stored",
    )
    # What it failed with stands beneath, with its cause.
    failure = job["failure"]
    said = f"{failure['message']} [{failure['code']}]" if failure else None
    log = [line for line in job["log"] if line["text"] != said]
    if log:
        screen.out.print()
        for line in log:
            style = {"warning": "yellow", "error": "red"}.get(line["level"], "")
            at = datetime.fromisoformat(line["at"]).astimezone().strftime("%H:%M:%S")
            screen.out.print(Text.assemble((f"{at} ", "dim"), (screen.clean(line["text"]), style)))
    if job["failure"] or job["warnings"] or job["setbacks"] or job["diagnoses"]:
        screen.out.print()
    _trouble(job, details=True)


def consistency(label: Json | None) -> Text | str:
    """`file-system` and, when it could have been better, why it is not."""
    if not label:
        return ""
    words = screen.styled(label["level"])
    if label["reason"]:
        words = Text.assemble(words, f", {screen.clean(label['reason'])}")
    return words


def frozen(freeze: Json | None) -> str:
    """How long writes were held on each mount."""
    if not freeze:
        return ""
    mounts = [
        f"{mount['mount']} {mount['frozen_ms']:.0f} ms"
        if not mount["skipped"]
        else f"{mount['mount']} skipped ({mount['skipped']})"
        for mount in freeze["mounts"]
    ]
    held = (
        ""
        if freeze["held"]
        else f" – not held: thawed at its limit of {freeze['hold_seconds']:g} s"
    )
    return ", ".join(mounts) + held


def _trouble(job: Json, *, details: bool) -> None:
    """What went wrong, why, and what was done about it. A failure whose cause is known is one line
    above its diagnosis, which holds the rest."""
    for warning in job["warnings"]:
        screen.say(f"Warning: {warning}", "yellow")
    left = list(job["diagnoses"])
    for setback in job["setbacks"]:
        screen.out.print()
        screen.say(setback_title(job["route"], len(job["setbacks"])), "bold yellow")
        _failure(report_from_json(setback), left, details=details)
    if job["failure"]:
        _failure(report_from_json(job["failure"]), left, details=details)
    for diagnosis in left:
        screen.out.print()
        show_diagnosis(diagnosis, details=details)
    if job["mends"]:
        screen.out.print()
        show_mends(job["mends"], "Done by itself")
    if job["diagnoses"] and not details:
        screen.list_steps([f"Evidence: `quiesce job show {job['id']}`"], indent=0)


def _failure(failure: FailureReport, left: list[Json], *, details: bool) -> None:
    """A failure with the diagnosis that is its own, which is taken out of `left`."""
    own = next((each for each in left if explains(each["symptom"], failure)), None)
    if own is None:
        screen.show_failure(failure, to=screen.out)
        return
    left.remove(own)
    screen.show_failure_line(failure)
    if not details:
        screen.show_causes(failure)  # a script's own words, the points that suffer: short, and near
    show_diagnosis(own, details=details)
    if details:
        screen.show_causes(failure, without=evidence_from_json(own["evidence"]))


def _moved(job: Json) -> str:
    progress = job["tasks"][-1]["progress"]
    if not progress["done_bytes"]:
        return ""
    done = size_text(progress["done_bytes"])
    if job["kind"] != "backup":
        return done
    return f"{done} read, {size_text(progress['stored_bytes'])} new in the vault"


def _took(task: Json) -> str:
    seconds = _seconds(task["started_at"], task["ended_at"])
    return "–" if seconds is None else duration_text(seconds)


def _seconds(start: str | None, end: str | None) -> float | None:
    if not start or not end:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
