"""The doctor's lines as a table: which facts a line reads, and what makes it green, amber or red.

A line is red when a backup would fail or be worse for it, amber when it may. It names codes only
for people to look up: what is proven is the catalogue's to say.
"""

from __future__ import annotations

from dataclasses import dataclass

from quiesce.diagnosis.check_judges import (
    AMBER,
    GREEN,
    RED,
    UNKNOWN,
    Judge,
    above,
    agent,
    below,
    clock,
    empty,
    flag,
    no_agent,
    option_245,
    proxy_for_host,
    word,
)
from quiesce.diagnosis.phrases import hop_title
from quiesce.diagnosis.vocabulary import HOPS


@dataclass(frozen=True, slots=True)
class Line:
    """`facts`: their words and evidence are shown, the first that is known first. `always`: the
    line says so when it could not be looked at. `says`: what it says instead of them when it is
    not green."""

    area: str
    title: str
    facts: tuple[str, ...]
    judge: Judge
    codes: tuple[str, ...] = ()
    always: bool = False
    says: str = ""


def _hop(name: str) -> Line:
    judge = word(f"hop.{name}", ok=GREEN, failed=RED, untried=UNKNOWN)
    return Line("network", f"hop {hop_title(name)}", (f"hop.{name}",), judge)


LINES: tuple[Line, ...] = (
    Line(
        "agent",
        "agents",
        ("waagent.installed", "qga.installed"),
        no_agent,
        ("agent.not-installed",),
        says="no agent is installed, neither the Azure Linux agent nor the QEMU guest agent",
    ),
    Line(
        "agent",
        "Azure Linux agent",
        ("waagent.polls", "waagent.process", "waagent.unit", "waagent.installed"),
        agent("waagent", "qga"),
        ("agent.not-running", "agent.not-installed", "agent.hung"),
    ),
    Line(
        "agent",
        "its version",
        ("waagent.outdated",),
        flag("waagent.outdated", bad=True, light=RED),
        ("agent.outdated",),
    ),
    Line(
        "agent",
        "what the host hears of it",
        ("waagent.condition",),
        word("waagent.condition", ready=GREEN, not_ready=RED, never_seen=RED),
    ),
    Line("agent", "its log", ("waagent.says",), word("waagent.says", nothing=GREEN)),
    Line(
        "agent",
        "extensions allowed",
        ("waagent.extensions-enabled",),
        flag("waagent.extensions-enabled", bad=False, light=RED),
        ("agent.extensions-disabled",),
    ),
    Line(
        "agent",
        "its certificate",
        ("waagent.certificate",),
        word("waagent.certificate", good=GREEN),
        ("agent.certificate",),
    ),
    Line(
        "agent",
        "its proxy",
        ("waagent.proxy-for-host", "waagent.proxy"),
        proxy_for_host,
        ("network.proxy-hijacks-host",),
    ),
    Line(
        "agent",
        "restarts of the Azure Linux agent",
        ("waagent.restarts",),
        above("waagent.restarts", 0, 3),
        ("agent.crash-loop",),
    ),
    Line(
        "agent",
        "QEMU guest agent",
        ("qga.answers", "qga.process", "qga.unit", "qga.installed"),
        agent("qga", "waagent"),
        ("agent.not-running", "agent.not-installed", "agent.hung"),
    ),
    Line(
        "agent",
        "its port",
        ("qga.port",),
        word("qga.port", open=GREEN, closed=RED, missing=RED),
        ("agent.channel-missing", "agent.channel-busy"),
    ),
    Line(
        "agent",
        "its commands",
        ("qga.blocked",),
        empty("qga.blocked", RED),
        ("agent.extensions-disabled",),
    ),
    Line(
        "agent",
        "it may start programs",
        ("qga.exec",),
        flag("qga.exec", bad=False, light=RED),
        ("agent.extensions-disabled",),
    ),
    Line(
        "agent",
        "restarts of the QEMU guest agent",
        ("qga.restarts",),
        above("qga.restarts", 0, 3),
        ("agent.crash-loop",),
    ),
    # A backup installs and updates it by itself: neither is anything to mend.
    Line(
        "extension",
        "installed",
        ("extension.installed",),
        flag("extension.installed", bad=False, light=GREEN),
    ),
    Line(
        "extension",
        "as it was shipped",
        ("extension.intact",),
        flag("extension.intact", bad=False, light=RED),
        ("extension.package-corrupt",),
    ),
    Line(
        "extension",
        "version",
        ("extension.outdated",),
        flag("extension.outdated", bad=True, light=GREEN),
    ),
    Line(
        "extension",
        "its status",
        ("extension.status",),
        word("extension.status", success=GREEN, transitioning=GREEN, absent=GREEN),
    ),
    Line(
        "extension",
        "Python",
        ("extension.runtime",),
        flag("extension.runtime", bad=False, light=RED),
        ("extension.runtime-missing",),
        always=True,
    ),
    Line(
        "extension",
        "scripts' configuration",
        ("extension.config-error",),
        empty("extension.config-error", RED),
        ("script.config-invalid",),
    ),
    Line(
        "extension",
        "antivirus",
        ("extension.antivirus",),
        empty("extension.antivirus", RED),
        ("extension.deleted-by-antivirus",),
    ),
    Line(
        "extension", "sessions left over", ("extension.sessions",), above("extension.sessions", 0)
    ),
    Line(
        "mounts",
        "dangerous to freeze",
        ("guest.hazards",),
        empty("guest.hazards", AMBER),
        always=True,
    ),
    Line(
        "mounts",
        "already frozen",
        ("guest.frozen",),
        flag("guest.frozen", bad=True, light=RED),
        ("freeze.busy",),
    ),
    Line("mounts", "errors", ("guest.mount-errors",), empty("guest.mount-errors", RED)),
    Line("mounts", "other backup products", ("guest.freezer",), empty("guest.freezer", AMBER)),
    Line(
        "network",
        "address",
        ("net.address",),
        flag("net.address", bad=False, light=RED),
        ("network.no-address",),
    ),
    Line(
        "network",
        "default route",
        ("net.default-route",),
        flag("net.default-route", bad=False, light=AMBER),
        ("network.no-route",),
    ),
    Line("network", "DNS servers", ("net.resolvers",), empty("net.resolvers", AMBER, bad=True)),
    Line(
        "network",
        "DHCP option 245",
        ("net.option-245",),
        option_245,
        ("network.dhcp-no-host-address",),
    ),
    *(_hop(name) for name in HOPS),
    Line(
        "network",
        "slowest hop",
        ("hop.slowest-ms",),
        above("hop.slowest-ms", 1000, 2000),
        ("network.slow",),
    ),
    Line(
        "network",
        "the endpoint on the host",
        ("net.endpoint-up",),
        flag("net.endpoint-up", bad=False, light=RED),
    ),
    Line(
        "disks",
        "the VM",
        ("vm.power",),
        word("vm.power", running=GREEN, off=GREEN, shut_down=GREEN, missing=RED, crashed=RED),
    ),
    Line(
        "disks",
        "change tracking",
        ("disk.bitmap",),
        word("disk.bitmap", good=GREEN, missing=AMBER, inconsistent=AMBER),
        ("bitmap.missing", "bitmap.inconsistent"),
    ),
    Line(
        "disks",
        "formats",
        ("disk.unsupported",),
        empty("disk.unsupported", AMBER),
        ("disk.unsupported",),
    ),
    Line("disks", "bitmaps left over", ("disk.stale-bitmaps",), above("disk.stale-bitmaps", 0)),
    Line("disks", "snapshots left over", ("session.left-over",), above("session.left-over", 0)),
    Line(
        "space",
        "file systems that the agents need",
        ("guest.disk-full",),
        empty("guest.disk-full", RED),
        ("agent.disk-full",),
        always=True,
    ),
    Line(
        "space",
        "free on /",
        ("guest.root-free-bytes",),
        below("guest.root-free-bytes", 256 << 20, 8 << 20),
        ("agent.disk-full",),
    ),
    Line(
        "space",
        "scratch on the host",
        ("host.scratch-free-percent",),
        below("host.scratch-free-percent", 10, 2),
        ("storage.scratch-full",),
    ),
    Line(
        "space",
        "vault",
        ("host.vault-free-percent",),
        below("host.vault-free-percent", 10, 1),
        ("storage.full",),
    ),
    Line(
        "load",
        "processors of the guest",
        ("guest.cpu-percent", "guest.busiest"),
        above("guest.cpu-percent", 90),
        ("guest.overloaded",),
        always=True,
    ),
    Line(
        "load",
        "memory of the guest",
        ("guest.memory-percent",),
        above("guest.memory-percent", 90),
        ("guest.overloaded",),
    ),
    Line(
        "load",
        "waiting for disks",
        ("guest.io-stall-percent",),
        above("guest.io-stall-percent", 50),
        ("guest.overloaded",),
    ),
    Line(
        "load", "the guest's clock", ("guest.clock-ahead-seconds",), clock, ("network.clock-skew",)
    ),
    Line("load", "processors of the host", ("host.load-percent",), above("host.load-percent", 90)),
    Line(
        "schedule",
        "jobs at the same time",
        ("schedule.same-time",),
        above("schedule.same-time", 10),
        ("schedule.crowded",),
    ),
    Line(
        "schedule",
        "waiting in the queue",
        ("schedule.mean-wait-seconds", "schedule.wait-seconds"),
        above("schedule.mean-wait-seconds", 600, 3600),
        ("schedule.crowded",),
    ),
    Line(
        "windows",
        "VSS provider",
        ("windows.provider",),
        word(
            "windows.provider", running=GREEN, stopped=GREEN, manual=GREEN, disabled=RED, absent=RED
        ),
        ("extension.provider-disabled",),
    ),
    Line(
        "windows",
        "VSS writers",
        ("windows.writers-failed",),
        empty("windows.writers-failed", RED),
        ("vss.writer-failed",),
    ),
    Line("windows", "event log", ("windows.events",), empty("windows.events", AMBER)),
    Line(
        "windows",
        "proxy of SYSTEM",
        ("windows.system-proxy",),
        empty("windows.system-proxy", AMBER),
    ),
)

AREAS = tuple(dict.fromkeys(line.area for line in LINES))
