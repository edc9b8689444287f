"""The dialog that asks where a point's disks are to be written."""

from __future__ import annotations

from pathlib import Path

from nicegui import ui

from quiesce.model.damage import PointHealth
from quiesce.model.point import RecoveryPoint
from quiesce.model.units import size_text
from quiesce.portal.damage_card import point_loss
from quiesce.portal.frame import attempt, button, card
from quiesce.portal.words import consistency, job_link, when
from quiesce.service.requests import RestoreRequest
from quiesce.service.service import Service

_FORMATS = ("raw", "qcow2")


def restore_dialog(
    service: Service, point: RecoveryPoint, health: PointHealth | None = None
) -> None:
    """Ask for target, disks and format; then start the job and go to its page. `health`: what is
    known of the point's damage."""
    with ui.dialog(value=True) as dialog, card(f"Restore {point.vm}"):
        body = ui.element("div").classes("card-body")
        with body:
            ui.label(
                f"As of {when(point.taken_at, seconds=True)}, {consistency(point.consistency)}"
            )
            if health is not None:
                ui.label(point_loss(health)).classes("note bad")
            target = ui.input(
                "Folder on the server's host; for one disk also the file",
                placeholder="/var/lib/restores",
            ).props("outlined dense autofocus")
            ui.label("Disks").classes("label")
            boxes = {
                disk.name: ui.checkbox(f"{disk.name}, {size_text(disk.size_bytes)}", value=True)
                for disk in point.disks
            }
            with ui.row().classes("items-center gap-6"):
                form = ui.radio(list(_FORMATS), value="raw").props("inline")
                overwrite = ui.checkbox("Overwrite files that exist")

            async def start() -> None:
                chosen = tuple(name for name, box in boxes.items() if box.value)
                request = RestoreRequest(
                    point_id=point.id,
                    to=Path(target.value or ""),
                    disks=chosen,
                    format=form.value,
                    overwrite=bool(overwrite.value),
                    folder=(target.value or "").endswith("/"),
                )
                job = await attempt(lambda: service.jobs.start_restore(request))
                if job is not None:
                    dialog.close()
                    ui.navigate.to(job_link(job.id))

            with ui.row().classes("justify-end full-width"):
                button("Cancel", dialog.close)
                button("Restore", start, main=True)
