"""`quiesce vm`: the VMs that Quiesce knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.options import COMMON, Common, pairs
from quiesce.cli.remote_failure import report_from_json
from quiesce.model.units import size_text

app = App(name="vm", help="VMs that Quiesce knows: add, list, show, remove.")


@app.command
def add(
    name: str,
    /,
    *,
    qmp: Annotated[Path, Parameter(help="The VM's QMP socket.")],
    agent: Annotated[Path | None, Parameter(help="The VM's guest agent socket.")] = None,
    disk: Annotated[
        tuple[str, ...],
        Parameter(
            help="NAME=IMAGE, only to back the VM up while it is off, before it was ever seen on.",
            show_default=False,
        ),
    ] = (),
    common: Common = COMMON,
) -> None:
    """Make a VM known. It need not run now."""
    body: Json = {
        "name": name,
        "qmp_socket": str(qmp.absolute()),
        "qga_socket": None if agent is None else str(agent.absolute()),
        "disks": {
            disk_name: str(Path(image).absolute())
            for disk_name, image in pairs("disk as NAME=IMAGE", disk).items()
        },
    }
    with common.client() as client:
        vm = client.post("vms", body=body)

    def human() -> None:
        screen.say(f"{vm['name']} is known now.", "green")
        if agent is None:
            screen.say(
                "Without --agent its points will be crash-consistent: nobody can freeze the guest."
            )
        screen.out.print(screen.with_commands(f"Back it up: `quiesce backup {_word(name)} --wait`"))

    screen.emit(vm, as_json=common.json, human=human)


@app.command(name="list")
def list_(*, common: Common = COMMON) -> None:
    """All VMs, as they were last seen."""
    with common.client() as client:
        vms = client.get("vms")

    def human() -> None:
        if not vms:
            screen.say("No VM is known yet.")
            screen.out.print(
                screen.with_commands("Add one: `quiesce vm add NAME --qmp SOCKET --agent SOCKET`")
            )
            return
        screen.table(
            ("VM", "power", "policy", "points", "newest point", "last job"),
            (
                (
                    vm["name"],
                    screen.styled(vm["power"] or "never seen"),
                    vm["policy"] or "–",
                    str(vm["point_count"]),
                    screen.when(vm["newest_point"] and vm["newest_point"]["taken_at"]),
                    _last_job(vm),
                )
                for vm in vms
            ),
            right="points",
        )

    screen.emit(vms, as_json=common.json, human=human)


@app.command
def show(name: str, /, *, common: Common = COMMON) -> None:
    """One VM, asked now for its power state and disks."""
    with common.client() as client:
        vm = client.get("vms", name)
    screen.emit(vm, as_json=common.json, human=lambda: _show(vm))


@app.command
def remove(name: str, /, *, common: Common = COMMON) -> None:
    """Forget a VM. Its recovery points stay."""
    with common.client() as client:
        client.delete("vms", name)
    screen.emit(
        {"removed": name},
        as_json=common.json,
        human=lambda: screen.say(f"{name} is forgotten. Its recovery points stay."),
    )


def _show(vm: Json) -> None:
    newest = vm["newest_point"]
    screen.facts(
        (
            ("VM", vm["name"]),
            ("power", screen.styled(vm["power"] or "never seen")),
            ("seen", screen.when(vm["seen_at"], seconds=True)),
            ("hypervisor", vm["hypervisor"]),
            ("QMP socket", vm["qmp_socket"]),
            ("agent socket", vm["qga_socket"] or "none: points are crash-consistent"),
            ("policy", vm["policy"] or "none: backed up on demand only"),
            ("next backup", screen.when(vm["next_run"]) if vm["next_run"] else ""),
            ("points", str(vm["point_count"])),
            (
                "newest point",
                f"{newest['id']}, {screen.when(newest['taken_at'])}" if newest else "",
            ),
            ("running job", vm["active_job"]),
            ("last job", _last_job(vm)),
        )
    )
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
    if vm["problem"]:
        screen.out.print()
        screen.show_failure(report_from_json(vm["problem"]), to=screen.out)


def _last_job(vm: Json) -> str:
    if vm["active_job"]:
        return "In progress"
    return vm["last_job"]["status"] if vm["last_job"] else "–"


def _word(name: str) -> str:
    """A name as one word of a shell's command line."""
    import shlex

    return shlex.quote(name)
