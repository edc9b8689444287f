"""`quiesce network`: the guest's way to the storage endpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.text import Text

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.options import AGENT_PATIENCE_SECONDS, COMMON, Channel, Common
from quiesce.cli.remote_failure import report_from_json
from quiesce.diagnosis.phrases import hop_title, mark
from quiesce.model.failure import ExitCode

app = App(name="network", help="The guest's way to the storage endpoint: test, allowlist.")

_MARKS = {True: "green", False: "bold red", None: "dim"}

ByChannel = Annotated[
    Channel | None,
    Parameter(
        help="The agent that runs the probe. Default: qga, which needs no network, then the other."
    ),
]
Format = Annotated[
    Literal["nft", "iptables", "firewalld", "nsg", "windows", "text"],
    Parameter(help="Whose commands; nsg: an Azure network security group; text: just the list."),
]


@app.command(name="test")
def probe(vm: str, /, *, channel: ByChannel = None, common: Common = COMMON) -> int:
    """Probe the way from inside the guest, hop by hop.

    Ends with 3 when a hop failed.
    """
    with common.client(patience_seconds=AGENT_PATIENCE_SECONDS) as client:
        report = client.post("vms", vm, "network-test", channel=channel)
    screen.emit(report, as_json=common.json, human=lambda: _show(report))
    return ExitCode.JOB_FAILED if report["failure"] else ExitCode.OK


@app.command
def allowlist(
    vm: str,
    /,
    *,
    format: Format = "text",  # noqa: A002 - the option's name
    common: Common = COMMON,
) -> None:
    """What the guest must reach, as commands for the firewall that stands between.

    They can be piped into a shell; nothing is changed by this command itself.
    """
    with common.client() as client:
        answer = client.get("vms", vm, "allowlist", format=format)
    # Not wrapped at the terminal's width: it is to be run.
    screen.emit(answer, as_json=common.json, human=lambda: print(answer["text"], end=""))


def _show(report: Json) -> None:
    for setback in report["setbacks"]:
        screen.say(f"Tried first: {setback['message']} [{setback['code']}]", "yellow")
    screen.say(f"Asked through {report['channel']}, towards {report['endpoint']}")
    screen.table(
        ("", "hop", "seen", "ms"),
        (
            (
                Text(mark(hop["ok"]), style=_MARKS[hop["ok"]]),
                hop_title(hop["name"]),
                _seen(hop),
                "" if hop["ok"] is None else f"{hop['milliseconds']:.0f}",
            )
            for hop in report["hops"]
        ),
        right="ms",
    )
    screen.out.print()
    if report["failure"]:
        screen.show_failure(report_from_json(report["failure"]), to=screen.out)
    else:
        screen.say(f"{report['vm']} reaches the storage endpoint.", "green")


def _seen(hop: Json) -> Text:
    words = Text(screen.clean(hop["detail"]))
    if hop["ok"] is False and hop["raw"]:
        words.append(f"\n{screen.clean(hop['raw'])}", style="dim")
    return words
