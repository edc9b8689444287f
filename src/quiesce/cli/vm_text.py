"""A VM in words: its state, its agent, its disks."""

from __future__ import annotations

from rich.text import Text

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.remote_failure import report_from_json
from quiesce.diagnosis.phrases import AGENTS, goal_words, proxy_words
from quiesce.model.units import size_text


def show_vm(vm: Json) -> None:
    """Everything about one VM."""
    newest = vm["newest_point"]
    proxy = vm["proxy"]
    screen.facts(
        (
            ("VM", vm["name"]),
            ("power", screen.styled(vm["power"] or "never seen")),
            ("seen", screen.when(vm["seen_at"], seconds=True)),
            ("hypervisor", vm["hypervisor"]),
            ("QMP socket", vm["qmp_socket"]),
            ("agent", AGENTS[vm["agent"]]),
            ("agent socket", _agent_socket(vm)),
            ("guest address", vm["guest_address"]),
            ("proxy", proxy_words(**proxy) if proxy else ""),
            ("policy", vm["policy"] or "none: backed up on demand only"),
            ("next backup", screen.when(vm["next_run"]) if vm["next_run"] else ""),
            ("points", str(vm["point_count"])),
            (
                "newest point",
                f"{newest['id']}, {screen.when(newest['taken_at'])}" if newest else "",
            ),
            ("running job", vm["active_job"]),
            ("last job", last_job(vm)),
        )
    )
    if vm["agent_state"]:
        screen.out.print()
        _show_agent(vm["agent_state"])
    if vm["disks"]:
        screen.out.print()
        screen.table(
            ("disk", "size", "format", "image"),
            (
                (disk["name"], size_text(disk["size_bytes"]), disk["format"], disk["path"] or "–")
                for disk in vm["disks"]
            ),
            right="size",
        )
    for problem in (vm["problem"], vm["agent_problem"]):
        if problem:
            screen.out.print()
            screen.show_failure(report_from_json(problem), to=screen.out)


def agent_word(vm: Json) -> Text | str:
    """A VM's agent in a table: how it is doing when it comes by itself."""
    if vm["agent_state"]:
        return screen.styled(vm["agent_state"]["condition"])
    return "qga" if vm["qga_socket"] else "–"


def last_job(vm: Json) -> str:
    if vm["active_job"]:
        return "In progress"
    return vm["last_job"]["status"] if vm["last_job"] else "–"


def _agent_socket(vm: Json) -> str:
    if vm["qga_socket"]:
        return str(vm["qga_socket"])
    return "none: points are crash-consistent" if vm["agent"] == "qga" else ""


def _show_agent(state: Json) -> None:
    """What the Azure Linux agent said last. It is not asked: it comes by itself."""
    seen = state["last_seen"]
    screen.facts(
        (
            (AGENTS["waagent"], screen.styled(state["condition"])),
            ("says", state["message"]),
            ("version", state["version"]),
            ("guest", state["operating_system"]),
            ("last seen", screen.when(state["last_seen"], seconds=True) if seen else ""),
            ("came to", state["endpoint"]),
            (
                "goal state",
                goal_words(state["goal_incarnation"], state["acknowledged_incarnation"]),
            ),
        )
    )
    if state["handlers"]:
        screen.out.print()
        screen.table(
            ("extension", "version", "agent says", "it says"),
            (
                (
                    handler["name"],
                    handler["version"],
                    _agents_words(handler),
                    screen.styled(handler["settings_status"] or "–"),
                )
                for handler in state["handlers"]
            ),
        )


def _agents_words(handler: Json) -> Text:
    words = screen.styled(handler["status"])
    if handler["message"]:
        words.append(f": {screen.clean(handler['message'])}", style="default")
    return words
