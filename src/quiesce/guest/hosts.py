"""Where the host is, as the Azure Linux agent and the DHCP leases of this guest say.

Option 245 is the host's address in four bytes. Leases: dhclient.leases(5), where it stands as
`option unknown-245 a8:3f:81:10;`; systemd-networkd's and NetworkManager's own files.
"""

import glob
import ipaddress
import os
import re
import stat
from typing import List, NamedTuple

from .mounts import printable

KNOWN_ADDRESS = "168.63.129.16"
AGENT_FOLDER = "/var/lib/waagent"
_LEASES = (
    "/var/lib/dhcp/*.lease*",
    "/var/lib/dhclient/*.lease*",
    "/var/lib/dhcpcd/*.lease",
    "/var/lib/NetworkManager/*.lease",
    "/run/NetworkManager/devices/*",
    "/run/systemd/netif/leases/*",
)
_OPTION = re.compile(
    r"(?:unknown[-_]245|OPTION_245|private[-_]245|option[-_]245)[ =\"']+([0-9A-Fa-f.:]{7,15})", re.I
)
_LARGEST_BYTES = 1 << 20
_MOST_FILES = 50


class Lease(NamedTuple):
    """One lease file. `host` is what its last option 245 says, empty when there is none;
    `written` is when, in seconds since 1970."""

    path: str
    host: str
    written: float


def host_address(agent_folder: str = AGENT_FOLDER) -> str:
    """What the agent uses: the address that it noted, else the well-known one."""
    return noted_address(agent_folder) or KNOWN_ADDRESS


def noted_address(agent_folder: str = AGENT_FOLDER) -> str:
    """From the agent's WireServerEndpoint; "" when there is no such note."""
    text = _read(os.path.join(agent_folder, "WireServerEndpoint")).strip()
    return _dotted(text)


def agent_is_here(agent_folder: str = AGENT_FOLDER) -> bool:
    return os.path.isdir(agent_folder)


def leases(root: str = "/") -> List[Lease]:
    """The one that was written last is the last."""
    found = []
    for pattern in _LEASES:
        for path in sorted(glob.glob(os.path.join(root, pattern.lstrip("/"))))[:_MOST_FILES]:
            try:
                status = os.stat(path)
            except OSError:
                continue  # the client has just replaced it
            if stat.S_ISREG(status.st_mode):
                said = [_dotted(value) for value in _OPTION.findall(_read(path))]
                host = said[-1] if said else ""
                found.append(Lease(printable(path), host, status.st_mtime))
    return sorted(found, key=lambda one: one.written)


def _dotted(value: str) -> str:
    """a8:3f:81:10, a83f8110 or 168.63.129.16 as the last; "" for what is no address."""
    digits = value.replace(":", "")
    try:
        if ":" in value and value.count(":") == 3:
            parts = value.split(":")  # dhclient writes no leading zeros
            return str(ipaddress.IPv4Address(bytes(int(part, 16) for part in parts)))
        if len(digits) == 8 and "." not in value:
            return str(ipaddress.IPv4Address(bytes.fromhex(digits)))
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        return ""


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""  # another agent, another DHCP client
