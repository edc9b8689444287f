"""`quiesce vault lock`: retention locks, asked for at the place where the vault lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.confirm import confirmed
from quiesce.cli.options import COMMON, Common, DryRun, Yes
from quiesce.cli.vault_place import PLACE, Place
from quiesce.model.failure import ExitCode, InputFailure

if TYPE_CHECKING:
    from quiesce.vault.stores.locks import Terms


def lock(
    *,
    days: Annotated[
        int | None,
        Parameter(help="Lock all that a point needs for so many days; 0 asks for no locks."),
    ] = None,
    mode: Annotated[
        Literal["governance", "compliance"] | None,
        Parameter(
            help="Who may lift a lock: in governance mode whoever has the permission to bypass it, "
            "in compliance mode nobody. Default: as it is, else governance."
        ),
    ] = None,
    lower: Annotated[
        bool,
        Parameter(show_default=False, help="Ask for less than before; locks that are set stay."),
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    place: Place = PLACE,
    common: Common = COMMON,
) -> int:
    """Retention locks (S3 Object Lock): show what the vault asks for, or ask for something else.

    No key is needed. Whoever backs up there heeds it within a minute, servers too.
    """
    from quiesce.vault.format.config import read_config
    from quiesce.vault.stores.locking import can_lock
    from quiesce.vault.stores.locks import MOST_DAYS, Mode, Terms

    if place.at is None:
        raise InputFailure(
            "input.usage", "Say where the vault lies, also a server's: `--at s3://BUCKET/PREFIX`."
        )
    place.check_no_key()
    if days is None and (mode is not None or lower or dry_run):
        raise InputFailure("input.usage", "Say for how long: `--days N`.")
    if days is not None and not 0 <= days <= MOST_DAYS:
        raise InputFailure("input.usage", f"`--days` is 0, or 1 to {MOST_DAYS}.")
    store = place.store()
    read_config(store)
    locks = can_lock(store)
    now = locks.terms(fresh=True)
    if days is not None:
        chosen = Mode(mode) if mode else now.mode if now is not None else Mode.GOVERNANCE
        wanted = Terms(chosen, days) if days else None
        less = now is not None and (wanted is None or not wanted.cover(now))
        if less and not lower:
            raise InputFailure(
                "input.usage",
                f"The vault asks for more now: {_words(_view(place.address, now))} `--lower` asks "
                "for less from now on.",
            )
        if dry_run:
            view = _view(place.address, wanted)
            screen.emit(view, as_json=common.json, human=lambda: _would(view))
            return ExitCode.OK
        forever = wanted is not None and wanted.mode is Mode.COMPLIANCE and wanted != now
        if forever and not confirmed(
            "Asking for locks that nobody can lift, not even the account's owner,",
            lambda: screen.say(_words(_view(place.address, wanted))),
            yes=yes,
            as_json=common.json,
        ):
            return ExitCode.OK
        if less:
            locks.ask_for_less(wanted)
        elif wanted is not None:
            locks.ask_for(wanted)
        now = locks.terms(fresh=True)
    view = _view(place.address, now)

    def human() -> None:
        screen.say(_words(view))
        if days:
            screen.say(
                "What is stored already is locked with the next point that needs it: back up "
                "every VM once."
            )

    screen.emit(view, as_json=common.json, human=human)
    return ExitCode.OK


def _view(at: str, terms: Terms | None) -> Json:
    if terms is None:
        return {"location": at, "days": 0, "mode": None, "longest_days": 0}
    # Setting them takes its time: a day more than they are meant to last.
    longest = (terms.time + terms.slack).days + 1
    return {
        "location": at,
        "days": terms.days,
        "mode": terms.mode.value,
        "longest_days": longest,
    }


def _would(view: Json) -> None:
    screen.say("Nothing was changed. With this the vault would ask for:")
    screen.say(_words(view))


def _words(view: Json) -> str:
    if not view["days"]:
        return "The vault asks for no locks. What its bucket locks by default stays locked."
    return (
        f"All that a point needs is locked for {view['days']} days from its backup on, and at most "
        f"{view['longest_days']}, in {view['mode']} mode."
    )
