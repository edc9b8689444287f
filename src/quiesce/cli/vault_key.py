"""`quiesce vault key`: who can open the vault. No data is rewritten by any of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.confirm import confirmed
from quiesce.cli.options import AT_OR_SERVER, COMMON, Common, DryRun, Yes
from quiesce.cli.vault_key_made import Kind, MadeKey, check_made, kind_of, make_key
from quiesce.cli.vault_place import PLACE, Place, as_json_value
from quiesce.model.failure import InputFailure

if TYPE_CHECKING:
    from quiesce.vault.vault import Vault

app = App(
    name="key",
    help="Who can open the vault: list, add, remove, rotate.",
    group_parameters=AT_OR_SERVER,
)

To = Annotated[
    Path | None, Parameter(help="Where the new key file is written; there must be none.")
]
NewPassphraseFile = Annotated[Path | None, Parameter(help="File that holds the new passphrase.")]


@app.command(name="list")
def list_(*, place: Place = PLACE, common: Common = COMMON) -> None:
    """The key slots, oldest first: each is one way to open the vault."""
    if place.at is not None:
        slots = _slots_at(place)
    else:
        with common.client() as client:
            slots = client.get("vault", "keys")
    screen.emit(slots, as_json=common.json, human=lambda: _list(slots))


@app.command
def add(
    kind: Kind,
    /,
    *,
    to: To = None,
    new_passphrase_file: NewPassphraseFile = None,
    place: Place = PLACE,
    common: Common = COMMON,
) -> None:
    """Let one more key open the vault: a passphrase, a key file, or a recovery key for the safe."""
    check_made(kind, to=to, passphrase_file=new_passphrase_file)
    vault = place.open() if place.at is not None else None
    made = make_key(kind, to=to, passphrase_file=new_passphrase_file)
    change = _added(made, vault, common)

    def human() -> None:
        screen.say(f"Key slot {change['added'][0]['id']} ({kind}) opens the vault now.", "green")
        made.show()

    screen.emit({**change, **made.told()}, as_json=common.json, human=human)


@app.command
def remove(
    slot: str,
    /,
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
    place: Place = PLACE,
    common: Common = COMMON,
) -> None:
    """Take a key away. It still opens copies of the vault that were made before."""
    vault = place.open() if place.at is not None else None

    def change(*, dry_run: bool) -> Any:
        if vault is not None:
            return _remove_here(vault, place, slot, dry_run=dry_run)
        with common.client() as client:
            return client.delete("vault", "keys", slot, dry_run=dry_run)

    plan = change(dry_run=True)
    if not dry_run:
        what = "Taking a key away"
        if not confirmed(what, lambda: _removal(plan), yes=yes, as_json=common.json):
            return
        plan = change(dry_run=False)
    screen.emit(plan, as_json=common.json, human=lambda: _removal(plan))


@app.command
def rotate(
    *,
    to: To = None,
    new_passphrase_file: NewPassphraseFile = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    place: Place = PLACE,
    common: Common = COMMON,
) -> None:
    """A new key in place of the old: of the server's key file, or, with --at, of the key given."""
    if place.at is not None:
        _rotate_here(place, to, new_passphrase_file, dry_run=dry_run, yes=yes, common=common)
        return
    if to is not None or new_passphrase_file is not None:
        raise InputFailure(
            "input.usage",
            "A server's new key is written to the server's own key file, in place of the old.",
            remedy="Leave `--to` and `--new-passphrase-file` out, or say `--at ADDRESS` and the "
            "key that is to be replaced.",
        )
    with common.client() as client:
        copies = [p["location"] for p in client.get("vaults") if p["role"] == "copy"]
        plan = client.post("vault", "keys", "rotate", dry_run=True)
        if not dry_run:
            what = "Taking the server's old key away"
            if not confirmed(what, lambda: _removal(plan), yes=yes, as_json=common.json):
                return
            plan = client.post("vault", "keys", "rotate", dry_run=False)

    def human() -> None:
        _removal(plan)
        if plan["executed"]:
            screen.say(
                "The server's key file holds a new key. Copy it to another machine now; your "
                "copies of the old one open this vault no more.",
                "bold yellow",
            )
        _old_key_opens(copies)

    screen.emit(plan, as_json=common.json, human=human)


