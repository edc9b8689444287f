"""This guest's own network: addresses, gateways, and the way that the kernel would take.

Sources: netdevice(7), SIOCGIFADDR and SIOCGIFNETMASK; /proc/net/route and /proc/net/if_inet6 as
the kernel's Documentation/networking describes them.
"""

import errno
import fcntl
import ipaddress
import os
import socket
import struct
from typing import List, NamedTuple

from .failure import Fact, Failure
from .mounts import printable

_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B
_GATEWAY_FLAG = 0x2
_GLOBAL_SCOPE = "00"


class Interface(NamedTuple):
    """One address: `10.0.0.5/24`."""

    name: str
    address: str


def interfaces() -> List[Interface]:
    """Addresses by which something outside this guest can be reached."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            address, mask = _ask(asking, _SIOCGIFADDR, name), _ask(asking, _SIOCGIFNETMASK, name)
            if address and not ipaddress.ip_address(address).is_loopback:
                length = bin(int(ipaddress.IPv4Address(mask or "255.255.255.255"))).count("1")
                found.append(Interface(printable(name), "{}/{}".format(address, length)))
    return found + _version_6()


def _ask(asking: socket.socket, request: int, name: str) -> str:
    packed = struct.pack("256s", os.fsencode(name)[:15])
    try:
        answer = fcntl.ioctl(asking.fileno(), request, packed)
    except OSError:
        return ""  # this interface has no IPv4 address
    return socket.inet_ntoa(answer[20:24])


def _version_6() -> List[Interface]:
    found = []
    for line in _lines("/proc/net/if_inet6"):
        fields = line.split()
        if len(fields) == 6 and fields[3] == _GLOBAL_SCOPE:
            address = ipaddress.IPv6Address(bytes.fromhex(fields[0]))
            text = "{}/{}".format(address, int(fields[2], 16))
            found.append(Interface(printable(fields[5]), text))
    return found


def gateways() -> List[str]:
    """Default gateways, IPv4."""
    found = []
    for line in _lines("/proc/net/route")[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[1] == "00000000" and int(fields[3], 16) & _GATEWAY_FLAG:
            found.append(socket.inet_ntoa(struct.pack("<L", int(fields[2], 16))))
    return found


def is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def source_for(address: str) -> str:
    """The address of this guest that packets to `address` would leave with. Nothing is sent.

    :raise Failure: network.no-route
    """
    version_6 = ":" in address
    family = socket.AF_INET6 if version_6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((address, 9))
        except OSError as error:
            raise Failure(
                "network.no-route",
                "The guest has no route to {}.".format(address),
                [
                    Fact(
                        "errno {}".format(errno.errorcode.get(error.errno or 0)),
                        "guest",
                        str(error),
                    )
                ],
                "See the way it would take: `ip route get {}`.".format(address),
            ) from error
        return str(asking.getsockname()[0])


def _lines(path: str) -> List[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(1 << 20).splitlines()
    except OSError:
        return []
