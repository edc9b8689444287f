"""`quiesce extension`: the backup extension inside a VM."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.options import AGENT_PATIENCE_SECONDS, COMMON, Channel, Common
from quiesce.cli.remote_failure import report_from_json

OnlyChannel = Annotated[
    Channel | None, Parameter(help="Only through this agent; else through each that the VM has.")
]

app = App(name="extension", help="The backup extension inside a VM: list, uninstall, reinstall.")


@app.command(name="list")
def list_(vm: str, /, *, common: Common = COMMON) -> None:
    """The extension in the guest, as each agent of the VM shows it."""
    with common.client() as client:
        extensions = client.get("vms", vm, "extensions")
    screen.emit(extensions, as_json=common.json, human=lambda: _show(extensions))


@app.command
def uninstall(vm: str, /, *, channel: OnlyChannel = None, common: Common = COMMON) -> None:
    """Remove the extension from the guest; the next backup installs it again.

    Waits until the guest says that it is gone.
    """
    with common.client(patience_seconds=AGENT_PATIENCE_SECONDS) as client:
        client.delete("vms", vm, "extensions", channel=channel)
    screen.emit(
        {"uninstalled": vm},
        as_json=common.json,
        human=lambda: screen.say(
            f"The extension is gone from {vm}. The next backup installs it again."
        ),
    )


@app.command
def reinstall(vm: str, /, *, channel: OnlyChannel = None, common: Common = COMMON) -> None:
    """Remove the extension and install the server's version anew, now.

    Waits until the guest says that it is there.
    """
    with common.client(patience_seconds=AGENT_PATIENCE_SECONDS) as client:
        extensions = client.post("vms", vm, "extensions", "reinstall", channel=channel)

    def human() -> None:
        screen.say(f"The extension of {vm} is installed anew.", "green")
        _show(extensions)

    screen.emit(extensions, as_json=common.json, human=human)


def _show(extensions: list[Json]) -> None:
    for index, extension in enumerate(extensions):
        if index:
            screen.out.print()
        _show_one(extension)


def _show_one(extension: Json) -> None:
    offered = extension["offered_version"]
    screen.facts(
        (
            ("channel", extension["channel"]),
            ("extension", _version(extension)),
            ("next backup brings", offered if offered != extension["version"] else ""),
            ("agent says", screen.styled(_agents_word(extension))),
            ("", extension["message"]),
            ("agent", extension["agent_version"]),
            ("guest", extension["operating_system"]),
            ("Python", extension["python"]),
            (
                "open sessions",
                ", ".join(f"{each['task_id']} ({each['state']})" for each in extension["sessions"]),
            ),
        )
    )
    if extension["problem"]:
        screen.out.print()
        screen.show_failure(report_from_json(extension["problem"]), to=screen.out)


def _version(extension: Json) -> str:
    if extension["installed"]:
        return extension["version"] or "unknown version"
    return "not known" if extension["problem"] else "not installed"


def _agents_word(extension: Json) -> str:
    """What an agent says beyond that the extension is there or not."""
    word: str = extension["status"]
    return "" if word in ("installed", "not installed") else word
