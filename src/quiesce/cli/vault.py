"""`quiesce vault`: figures and checks of the vault."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.follow import finish_or_follow
from quiesce.cli.options import COMMON, Common
from quiesce.model.units import size_text

app = App(name="vault", help="The vault: status, verify.")


@app.command
def status(*, common: Common = COMMON) -> None:
    """Where the vault is and what it holds."""
    with common.client() as client:
        vault = client.get("vault")
    screen.emit(vault, as_json=common.json, human=lambda: _show(vault))


@app.command
def verify(
    *,
    mode: Annotated[
        Literal["structure", "packs", "chunks"],
        Parameter(
            help="structure: manifests and indexes; packs: also the hash of every pack; "
            "chunks: also every chunk, decrypted."
        ),
    ] = "packs",
    wait: Annotated[
        bool,
        Parameter(negative="--no-wait", help="Show progress until the job ends."),
    ] = True,
    common: Common = COMMON,
) -> int:
    """Check the vault, and name the points that suffer from any damage."""
    with common.client() as client:
        job = client.post("vault", "verify", body={"mode": mode})
        return finish_or_follow(client, job, wait=wait, as_json=common.json)


def _show(vault: Json) -> None:
    stored, protected = vault["stored_bytes"], vault["protected_bytes"]
    ratio = f" ({protected / stored:.1f} times smaller)" if stored and protected > stored else ""
    screen.facts(
        (
            ("vault", vault["location"]),
            ("id", vault["id"]),
            ("points", f"{vault['points']} of {vault['vms']} VMs"),
            ("protected", size_text(protected)),
            ("stored", size_text(stored) + ratio),
            ("packs", f"{vault['packs']}, with {vault['chunks']} chunks"),
            ("free", "" if vault["free_bytes"] is None else size_text(vault["free_bytes"])),
        )
    )
    if vault["missing_packs"] or vault["unreadable_points"]:
        screen.say(
            f"Damage was noticed: {vault['missing_packs']} packs are missing, "
            f"{len(vault['unreadable_points'])} points cannot be read.",
            "red",
        )
        screen.out.print(screen.with_commands("See what suffers: `quiesce vault verify`"))
