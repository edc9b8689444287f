"""`quiesce doctor`: what would make a backup fail, or made it fail, with the proof."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from quiesce.cli import screen
from quiesce.cli.client import Client, Json
from quiesce.cli.examination_text import examination_json, show_examination, show_plan
from quiesce.cli.options import AGENT_PATIENCE_SECONDS, COMMON, Common
from quiesce.model.diagnosis import Light, MendStatus
from quiesce.model.failure import ExitCode, InputFailure

_EXIT_CODES = {
    Light.RED: ExitCode.JOB_FAILED,
    Light.AMBER: ExitCode.JOB_WARNING,
    # What could not be looked at is not said to be well.
    Light.UNKNOWN: ExitCode.JOB_WARNING,
}


def doctor(
    vm: Annotated[str | None, Parameter(help="A VM that the server knows.")] = None,
    /,
    *,
    bundle: Annotated[
        Path | None,
        Parameter(help="A log bundle of any Linux VM: folder, tar, zip, or one log file."),
    ] = None,
    here: Annotated[
        bool, Parameter(show_default=False, help="Examine the machine that this runs on.")
    ] = False,
    fix: Annotated[
        bool, Parameter(show_default=False, help="Mend what can be mended safely, after asking.")
    ] = False,
    yes: Annotated[bool, Parameter(show_default=False, help="With --fix: do not ask.")] = False,
    common: Common = COMMON,
) -> int:
    """What would make a backup fail, and what made the last one fail.

    Looks at a VM through everything that answers, without a backup; or reads a log bundle, or this
    very machine, and neither needs a server. Nothing is changed without --fix. Ends with 3 when a
    line is red, 4 when one is amber or could not be looked at.
    """
    if (vm is not None) + (bundle is not None) + here != 1:
        raise InputFailure(
            "input.usage",
            "Say what is to be examined: a VM, a bundle, or this machine.",
            remedy="`quiesce doctor VM`, `quiesce doctor --bundle FILE`, or `quiesce doctor "
            "--here`.",
        )
    if (fix and vm is None) or (yes and not fix):
        raise InputFailure(
            "input.usage",
            "Only a VM that the server knows is mended: --fix goes with a VM, --yes with --fix.",
            remedy="`quiesce doctor VM --fix`.",
        )
    if vm is not None:
        return _of_vm(vm, common, fix=fix, yes=yes)
    return _finish(_of_bundle(bundle) if bundle else _of_this_machine(), common)


def _of_vm(vm: str, common: Common, *, fix: bool, yes: bool) -> int:
    if fix and not yes and (common.json or not sys.stdin.isatty()):
        raise InputFailure(
            "input.confirmation-needed", "Mending wants a confirmation, and nobody can be asked."
        )
    with common.client(patience_seconds=AGENT_PATIENCE_SECONDS) as client:
        found = _examined(client, vm, common)
        planned = [mend for mend in found["plan"] if mend["status"] == MendStatus.PLANNED]
        if not fix or not planned:
            return _told(vm, found, common, fix=fix)
        if not common.json:
            show_examination(found)
        if not yes and not _confirmed(vm, len(planned)):
            screen.err.print("Nothing was changed.")
            return _exit_code(found)
        with _shown_as_busy(f"Mending {vm}, then looking again", common):
            actions = [mend["action"] for mend in planned]
            after = client.post("vms", vm, "mends", body={"actions": actions})
    screen.emit(after, as_json=common.json, human=lambda: _show_after(found, after))
    return _exit_code(after)


def _examined(client: Client, vm: str, common: Common) -> Json:
    what = "hypervisor, agents, guest, network, storage, other jobs, all at once"
    with _shown_as_busy(f"Looking at {vm}: {what}", common):
        examination: Json = client.post("vms", vm, "examination")
    return examination


def _told(vm: str, found: Json, common: Common, *, fix: bool) -> int:
    def human() -> None:
        show_examination(found)
        if fix:
            screen.say("There is nothing that Quiesce could mend here by itself.")
        elif any(mend["status"] == MendStatus.PLANNED for mend in found["plan"]):
            command = f"quiesce doctor {shlex.quote(vm)} --fix"
            screen.list_steps([f"Have it done: `{command}`"], indent=0)

    screen.emit(found, as_json=common.json, human=human)
    return _exit_code(found)


def _confirmed(vm: str, actions: int) -> bool:
    what = "this" if actions == 1 else f"these {actions} things"
    screen.err.print(f"Do {what} to {screen.clean(vm)}? [y/N] ", end="")
    return sys.stdin.readline().strip().casefold() in ("y", "yes")


def _show_after(before: Json, after: Json) -> None:
    """What was done, then how it is now, line by line where it has changed."""
    screen.out.print()
    show_plan(after)
    was = {(check["area"], check["title"]): check for check in before["checks"]}
    changed = [
        (check["title"], was[key]["light"], check["light"], check["words"])
        for check in after["checks"]
        if (key := (check["area"], check["title"])) in was and was[key]["light"] != check["light"]
    ]
    screen.out.print()
    if changed:
        screen.table(("looked at", "before", "now", "found"), changed)
    else:
        screen.say("No light has changed.", "yellow")
    screen.out.print()
    show_examination({**after, "plan": []})


@contextmanager
def _shown_as_busy(words: str, common: Common) -> Iterator[None]:
    """A line with a clock while the server is at work; nothing where nobody watches."""
    if common.json or not screen.err.is_terminal:
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, TimeElapsedColumn(), console=screen.err, transient=True) as progress:
        progress.add_task(screen.clean(words), total=None)
        yield


def _of_bundle(path: Path) -> Json:
    from quiesce.diagnosis.bundle import read_bundle
    from quiesce.diagnosis.examination import examine

    return examination_json(examine(read_bundle(path)))


def _of_this_machine() -> Json:
    from quiesce.diagnosis.examination import examine
    from quiesce.diagnosis.here import papers_here

    return examination_json(examine(papers_here()))


def _finish(examination: Json, common: Common) -> int:
    screen.emit(examination, as_json=common.json, human=lambda: show_examination(examination))
    return _exit_code(examination)


def _exit_code(examination: Json) -> ExitCode:
    return _EXIT_CODES.get(Light(examination["light"]), ExitCode.OK)
