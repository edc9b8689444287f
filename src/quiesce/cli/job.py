"""`quiesce job`: jobs and how they ended."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from quiesce.cli import screen
from quiesce.cli.follow import exit_code, finish_or_follow
from quiesce.cli.job_text import show_job
from quiesce.cli.options import COMMON, Common

app = App(name="job", help="Jobs: list, show, cancel.")


@app.command(name="list")
def list_(
    *,
    vm: Annotated[str | None, Parameter(help="Only jobs of this VM.")] = None,
    limit: Annotated[int, Parameter(help="At most this many, newest first.")] = 20,
    common: Common = COMMON,
) -> None:
    """The newest jobs."""
    with common.client() as client:
        jobs = client.get("jobs", vm=vm, limit=limit)

    def human() -> None:
        if not jobs:
            screen.say("There are no jobs yet.")
            screen.advise("Start one: `quiesce backup VM --wait`")
            return
        screen.table(
            ("job", "kind", "VM", "status", "created"),
            (
                (
                    job["id"],
                    job["kind"],
                    job["vm"] or "–",
                    screen.styled(job["status"]),
                    screen.when(job["created_at"]),
                )
                for job in jobs
            ),
        )

    screen.emit(jobs, as_json=common.json, human=human)


@app.command
def show(
    job: str,
    /,
    *,
    wait: Annotated[
        bool, Parameter(show_default=False, help="Show progress until the job ends.")
    ] = False,
    common: Common = COMMON,
) -> int:
    """One job: tasks, log, freeze, and the failure with its evidence and remedy.

    Ends with the job's own exit code only with --wait.
    """
    with common.client() as client:
        found = client.get("jobs", job)
        if wait:
            return finish_or_follow(client, found, wait=True, as_json=common.json)
    screen.emit(found, as_json=common.json, human=lambda: show_job(found))
    return 0


@app.command
def cancel(
    job: str,
    /,
    *,
    wait: Annotated[bool, Parameter(show_default=False, help="Until the job has ended.")] = False,
    common: Common = COMMON,
) -> int:
    """Ask a job to end. It leaves nothing behind."""
    with common.client() as client:
        found = client.post("jobs", job, "cancel")
        if wait:
            code = finish_or_follow(client, found, wait=True, as_json=common.json)
            return 0 if code == exit_code({"status": "Cancelled"}) else code
    screen.emit(
        found,
        as_json=common.json,
        human=lambda: screen.say(f"Job {found['id']} was asked to end."),
    )
    return 0
