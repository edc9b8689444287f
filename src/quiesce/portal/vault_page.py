"""The vault's figures, its check, and what is known of its damage."""

from __future__ import annotations

from nicegui import ui

from quiesce.model.failure import Failure
from quiesce.model.units import count_text, size_text
from quiesce.portal.damage_card import damage_html
from quiesce.portal.failure_card import failure_html
from quiesce.portal.frame import ask, attempt, button, card, fact, heading, html, page_frame
from quiesce.portal.sessions import Session
from quiesce.portal.words import job_link
from quiesce.service.service import Service


async def vault_page(service: Service, session: Session) -> None:
    """Where the vault is, what it holds, and a button to check every stored file."""
    vault = await ask(service.points.vault_view)

    async def verify() -> None:
        job = await attempt(lambda: service.jobs.start_verify("packs"))
        if job is not None:
            ui.navigate.to(job_link(job.id))

    with page_frame(session, "/vault"):
        with ui.row().classes("items-center justify-between full-width"):
            heading("Vault")
            button("Verify", verify)
        if not isinstance(vault, Failure) and (
            vault.missing_packs or vault.damaged_packs or vault.unreadable_points
        ):
            ui.label(
                f"Damage was noticed: {vault.missing_packs} packs are missing, "
                f"{vault.damaged_packs} are damaged, "
                f"{len(vault.unreadable_points)} recovery points cannot be read. "
                "Verify looks at every pack."
            ).classes("note")
        suffering = ui.element("div").classes("full-width")
        with card():
            if isinstance(vault, Failure):
                html(failure_html(vault.report()))
                return
            with ui.element("div").classes("card-body"), ui.element("div").classes("facts"):
                fact("Where", vault.location, wide=True)
                fact("Recovery points", f"{vault.points} of {count_text(vault.vms, 'VM')}")
                fact("Protected", size_text(vault.protected_bytes))
                fact("Stored", size_text(vault.stored_bytes))
                fact("Free", "–" if vault.free_bytes is None else size_text(vault.free_bytes))
                fact("Packs", f"{vault.packs}")
                fact("Chunks", f"{vault.chunks}")

    async def look() -> None:
        """Maps are read for it while there is damage: that may take seconds."""
        damage = await ask(service.points.damage)
        shown = (
            failure_html(damage.report()) if isinstance(damage, Failure) else damage_html(damage)
        )
        if shown:
            with suffering:
                html(shown, "section").classes("card failure")

    ui.timer(0.1, look, once=True)
