"""`quiesce vault status` and `list`."""

from __future__ import annotations

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.damage_text import show_damage
from quiesce.cli.options import COMMON, Common
from quiesce.cli.vault_place import PLACE, Place, as_json_value
from quiesce.model.units import count_text, size_text


def status(*, place: Place = PLACE, common: Common = COMMON) -> None:
    """Where the vault is and what it holds."""
    if place.at is not None:
        from quiesce.service.vault_views import vault_view

        opened = place.open()
        vault = as_json_value(vault_view(opened)) | {"damage": as_json_value(opened.damage())}
    else:
        with common.client() as client:
            vault = client.get("vault") | {"damage": client.get("vault", "damage")}
    screen.emit(vault, as_json=common.json, human=lambda: _show(vault, place))


def list_(*, common: Common = COMMON) -> None:
    """The server's vault, and the places that copies of it were sent to."""
    with common.client() as client:
        places = client.get("vaults")
    screen.emit(places, as_json=common.json, human=lambda: _list(places))


def _show(vault: Json, place: Place) -> None:
    stored, protected = vault["stored_bytes"], vault["protected_bytes"]
    ratio = f" ({protected / stored:.1f} times smaller)" if stored and protected > stored else ""
    screen.facts(
        (
            ("vault", vault["location"]),
            ("id", vault["id"]),
            ("points", f"{vault['points']} of {count_text(vault['vms'], 'VM')}"),
            ("protected", size_text(protected)),
            ("stored", size_text(stored) + ratio),
            ("packs", f"{vault['packs']}, with {count_text(vault['chunks'], 'chunk')}"),
            ("free", "" if vault["free_bytes"] is None else size_text(vault["free_bytes"])),
        )
    )
    if vault["missing_packs"] or vault["damaged_packs"] or vault["unreadable_points"]:
        screen.say(
            f"Damage was noticed: {vault['missing_packs']} packs are missing, "
            f"{vault['damaged_packs']} are damaged, "
            f"{len(vault['unreadable_points'])} points cannot be read.",
            "red",
        )
        if not vault["damage"]["points"]:
            screen.say("No point is known to suffer from it.")
        screen.advise(f"Look at every pack: `quiesce vault verify{place.words}`")
    show_damage(vault["damage"])


def _list(places: list[Json]) -> None:
    screen.table(
        ("vault", "what", "last whole copy", "only", "last try", "how it ended", "job"),
        (
            (
                place["location"],
                place["role"],
                screen.when(place["copied_at"]) if place["role"] == "copy" else "",
                place["only"],
                screen.when(place["tried_at"]) if place["role"] == "copy" else "",
                screen.styled(place["status"]),
                place["job_id"],
            )
            for place in places
        ),
    )
    if len(places) == 1:
        screen.advise(
            "There is no second copy. Make one on another disk or at another site: "
            "`quiesce vault copy --to ADDRESS --new`"
        )
