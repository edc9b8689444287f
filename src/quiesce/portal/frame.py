"""What all pages share: the frame around them, cards, chips, facts, and shown failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import TypeVar

from nicegui import run, ui

from quiesce.model.failure import Failure, FailureReport
from quiesce.portal.failure_card import failure_html
from quiesce.portal.login import MARK
from quiesce.portal.sessions import Session
from quiesce.portal.words import tone, with_commands

Answer = TypeVar("Answer")

_PAGES = (("VMs", "/"), ("Jobs", "/jobs"), ("Vault", "/vault"))


@contextmanager
def page_frame(session: Session, here: str = "") -> Iterator[None]:
    """Header with navigation; the page's own elements are made inside."""
    ui.add_head_html('<link rel="stylesheet" href="/portal.css">')
    dark = ui.dark_mode(session.dark)

    def turn() -> None:
        # The first turn, from "as the system has it", goes to dark.
        session.dark = session.dark is not True
        dark.value = session.dark

    with ui.header().classes("top items-center justify-between no-wrap"):
        with ui.row().classes("items-center no-wrap gap-0"):
            html(f'<a class="brand" href="/">{MARK}<span>Quiesce</span></a>')
            with ui.element("nav"):
                for title, path in _PAGES:
                    ui.link(title, path).classes("here" if path == here else "")
        with ui.row().classes("items-center no-wrap gap-1"):
            ui.button(icon="contrast", on_click=turn).props(
                'flat round dense color=null aria-label="Light or dark"'
            ).classes("icon").tooltip("Light or dark")
            with ui.element("form").props('method="post" action="/logout"'):
                ui.button(icon="logout").props(
                    'flat round dense color=null type="submit" aria-label="Log out"'
                ).classes("icon").tooltip("Log out")
    with ui.element("main").classes("sheet"):
        yield


@contextmanager
def card(title: str = "", *, beside: Callable[[], None] | None = None) -> Iterator[None]:
    """A titled box; `beside` makes what stands at the title's right."""
    with ui.element("section").classes("card"):
        if title:
            with ui.element("div").classes("card-head"):
                heading(title, 2)
                if beside:
                    beside()
        yield


def html(content: str, tag: str = "div") -> ui.html:
    """Markup of our own making: everything that came from elsewhere is escaped in it."""
    return ui.html(content, sanitize=False, tag=tag)


def heading(text: str, level: int = 1) -> ui.html:
    return html(escape(text), f"h{level}")


def chip(word: str) -> ui.label:
    return ui.label(word).classes(f"chip tone-{tone(word)}")


def set_chip(label: ui.label, word: str) -> None:
    """Change a chip's word and colour; nothing is sent when it is the same."""
    if label.text != word:
        label.classes(replace=f"chip tone-{tone(word)}")
        label.text = word


def fact(name: str, value: str, *, wide: bool = False) -> ui.label:
    """A property's name and value; the value's label is returned so that it can be kept fresh."""
    with ui.element("div").classes("fact wide" if wide else "fact"):
        ui.label(name)
        return ui.label(value)


def empty(title: str, next_step: str) -> None:
    """What stands where there is nothing yet, with the step that changes it."""
    html(f"<b>{escape(title)}</b>{with_commands(next_step)}").classes("empty")


def button(text: str, on_click: Callable[[], object], *, main: bool = False) -> ui.button:
    style = "main" if main else "plain"
    # A colour of Quasar's would bring its own text colour, which wins over the theme's.
    made = ui.button(text, on_click=on_click, color=None)
    return made.props("unelevated no-caps").classes(style)


async def ask(work: Callable[[], Answer]) -> Answer | Failure:
    """What the service answers, asked in a thread so that no other page has to wait."""

    def answered() -> tuple[Answer] | Failure:
        try:
            return (work(),)
        except Failure as failure:
            return failure

    answer = await run.io_bound(answered)
    if answer is None:  # NiceGUI's word for: the server is about to end
        raise asyncio.CancelledError
    return answer if isinstance(answer, Failure) else answer[0]


async def attempt(work: Callable[[], Answer]) -> Answer | None:
    """Do what a button asks for. A failure is shown in a dialog, and None is returned."""
    answer = await ask(work)
    if isinstance(answer, Failure):
        show_failure(answer.report())
        return None
    return answer


def show_failure(report: FailureReport) -> None:
    with ui.dialog(value=True) as dialog, ui.element("section").classes("card wide failure"):
        html(failure_html(report))
        with ui.row().classes("justify-end q-pa-md"):
            button("Close", dialog.close)
