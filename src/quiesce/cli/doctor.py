"""`quiesce doctor`: what would make a backup fail, or made it fail, with the proof."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.examination_text import examination_json, show_examination
from quiesce.cli.options import COMMON, Common
from quiesce.model.diagnosis import Light
from quiesce.model.failure import ExitCode, InputFailure

_EXIT_CODES = {Light.RED: ExitCode.JOB_FAILED, Light.AMBER: ExitCode.JOB_WARNING}


def doctor(
    *,
    bundle: Annotated[
        Path | None,
        Parameter(help="A log bundle of any Linux VM: folder, tar, zip, or one log file."),
    ] = None,
    here: Annotated[
        bool, Parameter(show_default=False, help="Examine the machine that this runs on.")
    ] = False,
    common: Common = COMMON,
) -> int:
    """What would make a backup fail, and what made the last one fail.

    Reads a log bundle, or this very machine; neither needs a server, and nothing is changed. Ends
    with 3 when a line is red, 4 when one is amber.
    """
    if (bundle is not None) + here != 1:
        raise InputFailure(
            "input.usage",
            "Say what is to be examined: a bundle, or this machine.",
            remedy="`quiesce doctor --bundle FILE`, or `quiesce doctor --here`.",
        )
    return _finish(_of_bundle(bundle) if bundle else _of_this_machine(), common)


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
    return _EXIT_CODES.get(Light(examination["light"]), ExitCode.OK)
