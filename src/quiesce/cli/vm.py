"""`quiesce vm`: the VMs that Quiesce knows."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, Token

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.options import COMMON, Common, pairs
from quiesce.cli.vm_text import agent_word, last_job, show_vm
from quiesce.model.failure import Evidence, InputFailure

app = App(name="vm", help="VMs that Quiesce knows: add, set, list, show, remove.")


def _agent_kind(_: Any, tokens: Sequence[Token]) -> str:
    """The option took the socket's path before there was more than one agent.

    :raise InputFailure: input.agent-invalid
    """
    word = tokens[0].value
    if word in ("waagent", "qga", "both"):
        return word
    raise InputFailure(
        "input.agent-invalid",
        f"--agent is waagent, qga or both, and not {word!r}; the guest agent's socket is given "
        "with --qga now.",
        evidence=[Evidence(f"--agent {word}", "command line")],
        remedy=f"Say `--qga {shlex.quote(word)}`." if "/" in word else "",
    )


Agent = Annotated[
    Literal["waagent", "qga", "both"] | None,
    Parameter(
        converter=_agent_kind,
        help="The VM's agent: the Azure Linux agent, the QEMU guest agent, or both.",
    ),
]
Qga = Annotated[Path | None, Parameter(help="The QEMU guest agent's socket.")]
GuestAddress = Annotated[
    str | None,
    Parameter(help="The VM's address, for a waagent behind a router; else its card tells."),
]
ProxyHttp = Annotated[
    str | None, Parameter(help="The guest's proxy for http, such as http://10.0.0.3:3128.")
]
ProxyHttps = Annotated[
    str | None, Parameter(help="The guest's proxy for https: the way to the storage endpoint.")
]
NoProxy = Annotated[
    str | None, Parameter(help="Names, addresses and networks reached without it, with commas.")
]


@app.command
def add(
    name: str,
    /,
    *,
    qmp: Annotated[Path, Parameter(help="The VM's QMP socket.")],
    agent: Agent = "qga",
    qga: Qga = None,
    guest_address: GuestAddress = None,
    proxy_http: ProxyHttp = None,
    proxy_https: ProxyHttps = None,
    no_proxy: NoProxy = None,
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
    if agent == "both" and qga is None:
        raise InputFailure(
            "input.usage",
            "--agent both needs the socket of the QEMU guest agent, and no --qga is said.",
            remedy="Say `--qga SOCKET`, or `--agent waagent` for the Azure Linux agent alone.",
        )
    body: Json = {
        "name": name,
        "qmp_socket": str(qmp.absolute()),
        "agent": agent,
        "qga_socket": None if qga is None else str(qga.absolute()),
        "guest_address": guest_address or "",
        "proxy": _proxy(proxy_http, proxy_https, no_proxy),
        "disks": {
            disk_name: str(Path(image).absolute())
            for disk_name, image in pairs("disk as NAME=IMAGE", disk).items()
        },
    }
    with common.client() as client:
        vm = client.post("vms", body=body)

    def human() -> None:
        screen.say(f"{vm['name']} is known now.", "green")
        if agent == "qga" and qga is None:
            screen.say(
                "Without --qga its points will be crash-consistent: nobody can freeze the guest."
            )
        word = shlex.quote(name)
        if agent != "qga":
            screen.advise(f"See whether its agent has come by: `quiesce vm show {word}`")
        screen.advise(f"Back it up: `quiesce backup {word} --wait`")

    screen.emit(vm, as_json=common.json, human=human)


@app.command(name="set")
def set_(
    name: str,
    /,
    *,
    agent: Agent = None,
    qga: Qga = None,
    guest_address: GuestAddress = None,
    proxy_http: ProxyHttp = None,
    proxy_https: ProxyHttps = None,
    no_proxy: NoProxy = None,
    server_proxy: Annotated[
        bool, Parameter(show_default=False, help="Use the server's proxy settings again.")
    ] = False,
    common: Common = COMMON,
) -> None:
    """Change how a VM is reached; what is not said stays. The three proxy options are one setting
    and replace each other; an empty URL means no proxy."""
    proxy = _proxy(proxy_http, proxy_https, no_proxy)
    if server_proxy and proxy is not None:
        raise InputFailure(
            "input.usage", "--server-proxy and a proxy of the VM's own exclude each other."
        )
    said = {
        "agent": agent,
        "qga_socket": None if qga is None else str(qga.absolute()),
        "guest_address": guest_address,
        "proxy": proxy,
        "server_proxy": server_proxy or None,
    }
    body = {field: value for field, value in said.items() if value is not None}
    if not body:
        raise InputFailure(
            "input.usage",
            "There is nothing to change.",
            remedy="Say what is to be changed; `quiesce vm set --help` lists it.",
        )
    with common.client() as client:
        vm = client.patch("vms", name, body=body)
    screen.emit(vm, as_json=common.json, human=lambda: show_vm(vm))


@app.command(name="list")
def list_(*, common: Common = COMMON) -> None:
    """All VMs, as they were last seen."""
    with common.client() as client:
        vms = client.get("vms")

    def human() -> None:
        if not vms:
            screen.say("No VM is known yet.")
            screen.advise("Add one: `quiesce vm add NAME --qmp SOCKET --qga SOCKET`")
            return
        # Of use only where an agent comes by itself, and the table is wide enough without.
        agents = any(vm["agent"] != "qga" for vm in vms)
        screen.table(
            (
                *("VM", "power"),
                *(("agent",) if agents else ()),
                *("policy", "points", "newest point", "last job"),
            ),
            (
                (
                    vm["name"],
                    screen.styled(vm["power"] or "never seen"),
                    *((agent_word(vm),) if agents else ()),
                    vm["policy"] or "–",
                    str(vm["point_count"]),
                    screen.when(vm["newest_point"] and vm["newest_point"]["taken_at"]),
                    last_job(vm),
                )
                for vm in vms
            ),
            right="points",
        )

    screen.emit(vms, as_json=common.json, human=human)


@app.command
def show(name: str, /, *, common: Common = COMMON) -> None:
    """One VM: asked now for its power state and disks, with what its agent last said."""
    with common.client() as client:
        vm = client.get("vms", name)
    screen.emit(vm, as_json=common.json, human=lambda: show_vm(vm))


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


def _proxy(http: str | None, https: str | None, no_proxy: str | None) -> Json | None:
    """The proxy setting as the API wants it; None when nothing of it was said."""
    if http is None and https is None:
        if no_proxy is None:
            return None
        raise InputFailure(
            "input.usage",
            "--no-proxy says what goes past a proxy, and no proxy is said.",
            remedy="Say the whole setting: `--proxy-http`, `--proxy-https` and `--no-proxy`.",
        )
    return {"http": http or "", "https": https or "", "no_proxy": no_proxy or ""}
