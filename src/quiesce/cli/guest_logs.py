"""`quiesce logs`: a guest's logs in one archive."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from quiesce.cli import screen
from quiesce.cli.new_file import check_free, write_new
from quiesce.cli.options import AGENT_PATIENCE_SECONDS, COMMON, Common
from quiesce.model.units import size_text

app = App(name="logs", help="A guest's logs in one archive, without secrets: collect.")


@app.command
def collect(
    vm: str,
    /,
    *,
    verbose: Annotated[
        bool,
        Parameter(
            show_default=False,
            help="Have the guest's agent log more meanwhile, and test the network.",
        ),
    ] = False,
    to: Annotated[
        Path | None,
        Parameter(help="The archive's file. Default: quiesce-logs-VM-TIME.tar.gz, here."),
    ] = None,
    common: Common = COMMON,
) -> None:
    """Write the guest's logs into a file, through whatever channel works.

    Passwords, signatures, tokens and keys are taken out. The archive can be examined again with
    `quiesce doctor --bundle FILE`. Verbose logging is switched back whatever happens, also when
    this command is interrupted.
    """
    file = to or Path(_default_name(vm))
    check_free(file)
    with common.client(patience_seconds=AGENT_PATIENCE_SECONDS) as client:
        content, headers = client.download("vms", vm, "logs", verbose=verbose or None)
    write_new(file, content)
    files = int(headers.get("quiesce-files", "0"))

    def human() -> None:
        screen.say(f"{file}: {files} files of {vm}, {size_text(len(content))}.", "green")
        if not files:
            screen.say("The guest's inside could not be reached; README says why.", "yellow")
        command = f"quiesce doctor --bundle {shlex.quote(str(file))}"
        screen.list_steps([f"Examine it: `{command}`"], indent=0)

    told = {"file": str(file.absolute()), "size_bytes": len(content), "files": files}
    screen.emit(told, as_json=common.json, human=human)


def _default_name(vm: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", vm).strip(".") or "_"
    return f"quiesce-logs-{plain}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.gz"