def _old_key_opens(copies: list[str]) -> None:
    if copies:
        screen.say(
            "Copies that were made earlier open with the old key only, until the next `vault copy "
            f"--with-keys` to each: {', '.join(copies)}. Keep the old key until then.",
            "bold yellow",
        )


def _added(made: MadeKey, vault: Vault | None, common: Common) -> Json:
    from quiesce.service.vault_views import SlotChange, slot_views
    from quiesce.vault.format.slots import list_slots

    try:
        if vault is None:
            with common.client() as client:
                change: Json = client.post(
                    "vault", "keys", body={"kind": made.kind, "secret": made.text}
                )
            return change
        added = vault.add_key(made.material())
    except BaseException:
        made.discard()
        raise
    slots = list_slots(vault.contents.store)
    new = slot_views([slot for slot in slots if slot.id == added], "")
    value: Json = as_json_value(SlotChange(added=new, left=len(slots), executed=True))
    return value


def _slots_at(place: Place) -> Any:
    from quiesce.service.vault_views import slot_views
    from quiesce.vault.format.config import read_config
    from quiesce.vault.format.slots import list_slots

    store = place.store()
    read_config(store)  # there is a vault
    return as_json_value(slot_views(list_slots(store), ""))


def _remove_here(vault: Vault, place: Place, slot: str, *, dry_run: bool) -> Any:
    from quiesce.service.vault_views import SlotChange, slot_views
    from quiesce.vault.format.slots import check_removable, list_slots

    store = vault.contents.store
    found = check_removable(store, slot)
    left = len(list_slots(store)) - 1
    if not dry_run:
        vault.remove_key(slot)
    return as_json_value(
        SlotChange(removed=slot_views([found], ""), left=left, executed=not dry_run)
    )


def _rotate_here(
    place: Place,
    to: Path | None,
    new_passphrase_file: Path | None,
    *,
    dry_run: bool,
    yes: bool,
    common: Common,
) -> None:
    from quiesce.service.vault_views import SlotChange, slot_views
    from quiesce.vault.format.slots import list_slots, slot_opened_by
    from quiesce.vault.vault import Vault

    key = place.key()
    check_made(kind_of(key), to=to, passphrase_file=new_passphrase_file)
    vault = Vault.open(place.store(), key)
    store = vault.contents.store
    old = slot_opened_by(store, vault.config, key)
    slots = list_slots(store)
    removed = slot_views([slot for slot in slots if slot.id == old], old)
    plan = as_json_value(SlotChange(removed=removed, left=len(slots)))
    if dry_run:
        screen.emit(plan, as_json=common.json, human=lambda: _removal(plan))
        return
    if not confirmed(
        "Taking the old key away", lambda: _removal(plan), yes=yes, as_json=common.json
    ):
        return
    made = make_key(kind_of(key), to=to, passphrase_file=new_passphrase_file)
    change = _added(made, vault, common)
    vault.remove_key(old)
    change = {**change, "removed": plan["removed"], "left": len(slots)}

    def human() -> None:
        _removal(change)
        screen.say(f"Key slot {change['added'][0]['id']} ({made.kind}) has taken its place.")
        made.show()

    screen.emit({**change, **made.told()}, as_json=common.json, human=human)


def _list(slots: list[Json]) -> None:
    screen.table(
        ("slot", "kind", "added", ""),
        (
            (
                slot["id"],
                slot["kind"] or "damaged",
                screen.when(slot["added_at"]),
                "the server's own" if slot["in_use"] else "",
            )
            for slot in slots
        ),
    )


def _removal(change: Json) -> None:
    verb = "Removed" if change["executed"] else "Would remove"
    for slot in change["removed"]:
        what = slot["kind"] or "damaged"
        screen.say(f"{verb} key slot {slot['id']} ({what}, {screen.when(slot['added_at'])}).")
    screen.say(f"{change['left']} {'keys open' if change['left'] != 1 else 'key opens'} the vault.")
