"""`quiesce protect` and `quiesce unprotect`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from quiesce.cli import screen
from quiesce.cli.options import COMMON, Common


def protect(
    vm: str,
    /,
    *,
    policy: Annotated[str, Parameter(help="The policy's name.")],
    common: Common = COMMON,
) -> None:
    """Put a VM under a policy, in place of any other."""
    with common.client() as client:
        view = client.put("vms", vm, "protection", body={"policy": policy})

    def human() -> None:
        screen.say(f"{view['name']} is protected by {view['policy']}.", "green")
        screen.say(
            f"Next backup: {screen.when(view['next_run'])}."
            if view["next_run"]
            else "The policy has no time: it is backed up on demand only."
        )

    screen.emit(view, as_json=common.json, human=human)


def unprotect(vm: str, /, *, common: Common = COMMON) -> None:
    """Stop protecting a VM. Its points stay, and no rule removes them any more."""
    with common.client() as client:
        client.delete("vms", vm, "protection")
    screen.emit(
        {"unprotected": vm},
        as_json=common.json,
        human=lambda: screen.say(f"{vm} is no longer protected. Its points stay."),
    )
