"""The backup extension in one VM, as each of its agents shows it, with the way to be rid of it."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from quiesce.diagnosis.phrases import AGENTS
from quiesce.model.failure import Failure
from quiesce.portal.failure_card import failure_html
from quiesce.portal.frame import ask, attempt, button, card, fact, html
from quiesce.service.service import Service
from quiesce.service.views import ExtensionView


class ExtensionCard:
    """Made empty; `look` asks the VM's agents and fills it."""

    def __init__(self, service: Service, vm: str) -> None:
        self._service = service
        self._vm = vm
        with card("Backup extension"):
            self._body = ui.element("div").classes("full-width")
            # Not in the body: what is shown there is cleared while a dialog may be open.
            self._dialogs = ui.element("div")
        self._say("Asking the VM's agent …")

    async def look(self) -> None:
        views = await ask(lambda: self._service.vms.extensions(self._vm))
        self._body.clear()
        with self._body:
            if isinstance(views, Failure):
                html(failure_html(views.report())).classes("failure full-width")
                return
            for view in views:
                self._channel(view, alone=len(views) == 1)

    def _channel(self, view: ExtensionView, *, alone: bool) -> None:
        if alone and view.problem and not view.installed:
            html(failure_html(view.problem)).classes("failure full-width")
            return
        with ui.element("div").classes("channel"):
            with ui.element("div").classes("channel-head"):
                ui.label("" if alone else AGENTS[view.channel]).classes("label")
                if view.installed:
                    with ui.row().classes("gap-2 no-wrap"):
                        button("Reinstall", lambda: self._confirm_reinstall(view.channel)).classes(
                            "small"
                        )
                        button("Uninstall", lambda: self._confirm_uninstall(view.channel)).classes(
                            "small"
                        )
            if not view.problem or view.installed:
                _facts(view)
        if view.problem:
            html(failure_html(view.problem)).classes("failure full-width")

    def _confirm_uninstall(self, channel: str) -> None:
        self._confirm(
            "Uninstall",
            f"Everything that Quiesce put into {self._vm} by this agent is removed. "
            "The next backup installs it again.",
            lambda: self._service.vms.uninstall_extension(self._vm, channel),
        )

    def _confirm_reinstall(self, channel: str) -> None:
        self._confirm(
            "Reinstall",
            f"The extension in {self._vm} is removed, and this server's version is installed anew.",
            lambda: self._service.vms.reinstall_extension(self._vm, channel),
        )

    def _confirm(self, what: str, sentence: str, work: Callable[[], None]) -> None:
        with self._dialogs, ui.dialog(value=True) as dialog, card(f"{what} the extension?"):
            body = ui.element("div").classes("card-body")
        with body:
            ui.label(sentence)
            with ui.row().classes("justify-end full-width"):
                button("Leave it", dialog.close)

                async def go() -> None:
                    dialog.close()
                    self._say("Waiting until the guest has done it; this may take minutes …")
                    with self._dialogs:
                        await attempt(work)
                    await self.look()

                button(what, go, main=True)

    def _say(self, words: str) -> None:
        self._body.clear()
        with self._body, ui.element("div").classes("card-body"):
            ui.label(words).classes("quiet")


def _facts(view: ExtensionView) -> None:
    with ui.element("div").classes("facts"):
        fact("Version", _version(view))
        status = ": ".join(part for part in (view.status, view.message) if part)
        fact("Status", status or "–")
        fact("Agent", view.agent_version or "–")
        fact("Guest", view.operating_system or "–")
        if view.python:
            fact("Python in the guest", view.python)
    if not view.installed:
        ui.label("The next backup installs it.").classes("quiet")


def _version(view: ExtensionView) -> str:
    if not view.installed:
        return "not installed"
    if view.update_pending and view.offered_version:
        return f"{view.version}, the next backup brings {view.offered_version}"
    return view.version
