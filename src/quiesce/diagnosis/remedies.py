"""Remedies with the commands of this guest: `{restart agent}` in a step of the catalogue becomes
what restarts the agent that failed, on the system that the facts name, or on all usual ones.

    {install P} {upgrade P}    P is a package of `_PACKAGES`, or `agent`: the one that failed
    {start agent} {restart agent} {status agent} {log agent}, and with waagent or qemu-guest-agent
    {show space} {show clock} {sync clock} {set clock}
    {waagent.unit} {mount}
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quiesce.diagnosis.conditions import Seen
from quiesce.model.diagnosis import Fact

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_MOUNT = re.compile(r"/[^\x00-\x1f]*")
_QGA, _WAAGENT = "qemu-guest-agent", "waagent"
_AGENT_OF = {"host": _QGA, "guest": _WAAGENT}

_RELATIVES: Mapping[str, tuple[str, ...]] = {
    "debian": ("debian", "raspbian", "kali", "devuan"),
    "ubuntu": ("ubuntu", "linuxmint", "pop", "neon"),
    "rhel": ("fedora", "rocky", "almalinux"),
    # Version 7, and Amazon Linux 2, have no dnf; where there is one, yum is another name of it.
    "yum": ("rhel", "centos", "ol", "amzn", "cloudlinux", "scientific"),
    "tdnf": ("azurelinux", "mariner", "photon"),
    "suse": ("suse", "opensuse", "opensuse-leap", "opensuse-tumbleweed", "sles", "sles_sap"),
    # Their root is read-only: a package comes with the next snapshot of it.
    "micro": ("sle-micro", "sl-micro", "suse-microos", "opensuse-microos", "opensuse-leap-micro"),
    "alpine": ("alpine",),
}
"""Ids of os-release whose commands are the same."""
_LIKE = {"yum": "rhel", "tdnf": "rhel", "micro": "suse"}
"""Families that name packages and units as another one does."""
_FAMILY = {relative: family for family, all_ in _RELATIVES.items() for relative in all_}
_NAMES = {
    "debian": "Debian",
    "ubuntu": "Ubuntu",
    "rhel": "RHEL, Fedora",
    "suse": "SUSE",
    "alpine": "Alpine",
}
_APT = {"install": "apt-get install {}", "upgrade": "apt-get install --only-upgrade {}"}
_TOOLS: Mapping[str, Mapping[str, str]] = {
    "debian": _APT,
    "ubuntu": _APT,
    "rhel": {"install": "dnf install {}", "upgrade": "dnf upgrade {}"},
    "yum": {"install": "yum install {}", "upgrade": "yum update {}"},
    "tdnf": {"install": "tdnf install {}", "upgrade": "tdnf update {}"},
    "suse": {"install": "zypper install {}", "upgrade": "zypper update {}"},
    "micro": {
        "install": "transactional-update pkg install {} && reboot",
        "upgrade": "transactional-update pkg update {} && reboot",
    },
    "alpine": {"install": "apk add {}", "upgrade": "apk add --upgrade {}"},
}
_PACKAGES: Mapping[str, Mapping[str, str]] = {
    # https://github.com/Azure/WALinuxAgent, and the distributions' lists of packages
    _WAAGENT: {
        "debian": "waagent",
        "ubuntu": "walinuxagent",
        "rhel": "WALinuxAgent",
        "suse": "python-azure-agent",
        "alpine": "walinuxagent",
    },
    _QGA: {},
    "python3": {},
    "openssl": {},
    "ca-certificates": {},
}
_UNITS: Mapping[str, Mapping[str, str]] = {
    _WAAGENT: {"debian": "walinuxagent", "ubuntu": "walinuxagent"},
    _QGA: {},
}
_SYSTEMD = {
    "start": "systemctl start {}",
    "restart": "systemctl restart {}",
    "status": "systemctl status {}",
    "log": "journalctl -u {} -n 50",
}
_OPENRC = {
    "start": "rc-service {} start",
    "restart": "rc-service {} restart",
    "status": "rc-service {} status",
    "log": "grep {} /var/log/messages",
}
_POWERSHELL = {
    "start": "Start-Service {}",
    "restart": "Restart-Service -Force {}",
    "status": "Get-Service {}",
    "log": "Get-WinEvent -LogName Application -MaxEvents 50",
}
_WINDOWS_SERVICES = {_QGA: "QEMU-GA", _WAAGENT: "WindowsAzureGuestAgent"}
_WINDOWS_INSTALLERS = {
    # virtio-win's ISO; Microsoft's "Azure Virtual Machine Agent overview"
    _QGA: r"msiexec /i D:\guest-agent\qemu-ga-x86_64.msi",
    _WAAGENT: "msiexec /i WindowsAzureVmAgent.msi",
}


_TASKS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "show space": {
        "": ("df -h / /var /run", "du -xh / | sort -h | tail -20"),
        "windows": ("Get-Volume",),
    },
    "show clock": {
        "": ("timedatectl",),
        "alpine": ("date -u",),
        "windows": ("w32tm /query /status",),
    },
    "sync clock": {
        "": ("timedatectl set-ntp true",),
        "alpine": ("rc-service chronyd restart",),
        "windows": ("w32tm /resync /force",),
    },
    "set clock": {
        "": ("date -u -s '2026-01-31 12:00:00'",),
        "windows": ("Set-Date -Date '2026-01-31 12:00:00Z'",),
    },
}
"""What is done with the system itself; "" is every family that has no words of its own."""


@dataclass(frozen=True, slots=True)
class Guest:
    """`family` of `_RELATIVES`, "windows", or empty when it is not known; `agent` is the one that
    failed, empty when that is not known."""

    family: str = ""
    agent: str = ""
    mount: str = ""


def remedy_for(steps: Sequence[str], facts: Sequence[Fact]) -> tuple[str, ...]:
    """A catalogue entry's `steps` for the guest that the facts are of."""
    seen = Seen(facts)
    family = _FAMILY.get(str(seen.value("guest.distribution") or "").casefold(), "")
    if seen.value("guest.os") == "windows":
        family = "windows"
    guest = Guest(
        family=family,
        agent=_AGENT_OF.get(str(seen.value("failed.route")), ""),
        mount=str(seen.value("failed.mount") or ""),
    )
    return tuple(filled(step, guest) for step in steps)


