"""`quiesce policy`: when VMs are backed up, how, and how long points stay."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from quiesce.cli import screen
from quiesce.cli.client import Json
from quiesce.cli.options import COMMON, Common, byte_count, byte_rate, time_of_day, time_zone
from quiesce.model.diagnosis import MendAction
from quiesce.model.failure import InputFailure
from quiesce.model.units import rate_text, size_text

app = App(name="policy", help="Policies: when VMs are backed up and how long points stay.")

At = Annotated[str | None, Parameter(help="Local time of day, such as 02:30.")]
Zone = Annotated[str | None, Parameter(help="Time zone, such as Europe/Berlin.")]
KeepLast = Annotated[int | None, Parameter(help="Keep the newest N points.")]
KeepDaily = Annotated[int | None, Parameter(help="Keep one point of each of the last N days.")]
Hold = Annotated[float | None, Parameter(help="Longest freeze, in seconds.")]
SkipMount = Annotated[
    tuple[str, ...], Parameter(show_default=False, help="Never freeze this mount; may be repeated.")
]
Scratch = Annotated[
    str | None,
    Parameter(
        help="Room for guest writes during a backup, such as 20GiB; 0: half of what is free."
    ),
]
RouteOrder = Annotated[
    Literal["guest-then-host", "host-then-guest", "guest", "host"] | None,
    Parameter(
        help="Who asks for the snapshot while the guest is frozen: the extension in the guest, "
        "which needs the Azure Linux agent, or the server; and which way is tried next."
    ),
]
Level = Annotated[
    int | None,
    Parameter(
        help="zstd level, 1 to 19. Compression is most of a backup's work: level 3 stores 6 % less "
        "in 1.5 times the processor time of level 1, 9 14 % less in 8 times, 19 24 % less in 120. "
        "From 7 on a backup needs more than 128 MB of memory: up to 187 at 9, 242 at 19."
    ),
]
Bandwidth = Annotated[
    str | None,
    Parameter(help="Most that a backup reads a second, such as 50MiB/s; 0: no limit."),
]
Audit = Annotated[
    bool | None,
    Parameter(
        negative="--no-audit",
        show_default=False,
        help="Whether an increment reads a sample of what the change tracking calls unchanged, and "
        "the whole disk when the tracking is wrong; on unless switched off.",
    ),
]
_MEND_HELP = f"all, or one of: {', '.join(MendAction)}; may be repeated."
NoMend = Annotated[
    tuple[str, ...],
    Parameter(
        show_default=False,
        help=f"Leave this to people when a backup fails instead of doing it: {_MEND_HELP}",
    ),
]
Mend = Annotated[
    tuple[str, ...],
    Parameter(show_default=False, help="Do it by itself again, as by default; the same words."),
]


@app.command
def create(
    name: str,
    /,
    *,
    at: At = None,
    zone: Zone = None,
    keep_last: KeepLast = None,
    keep_daily: KeepDaily = None,
    hold: Hold = None,
    skip_mount: SkipMount = (),
    scratch: Scratch = None,
    route: RouteOrder = None,
    compression: Level = None,
    bandwidth: Bandwidth = None,
    audit: Audit = None,
    no_mend: NoMend = (),
    mend: Mend = (),
    common: Common = COMMON,
) -> None:
    """Make a policy. Without --at, VMs under it are backed up on demand only."""
    body: Json = {"name": name, "snapshot": {}}
    # A time means the local one unless a zone is said.
    body["zone"] = time_zone(zone) if zone else _local_zone()
    _fill(body, at, keep_last, keep_daily, hold, skip_mount, scratch, route)
    _fill_transfer(body, compression, bandwidth, audit)
    _switch_mends(body, no_mend, mend)
    with common.client() as client:
        policy = client.post("policies", body=body)

    def human() -> None:
        screen.say(f"Policy {policy['name']} is there.", "green")
        screen.advise(f"Use it: `quiesce protect VM --policy {policy['name']}`")

    screen.emit(policy, as_json=common.json, human=human)


@app.command(name=["update", "set"])
def update(
    name: str,
    /,
    *,
    at: At = None,
    on_demand: Annotated[
        bool, Parameter(show_default=False, help="Take the time away: on demand only.")
    ] = False,
    zone: Zone = None,
    keep_last: KeepLast = None,
    keep_daily: KeepDaily = None,
    hold: Hold = None,
    skip_mount: SkipMount = (),
    scratch: Scratch = None,
    route: RouteOrder = None,
    compression: Level = None,
    bandwidth: Bandwidth = None,
    audit: Audit = None,
    no_mend: NoMend = (),
    mend: Mend = (),
    common: Common = COMMON,
) -> None:
    """Change a policy; what is not said stays. --skip-mount replaces the whole list."""
    if on_demand and at:
        raise InputFailure("input.usage", "--at and --on-demand exclude each other.")
    with common.client() as client:
        body: Json = client.get("policies", name)
        for field in ("name", "vms"):
            body.pop(field)
        if zone:
            body["zone"] = time_zone(zone)
        if on_demand:
            body["at"] = None
        _fill(body, at, keep_last, keep_daily, hold, skip_mount, scratch, route)
        _fill_transfer(body, compression, bandwidth, audit)
        _switch_mends(body, no_mend, mend)
        policy = client.put("policies", name, body=body)
    screen.emit(policy, as_json=common.json, human=lambda: _show(policy))


@app.command(name="list")
def list_(*, common: Common = COMMON) -> None:
    """All policies."""
    with common.client() as client:
        policies = client.get("policies")

    def human() -> None:
        if not policies:
            screen.say("There are no policies yet.")
            screen.advise("Make one: `quiesce policy create nightly --at 02:30`")
            return
        screen.table(
            ("policy", "daily at", "keeps", "VMs"),
            (
                (
                    policy["name"],
                    _time(policy),
                    f"last {policy['keep_last']}, {policy['keep_daily']} days",
                    str(len(policy["vms"])),
                )
                for policy in policies
            ),
            right="VMs",
        )

    screen.emit(policies, as_json=common.json, human=human)


@app.command
def show(name: str, /, *, common: Common = COMMON) -> None:
    """One policy and the VMs under it."""
    with common.client() as client:
        policy = client.get("policies", name)
    screen.emit(policy, as_json=common.json, human=lambda: _show(policy))


@app.command
def remove(name: str, /, *, common: Common = COMMON) -> None:
    """Remove a policy that protects no VM."""
    with common.client() as client:
        client.delete("policies", name)
    screen.emit(
        {"removed": name},
        as_json=common.json,
        human=lambda: screen.say(f"Policy {name} is removed."),
    )


def _fill(
    body: Json,
    at: str | None,
    keep_last: int | None,
    keep_daily: int | None,
    hold: float | None,
    skip_mounts: tuple[str, ...],
    scratch: str | None,
    route: str | None,
) -> None:
    """Put what was said into a request's body; what was not stays as it is there."""
    if at is not None:
        body["at"] = time_of_day(at)
    if keep_last is not None:
        body["keep_last"] = keep_last
    if keep_daily is not None:
        body["keep_daily"] = keep_daily
    if hold is not None:
        body["snapshot"]["hold_seconds"] = hold
    if skip_mounts:
        body["snapshot"]["skip_mounts"] = list(skip_mounts)
    if scratch is not None:
        body["snapshot"]["scratch_bytes"] = byte_count(scratch)
    if route is not None:
        body["snapshot"]["route"] = route


