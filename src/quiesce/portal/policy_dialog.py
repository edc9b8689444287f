"""The dialog that changes how a policy takes points, and what it leaves to people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nicegui import ui

from quiesce.model.diagnosis import MendAction
from quiesce.model.policy import LEVELS, RoutePreference
from quiesce.model.units import rate_bytes, rate_text
from quiesce.portal.frame import attempt, button, card
from quiesce.portal.words import route_title
from quiesce.service.mending import WORDS
from quiesce.service.service import Service
from quiesce.service.views import PolicyView

_LEVEL_WORDS = {1: "1, fastest", 3: "3, a little smaller", 19: "19, smallest and very slow"}


def policy_dialog(
    service: Service, policy: PolicyView, on_changed: Callable[[PolicyView], object]
) -> None:
    """Ask for the route and for each step of self-healing; then change the policy, for all VMs that
    it protects."""
    with ui.dialog(value=True) as dialog, card(f"Policy {policy.name}"):
        body = ui.element("div").classes("card-body")
    others = len(policy.vms)
    with body:
        ui.label(
            f"This holds for {'this VM' if others == 1 else f'all its {others} VMs'}."
        ).classes("quiet")
        ui.label("Route").classes("label")
        routes = {str(route): route_title(route) for route in RoutePreference}
        route = ui.radio(routes, value=str(policy.snapshot.route)).props("inline")
        ui.label("Transfer").classes("label")
        with ui.row().classes("items-center"):
            level = ui.select(
                {each: _LEVEL_WORDS.get(each, str(each)) for each in LEVELS},
                value=policy.compression_level,
                label="Compression",
            )
            bandwidth = ui.input(
                "Most to read a second",
                value=rate_text(policy.bandwidth) if policy.bandwidth else "",
                placeholder="no limit",
                validation={"A size a second, such as 50 MiB/s": _is_rate},
            )
        audit = ui.checkbox(
            "Check a sample of what the change tracking calls unchanged", value=policy.audit
        ).props("dense")
        ui.label("What Quiesce does by itself when a backup fails").classes("label")
        boxes = {
            action: ui.checkbox(WORDS[action], value=action not in policy.mends_off).props("dense")
            for action in MendAction
        }

        async def save() -> None:
            if not bandwidth.validate():
                return
            wanted = replace(
                policy,
                snapshot=replace(policy.snapshot, route=RoutePreference(route.value)),
                mends_off=tuple(action for action, box in boxes.items() if not box.value),
                compression_level=level.value,
                bandwidth=rate_bytes(bandwidth.value or "0"),
                audit=audit.value,
            )
            changed = await attempt(lambda: service.policies.change(wanted))
            if changed is not None:
                dialog.close()
                on_changed(changed)

        with ui.row().classes("justify-end full-width"):
            button("Leave it", dialog.close)
            button("Save", save, main=True)


def _is_rate(text: str | None) -> bool:
    try:
        rate_bytes(text or "0")
    except ValueError:
        return False
    return True
