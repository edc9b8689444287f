"""Asking before something goes that does not come back."""

from __future__ import annotations

import sys
from collections.abc import Callable

from quiesce.cli import screen
from quiesce.model.failure import InputFailure


def confirmed(what: str, show: Callable[[], None], *, yes: bool, as_json: bool) -> bool:
    """Whether it may be done: with `yes`, or when whoever sits there says so to the plan that
    `show` prints. `what` as in "Deleting a recovery point".

    :raise InputFailure: input.confirmation-needed, when there is nobody to be asked
    """
    if yes:
        return True
    if as_json or not sys.stdin.isatty():
        raise InputFailure("input.confirmation-needed", f"{what} wants a confirmation.")
    show()
    screen.err.print("Do it? [y/N] ", end="")
    if sys.stdin.readline().strip().casefold() in ("y", "yes"):
        return True
    screen.err.print("Nothing was changed.")
    return False
