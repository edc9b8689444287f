"""`quiesce backup`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from quiesce.cli.follow import finish_or_follow
from quiesce.cli.options import COMMON, Common


def backup(
    vm: str,
    /,
    *,
    wait: Annotated[
        bool, Parameter(show_default=False, help="Show progress until the job ends.")
    ] = False,
    common: Common = COMMON,
) -> int:
    """Back a VM up now."""
    with common.client() as client:
        job = client.post("vms", vm, "backup")
        return finish_or_follow(client, job, wait=wait, as_json=common.json)