def _fill_transfer(
    body: Json, compression: int | None, bandwidth: str | None, audit: bool | None
) -> None:
    if compression is not None:
        body["compression_level"] = compression
    if bandwidth is not None:
        body["bandwidth"] = byte_rate(bandwidth)
    if audit is not None:
        body["audit"] = audit


def _switch_mends(body: Json, off: tuple[str, ...], on: tuple[str, ...]) -> None:
    """What is off already stays so, unless it is switched on again.

    :raise InputFailure: input.mend-unknown, and input.usage when one is to be both
    """
    switched_off, switched_on = _actions(off), _actions(on)
    if both := sorted(switched_off & switched_on):
        raise InputFailure(
            "input.usage", f"--mend and --no-mend exclude each other for {', '.join(both)}."
        )
    now = (set(body.get("mends_off", ())) | switched_off) - switched_on
    body["mends_off"] = [action for action in MendAction if action in now]


def _actions(words: tuple[str, ...]) -> set[str]:
    known = {str(action) for action in MendAction}
    for word in words:
        if word not in known | {"all"}:
            raise InputFailure(
                "input.mend-unknown",
                f"Quiesce does nothing that is called {word!r}.",
                remedy=f"It can be all, or one of: {', '.join(MendAction)}.",
            )
    return known if "all" in words else set(words)


def _local_zone() -> str:
    """This machine's time zone by name, UTC when it has none that the database knows."""
    from tzlocal import get_localzone_name  # a small library; the OS has no single call for it

    return get_localzone_name() or "UTC"


def _time(policy: Json) -> str:
    return f"{policy['at']} {policy['zone']}" if policy["at"] else "on demand"


def _show(policy: Json) -> None:
    snapshot = policy["snapshot"]
    scratch = snapshot["scratch_bytes"]
    screen.facts(
        (
            ("policy", policy["name"]),
            ("daily at", _time(policy)),
            ("keeps", f"the newest {policy['keep_last']} and one a day for {policy['keep_daily']}"),
            ("route", snapshot["route"]),
            ("longest freeze", f"{snapshot['hold_seconds']:g} s"),
            ("never freezes", ", ".join(snapshot["skip_mounts"])),
            ("scratch space", size_text(scratch) if scratch else "half of what is free"),
            ("does not mend", ", ".join(policy["mends_off"])),
            ("compression", f"zstd level {policy['compression_level']}"),
            ("reads at most", rate_text(policy["bandwidth"]) if policy["bandwidth"] else ""),
            ("checks its tracking", "yes" if policy["audit"] else "no"),
            ("VMs", ", ".join(policy["vms"]) or "none"),
        )
    )
