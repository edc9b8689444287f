"""Options that commands share, and values that are checked before the server is asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cyclopts import ArgumentCollection, Group, Parameter
from cyclopts.validators import Number

from quiesce.model.failure import InputFailure
from quiesce.model.units import rate_bytes, size_bytes

if TYPE_CHECKING:
    from quiesce.cli.client import Client


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Common:
    """How to reach the server and how to answer."""

    json: Annotated[bool, Parameter(show_default=False, help="Print the API's JSON.")] = False
    server: Annotated[
        str,
        Parameter(
            env_var="QUIESCE_SERVER",
            help="URL of the server, or unix:PATH. Default: this machine's socket.",
            show_default=False,
        ),
    ] = ""

    def client(self, *, patience_seconds: float = 120.0) -> Client:
        """`patience_seconds`: how long the server may take for one answer. Asking a VM or its
        agent may take it as long as those take to time out."""
        # Imported here: HTTP is of no use to `explain`, and takes a third of its time.
        from quiesce.cli.client import Client

        return Client(self.server, timeout_seconds=patience_seconds)


AGENT_PATIENCE_SECONDS = 1800.0
"""For what an agent does that polls: it may take minutes for each step of an installation."""

Channel = Literal["qga", "waagent"]
"""Through which of a VM's agents."""

COMMON = Common()

DryRun = Annotated[bool, Parameter(show_default=False, help="Only show what would be done.")]
Yes = Annotated[bool, Parameter(show_default=False, help="Do not ask.")]
Wait = Annotated[bool, Parameter(negative="--no-wait", help="Show progress until the job ends.")]
Disks = Annotated[
    tuple[str, ...], Parameter(show_default=False, help="Only this disk; may be repeated.")
]
DiskFormat = Annotated[
    Literal["raw", "qcow2"] | None,
    Parameter(help="Of the files written: raw, but qcow2 for a file named so."),
]
Overwrite = Annotated[bool, Parameter(show_default=False, help="Replace files that exist already.")]
Salvage = Annotated[
    bool,
    Parameter(
        show_default=False,
        help="Restore what can be read of a damaged point: zeros stand for the rest, which is "
        "listed, and the command ends with 9.",
    ),
]

# Bounds of the API, checked here too: where there is no server, nobody else checks them.
SAMPLE = Number(gte=1, lte=10_000_000)
MINUTES = Number(gt=0, lte=525_600)
REQUESTS = Number(gte=0, lte=1_000_000_000)
KEEP_LAST = Number(gte=1, lte=100_000)
KEEP_DAILY = Number(gte=0, lte=100_000)
NEWEST = Number(gte=1, lte=1_000_000)


def time_of_day(text: str) -> str:
    """`HH:MM` on a 24-hour clock, as the API wants it.

    :raise InputFailure: input.time-invalid
    """
    try:
        return datetime.strptime(text.strip(), "%H:%M").strftime("%H:%M")  # noqa: DTZ007
    except ValueError as inner:
        raise InputFailure("input.time-invalid", f"{text!r} is not a time of day.") from inner


def time_zone(name: str) -> str:
    """A name of the time zone database.

    :raise InputFailure: input.zone-unknown
    """
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError, OSError) as inner:
        raise InputFailure("input.zone-unknown", f"There is no time zone {name!r}.") from inner


def byte_count(text: str) -> int:
    """A size with a binary unit.

    :raise InputFailure: input.size-invalid
    """
    try:
        return size_bytes(text)
    except ValueError as inner:
        raise InputFailure("input.size-invalid", f"{text!r} is not a size.") from inner


def byte_rate(text: str) -> int:
    """A size a second.

    :raise InputFailure: input.size-invalid
    """
    try:
        return rate_bytes(text)
    except ValueError as inner:
        raise InputFailure(
            "input.size-invalid", f"{text!r} is not a size a second, such as 50MiB/s."
        ) from inner


def pairs(what: str, values: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE` options as a mapping.

    :raise InputFailure: input.pair-invalid
    """
    found: dict[str, str] = {}
    for value in values:
        name, separator, rest = value.partition("=")
        if not (separator and name and rest):
            raise InputFailure(
                "input.pair-invalid",
                f"{value!r} is not a {what}.",
                remedy=f"Write it as {what}.",
            )
        found[name] = rest
    return found


def _one_of_two(options: ArgumentCollection) -> None:
    """A vault at `--at` has no server. One that only the environment names is for other commands.

    :raise InputFailure: input.usage
    """
    said = {token.keyword for option in options for token in option.tokens}
    if {"--at", "--server"} <= said:
        raise InputFailure(
            "input.usage",
            "`--server` and `--at` exclude each other.",
            remedy="Leave `--server` out: the vault at `--at` is opened here, without any server. "
            "For the server's vault, leave `--at` out.",
        )


AT_OR_SERVER = Group("Parameters", validator=_one_of_two)
"""The parameters of commands on a vault, which is either here or a server's."""
