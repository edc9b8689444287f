"""Remedies with the commands of this guest: `{install waagent}` in a step of the catalogue becomes
what installs it on the distribution that the facts name, or on all usual ones."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from quiesce.diagnosis.conditions import Seen
from quiesce.model.diagnosis import Fact

if TYPE_CHECKING:
    from quiesce.diagnosis.catalogue import CatalogueEntry

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_MOUNT = re.compile(r"/[^\x00-\x1f]*")

# The ids of os-release that use the same packages.
_RELATIVES: Mapping[str, str] = {
    **dict.fromkeys(("debian", "ubuntu", "linuxmint", "raspbian", "pop", "kali"), "debian"),
    **dict.fromkeys(
        ("rhel", "centos", "fedora", "rocky", "almalinux", "ol", "amzn", "azurelinux", "mariner"),
        "rhel",
    ),
    **dict.fromkeys(
        (
            "sles",
            "sles_sap",
            "opensuse-leap",
            "opensuse-tumbleweed",
            "opensuse",
            "suse",
            "sle-micro",
        ),
        "suse",
    ),
    **dict.fromkeys(("alpine",), "alpine"),
}
_INSTALL = {
    "debian": "apt-get install {}",
    "rhel": "dnf install {}",
    "suse": "zypper install {}",
    "alpine": "apk add {}",
}
_UPGRADE = {
    "debian": "apt-get update && apt-get install --only-upgrade {}",
    "rhel": "dnf upgrade {}",
    "suse": "zypper update {}",
    "alpine": "apk add --upgrade {}",
}
_PACKAGES: Mapping[str, Mapping[str, str]] = {
    # https://github.com/Azure/WALinuxAgent#installation, and the distributions' package lists
    "waagent": {
        "debian": "waagent",
        "rhel": "WALinuxAgent",
        "suse": "python-azure-agent",
        "alpine": "walinuxagent",
    },
    "qemu-guest-agent": {},
    "python3": {},
    "openssl": {},
    "ca-certificates": {},
}
_NAMES = {"debian": "Debian, Ubuntu", "rhel": "RHEL, Fedora", "suse": "SUSE", "alpine": "Alpine"}


def remedy_for(entry: CatalogueEntry, facts: Sequence[Fact]) -> tuple[str, ...]:
    """The entry's remedy for the guest that the facts are of."""
    seen = Seen(facts)
    distribution = str(seen.value("guest.distribution") or "").casefold()
    mount = str(seen.value("failed.mount") or "")
    return tuple(filled(step, distribution, mount) for step in entry.steps)


def filled(step: str, distribution: str = "", mount: str = "") -> str:
    """A step without placeholders.

    :raise ValueError: it has one that is not known
    """
    family = _RELATIVES.get(distribution, "")

    def word(match: re.Match[str]) -> str:
        name = match[1]
        if name == "waagent.unit":
            # https://packages.debian.org/waagent: the unit's name there; `waagent` elsewhere.
            return {"debian": "walinuxagent", "": "walinuxagent"}.get(family, "waagent")
        if name == "mount":
            return shlex.quote(mount) if _MOUNT.fullmatch(mount) else "MOUNT"
        return _commands(name, family)

    return _PLACEHOLDER.sub(word, step)


def _commands(name: str, family: str) -> str:
    verb, _, package = name.partition(" ")
    forms = {"install": _INSTALL, "upgrade": _UPGRADE}.get(verb)
    if forms is None or package not in _PACKAGES:
        raise ValueError(f"a remedy has the unknown placeholder {{{name}}}")
    names = _PACKAGES[package]
    if family:
        return f"`{forms[family].format(names.get(family, package))}`"
    return " · ".join(
        f"`{form.format(names.get(each, package))}` ({_NAMES[each]})"
        for each, form in forms.items()
    )