def filled(step: str, guest: Guest = Guest()) -> str:
    """A step without placeholders.

    :raise ValueError: it has one that is not known
    """
    return _PLACEHOLDER.sub(lambda match: _word(match[1], guest), step)


def _word(name: str, guest: Guest) -> str:
    if name in _TASKS:
        commands = _TASKS[name].get(guest.family) or _TASKS[name][""]
        return " and ".join(f"`{command}`" for command in commands)
    if name == "waagent.unit":
        return _UNITS[_WAAGENT].get(guest.family or "debian", _WAAGENT)
    if name == "mount":
        return shlex.quote(guest.mount) if _MOUNT.fullmatch(guest.mount) else "MOUNT"
    verb, _, what = name.partition(" ")
    if what == "agent":
        if guest.agent:
            return _commands(verb, guest.agent, guest)
        both = (_commands(verb, agent, guest) for agent in (_QGA, _WAAGENT))
        return "; of the Azure Linux agent ".join(both)
    return _commands(verb, what, guest)


def _commands(verb: str, what: str, guest: Guest) -> str:
    """In backticks; of a guest that is not known for all usual ones."""
    of_package = what in _PACKAGES and verb in _APT
    if not of_package and not (what in _UNITS and verb in _SYSTEMD):
        raise ValueError(f"a remedy has the unknown placeholder {{{verb} {what}}}")
    if guest.family:
        return f"`{_command(verb, what, guest.family)}`"
    names: dict[str, list[str]] = {}
    for family, name in _NAMES.items():
        names.setdefault(_command(verb, what, family), []).append(name)
    if not of_package and len(names) > 1:
        names.pop(_command(verb, what, "alpine"))  # whoever has OpenRC knows it
    if len(names) == 1:
        return f"`{next(iter(names))}`"
    return " · ".join(f"`{command}` ({', '.join(all_)})" for command, all_ in names.items())


def _command(verb: str, what: str, family: str) -> str:
    like = _LIKE.get(family, family)
    if family == "windows":
        if verb in _POWERSHELL:
            return _POWERSHELL[verb].format(_WINDOWS_SERVICES[what])
        return _WINDOWS_INSTALLERS.get(what, f"winget {verb} {what}")
    if verb in _SYSTEMD:
        forms = _OPENRC if family == "alpine" else _SYSTEMD
        if verb == "log" and what == _WAAGENT:
            return "tail -50 /var/log/waagent.log"
        return forms[verb].format(_UNITS[what].get(like, what))
    return _TOOLS[family][verb].format(_PACKAGES[what].get(like, what))
