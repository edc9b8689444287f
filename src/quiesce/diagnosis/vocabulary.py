"""Every fact that rules may read, with its type and the look that yields it. A rule that names
another one fails a test, and so does a reader that yields one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Look:
    """One way to find facts out. `how` is the command or look that a person would try for the same,
    as it stands in "the one probe that would decide"."""

    name: str
    how: str


HYPERVISOR = Look("hypervisor", "`quiesce vm show VM`: what the hypervisor says of it")
CHANNEL = Look("channel", "`quiesce doctor VM`: whether the guest agent answers")
AGENTS = Look("agents", "`quiesce vm show VM`: when its agent was last heard of")
GUEST = Look("guest", "`quiesce doctor VM`, or in the guest: `quiesce doctor --here`")
NETWORK = Look("network", "`quiesce network test VM`: every hop, from inside the guest")
ENDPOINT = Look("endpoint", "the storage endpoint's own log of this VM's requests")
HISTORY = Look("history", "`quiesce job list`: what else ran at that time")
HOST = Look("host", "the server's own log and its free space and load")
FAILURE = Look("failure", "`quiesce job show JOB`: the failure itself")


@dataclass(frozen=True, slots=True)
class Kind:
    """`type` of the value; of a str with `words`, one of them. `unit` for people."""

    type: type[bool] | type[int] | type[float] | type[str]
    look: Look
    says: str
    words: tuple[str, ...] = ()
    unit: str = ""


def _is(look: Look, says: str) -> Kind:
    return Kind(bool, look, says)


def _one(look: Look, says: str, *words: str) -> Kind:
    return Kind(str, look, says, words)


def _text(look: Look, says: str) -> Kind:
    return Kind(str, look, says)


def _number(look: Look, says: str, unit: str = "") -> Kind:
    return Kind(float, look, says, unit=unit)


_UNIT = ("active", "inactive", "failed", "activating", "masked", "disabled", "absent")
_PROCESS = ("running", "stopped", "blocked", "absent")
_HOP = ("ok", "failed", "untried")

HOPS = (
    *("address", "dhcp-245", "route", "wire-server", "host-plugin"),
    *("dns", "proxy", "tcp", "tls", "http", "clock"),
)

FACTS: Mapping[str, Kind] = {
    # what failed
    "failed.route": _one(FAILURE, "the route that failed", "host", "guest"),
    "failed.errno": _text(FAILURE, "the error number that the guest's kernel gave, by name"),
    "failed.mount": _text(FAILURE, "the mount that could not be frozen"),
    "failed.stage": _one(
        FAILURE,
        "how far the backup extension had come",
        *("preparing", "connecting", "freezing", "snapshot", "thawed"),
    ),
    # the VM from outside
    "vm.power": _one(
        HYPERVISOR,
        "the VM's power state",
        "running",
        "paused",
        "migrating",
        "shut-down",
        "crashed",
        "off",
        "missing",
        "unreachable",
    ),
    "vm.shut-down-inside": _is(HYPERVISOR, "the guest itself has shut down"),
    "vm.device": _one(HYPERVISOR, "the agent's virtio-serial port", "present", "missing"),
    "vm.cpu-percent": _number(HYPERVISOR, "processor time that QEMU takes of what it has", "%"),
    "disk.bitmap": _one(
        HYPERVISOR, "change tracking, the worst of all disks", "good", "missing", "inconsistent"
    ),
    "disk.unsupported": _text(HYPERVISOR, "disks whose format keeps no change tracking"),
    "disk.stale-bitmaps": _number(HYPERVISOR, "bitmaps of ours that belong to no point"),
    "session.left-over": _number(HYPERVISOR, "snapshots of ours that belong to no active job"),
    # the QEMU guest agent
    "qga.configured": _is(CHANNEL, "the VM is set to be reached by the QEMU guest agent"),
    "qga.port": _one(CHANNEL, "the agent's port", "open", "closed", "missing", "busy"),
    "qga.answers": _is(CHANNEL, "the QEMU guest agent answers"),
    "qga.problem": _text(CHANNEL, "the code with which asking it failed"),
    "qga.version": _text(CHANNEL, "its version"),
    "qga.exec": _is(CHANNEL, "it may start programs"),
    "qga.blocked": _text(CHANNEL, "needed commands that its configuration blocks"),
    "qga.installed": _is(GUEST, "its program is there"),
    "qga.unit": _one(GUEST, "its service", *_UNIT),
    "qga.result": _text(GUEST, "how its service ended, in systemd's word"),
    "qga.process": _one(GUEST, "its process", *_PROCESS),
    "qga.restarts": _number(GUEST, "how often its service was started anew in the last hour"),
    # the Azure Linux agent
    "waagent.configured": _is(AGENTS, "the VM is set to be reached by the Azure Linux agent"),
    "waagent.condition": _one(
        AGENTS, "what the wire server knows of it", "never seen", "ready", "not ready", "stale"
    ),
    "waagent.silent-seconds": _number(AGENTS, "since it was last heard of", "s"),
    "waagent.polls": _is(AGENTS, "it asks for its goal state, every few seconds as it should"),
    "waagent.took-goal": _is(AGENTS, "it has taken the goal state that is published now"),
    "waagent.strangers": _number(AGENTS, "requests of guests that belong to no known VM"),
    "waagent.served": _is(AGENTS, "this server listens for agents"),
    "waagent.installed": _is(GUEST, "its program is there"),
    "waagent.version": _text(GUEST, "its version"),
    "waagent.outdated": _is(GUEST, "it is older than 2.2.53, which Quiesce needs at least"),
    "waagent.unit": _one(GUEST, "its service", *_UNIT),
    "waagent.result": _text(GUEST, "how its service ended, in systemd's word"),
    "waagent.process": _one(GUEST, "its process", *_PROCESS),
    "waagent.restarts": _number(GUEST, "how often it was started anew in the last hour"),
    "waagent.extensions-enabled": _is(GUEST, "Extensions.Enabled in /etc/waagent.conf"),
    "waagent.proxy": _text(GUEST, "the proxy that it is set to use, and where that is set"),
    "waagent.proxy-for-host": _is(GUEST, "its proxy setting also catches the host's address"),
    "waagent.certificate": _one(
        GUEST, "its transport certificate", "good", "missing", "expired", "not yet valid"
    ),
    "waagent.log-age-seconds": _number(GUEST, "since it last wrote to its log", "s"),
    "waagent.says": _one(
        GUEST,
        "the newest trouble that its log names",
        "nothing",
        "no-host",
        "no-option-245",
        "no-space",
        "certificate",
        "download-failed",
        "package-corrupt",
        "manifest-invalid",
        "install-failed",
        "enable-failed",
        "update-failed",
        "extension-timeout",
        "extensions-disabled",
        "proxy",
        "crash",
        "host-refused",
    ),
    # the extension in the guest
    "extension.installed": _is(GUEST, "the backup extension's files are there"),
    "extension.vanished": _is(
        GUEST, "the agent had installed it, by its own notes, and its files are gone"
    ),
    "extension.intact": _is(GUEST, "they are what was shipped"),
    "extension.version": _text(GUEST, "its version"),
    "extension.outdated": _is(GUEST, "its version is older than the server's"),
    "extension.status": _one(
        GUEST, "its own status file", "success", "warning", "transitioning", "error"
    ),
    "extension.status-age-seconds": _number(GUEST, "since it last wrote its status", "s"),
    "extension.process": _one(GUEST, "its process", *_PROCESS),
    "extension.python": _text(GUEST, "the Python that it runs with; empty: there is none"),
    "extension.runtime": _is(GUEST, "there is a Python that it can run with"),
    "extension.config-error": _text(GUEST, "what is wrong with its scripts' configuration"),
    "extension.antivirus": _text(GUEST, "an antivirus's log that names the extension's files"),
    "extension.sessions": _number(GUEST, "sessions of ours in the guest that have not ended"),
    # the guest as a system
    "guest.examined": _is(GUEST, "the guest's inside could be looked at"),
    "guest.os": _one(GUEST, "its kind of operating system", "linux", "windows", "other"),
    "guest.distribution": _text(GUEST, "its distribution's id, as in os-release"),
    "guest.root-free-bytes": _number(GUEST, "free on / for root", "bytes"),
    "guest.disk-full": _text(GUEST, "a file system that the agent needs and that is full"),
    "guest.cpu-percent": _number(GUEST, "processors' time that is used", "%"),
    "guest.memory-percent": _number(GUEST, "memory that is used", "%"),
    "guest.io-stall-percent": _number(GUEST, "time in which all wait for disks", "%"),
    "guest.busiest": _text(GUEST, "the program that takes the most"),
    "guest.clock-ahead-seconds": _number(GUEST, "its clock against ours", "s"),
    "guest.hazards": _text(GUEST, "mounts that make a freeze dangerous, with the reason"),
    "guest.frozen": _is(GUEST, "a file system is frozen, and not by a session of ours"),
    "guest.freezer": _text(GUEST, "another backup product that is installed in the guest"),
    "guest.mount-errors": _text(GUEST, "file systems with errors, or read-only because of them"),
    # the guest's network
    "net.address": _is(GUEST, "an interface has an address"),
    "net.dhcp": _is(GUEST, "there is a DHCP lease"),
    "net.option-245": _text(GUEST, "the host's address as DHCP tells it; empty: it does not"),
    "net.host-address": _text(GUEST, "the host's address that the agent uses"),
    "net.default-route": _is(GUEST, "there is a default route"),
    "net.resolvers": _text(GUEST, "its DNS servers; empty: none is set"),
    "net.proxy": _text(GUEST, "proxies in the environment of services, and where they are set"),
    "net.endpoint-up": _is(HOST, "the storage endpoint answers on the host itself"),
    **{
        f"hop.{name}": _one(NETWORK, f"the hop “{name}” of the network probe", *_HOP)
        for name in HOPS
    },
    **{f"hop.{name}.code": _text(NETWORK, f"the code of the hop “{name}”") for name in HOPS},
    "hop.slowest-ms": _number(NETWORK, "the slowest hop that worked", "ms"),
    # the storage endpoint, by its own log
    "endpoint.asked": _is(ENDPOINT, "this VM's guest has asked for the snapshot of the job"),
    "endpoint.status": _number(ENDPOINT, "its last answer to that"),
    "endpoint.code": _text(ENDPOINT, "the Azure error code of that answer"),
    "endpoint.taken": _is(ENDPOINT, "the snapshot was taken"),
    # other jobs, and the host
    "schedule.wait-seconds": _number(HISTORY, "for how long the job was queued", "s"),
    "schedule.same-time": _number(HISTORY, "jobs that ran or waited at the same time"),
    "schedule.failed-alike": _number(HISTORY, "of these, how many failed with the same code"),
    "schedule.mean-wait-seconds": _number(HISTORY, "the wait of the VM's other runs", "s"),
    "host.load-percent": _number(HOST, "the host's processors in use", "%"),
    "host.scratch-free-bytes": _number(HOST, "free in the scratch folder", "bytes"),
    "host.scratch-free-percent": _number(HOST, "free in the scratch folder", "%"),
    "host.vault-free-bytes": _number(HOST, "free at the vault", "bytes"),
    "host.vault-free-percent": _number(HOST, "free at the vault", "%"),
    # Windows guests
    "windows.provider": _one(
        GUEST, "the VSS provider's service", "running", "stopped", "disabled", "manual", "absent"
    ),
    "windows.writers-failed": _text(GUEST, "VSS writers that have failed; empty: none has"),
    "windows.sql-writer": _is(GUEST, "SQL Server's VSS writer is there"),
    "windows.sql-backups": _is(GUEST, "SQL Server has taken backups of its own in the last week"),
    "windows.copy-backup": _is(GUEST, "VSS snapshots are of the type copy"),
    "windows.system-proxy": _text(GUEST, "the proxy of the account SYSTEM; empty: none"),
    "windows.events": _text(GUEST, "errors of VSS, volsnap and the agent in the event log"),
}
