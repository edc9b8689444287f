"""`quiesce extension`: the backup extension inside a VM."""

from __future__ import annotations

from cyclopts import App

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.options import COMMON, Common

app = App(name="extension", help="The backup extension inside a VM: show, uninstall.")


@app.command
def show(vm: str, /, *, common: Common = COMMON) -> None:
    """The VM's agent and the extension in the guest, asked now."""
    with common.client() as client:
        state = client.get("vms", vm, "extension")
    screen.emit(state, as_json=common.json, human=lambda: _show(state))


@app.command
def uninstall(vm: str, /, *, common: Common = COMMON) -> None:
    """Remove the extension from the guest; the next backup installs it again."""
    with common.client() as client:
        client.delete("vms", vm, "extension")
    screen.emit(
        {"uninstalled": vm},
        as_json=common.json,
        human=lambda: screen.say(
            f"The extension is gone from {vm}. The next backup installs it again."
        ),
    )


def _show(state: Json) -> None:
    version = state["version"] or "unknown version"
    screen.facts(
        (
            ("extension", version if state["installed"] else "not installed"),
            ("next backup brings", state["offered_version"]),
            ("guest agent", state["agent_version"]),
            ("guest", state["operating_system"]),
            ("Python", state["python"]),
            (
                "open sessions",
                ", ".join(f"{each['task_id']} ({each['state']})" for each in state["sessions"]),
            ),
        )
    )
