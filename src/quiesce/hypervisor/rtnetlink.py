"""What the kernel knows of a neighbour, asked of it one object at a time over rtnetlink.

Own code, since every connection of every agent asks this: one question takes some 10 µs here and
about 190 µs with pyroute2 0.9.7, and a full listing of the tables grows with the number of VMs.
/sys is no alternative: it shows the network namespace of its mount, not the process's.

Messages (rtnetlink(7), linux/rtnetlink.h, neighbour.h, if_link.h; numbers in host byte order):

    nlmsghdr   u32 length, u16 type, u16 flags, u32 sequence, u32 port
    rtmsg      u8 family, dst_len, src_len, tos, table, protocol, scope, type; u32 flags
    ndmsg      u8 family, u8, u16, s32 ifindex, u16 state, u8 flags, u8 type
    ifinfomsg  u8 family, u8, u16 type, s32 index, u32 flags, u32 change
    attribute  u16 length (with these 4 bytes), u16 type, payload, padded to 4

Single objects of the neighbour and forwarding tables can be asked for since Linux 5.0.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Self

_HEADER = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=8BI")
_NDMSG = struct.Struct("=BBHiHBB")
_IFINFOMSG = struct.Struct("=BBHiII")
_ATTRIBUTE = struct.Struct("=HH")

_REQUEST = 1
_ERROR = 2
_GETLINK, _GETROUTE, _GETNEIGH = 18, 26, 30
_ATTRIBUTE_TYPE = 0x3FFF  # the two high bits are flags
_RTN_UNICAST = 1
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_VIA = 1, 4, 5, 18
_NDA_DST, _NDA_LLADDR, _NDA_VLAN, _NDA_MASTER = 1, 2, 5, 9
_NUD_INCOMPLETE, _NUD_FAILED = 0x01, 0x20
_IFLA_LINK, _IFLA_LINKINFO, _IFLA_EXT_MASK = 5, 18, 29
_INFO_KIND, _INFO_DATA = 1, 2
_VLAN_ID = 1
_BRIDGE_DEFAULT_PVID = 39
_SKIP_STATISTICS = 8
# "There is no such thing": of an address, a device, an entry, a route.
_ABSENT = {
    errno.ENOENT,
    errno.ENODEV,
    errno.ENXIO,
    errno.ESRCH,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EACCES,  # a route of the kind "prohibit"
    errno.EINVAL,  # a route of the kind "blackhole"; a forwarding table of what is no bridge
    errno.EOPNOTSUPP,
}
_ANSWER_SECONDS = 1.0
_LARGEST_ANSWER_BYTES = 65536

_Attributes = dict[int, bytes]


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface. `lower` is the index of what a VLAN device sits on; `vlan` its VLAN,
    of a bridge the one that untagged frames belong to (0: the bridge knows no VLANs)."""

    kind: str
    lower: int = 0
    vlan: int = 0


class Rtnetlink:
    """A context manager: one socket, in the network namespace of the thread that enters it. Not
    for several threads at once. Nothing here changes anything, nor needs any privilege.

    :raise OSError: the kernel refused, other than by "there is no such thing"
    """

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(_ANSWER_SECONDS)
        self._sequence = 0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def device_towards(self, address: IPv4Address | IPv6Address) -> int | None:
        """The index of the interface by which packets reach this address without any router
        between; None when there is one, when the address is our own, or without a route."""
        family = _family(address)
        bits = address.max_prefixlen
        answer = self._ask(
            _GETROUTE,
            _RTMSG.pack(family, bits, 0, 0, 0, 0, 0, 0, 0) + _packed(_RTA_DST, address.packed),
        )
        if answer is None:
            return None
        attributes = _attributes(answer, _RTMSG.size)
        routed = _RTA_GATEWAY in attributes or _RTA_VIA in attributes
        if _RTMSG.unpack_from(answer)[7] != _RTN_UNICAST or routed:
            return None
        return _number(attributes.get(_RTA_OIF, b"")) or None

    def hardware_address(self, address: IPv4Address | IPv6Address, device: int) -> str | None:
        """Where packets to this neighbour go, lower case; None when the kernel does not know."""
        answer = self._ask(
            _GETNEIGH,
            _NDMSG.pack(_family(address), 0, 0, device, 0, 0, 0)
            + _packed(_NDA_DST, address.packed),
        )
        if answer is None or _NDMSG.unpack_from(answer)[4] & (_NUD_INCOMPLETE | _NUD_FAILED):
            return None
        found = _attributes(answer, _NDMSG.size).get(_NDA_LLADDR, b"")
        return found.hex(":") if len(found) == 6 else None

    def bridge_port(self, bridge: int, hardware_address: str, vlan: int) -> int | None:
        """The index of the interface on which a bridge has learned a hardware address."""
        request = _NDMSG.pack(socket.AF_BRIDGE, 0, 0, 0, 0, 0, 0)
        request += _packed(_NDA_MASTER, struct.pack("=I", bridge))
        request += _packed(_NDA_LLADDR, bytes.fromhex(hardware_address.replace(":", "")))
        if vlan:
            request += _packed(_NDA_VLAN, struct.pack("=H", vlan))
        answer = self._ask(_GETNEIGH, request)
        return None if answer is None else int(_NDMSG.unpack_from(answer)[3])

    def link(self, index: int) -> Link | None:
        answer = self._ask(
            _GETLINK,
            _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, index, 0, 0)
            + _packed(_IFLA_EXT_MASK, struct.pack("=I", _SKIP_STATISTICS)),
        )
        if answer is None:
            return None
        attributes = _attributes(answer, _IFINFOMSG.size)
        info = _attributes(attributes.get(_IFLA_LINKINFO, b""))
        kind = info.get(_INFO_KIND, b"").rstrip(b"\0").decode("ascii", "replace")
        data = _attributes(info.get(_INFO_DATA, b"")) if kind in ("vlan", "bridge") else {}
        vlan = data.get(_VLAN_ID if kind == "vlan" else _BRIDGE_DEFAULT_PVID, b"")
        return Link(kind, _number(attributes.get(_IFLA_LINK, b"")), _number(vlan))

    def _ask(self, kind: int, body: bytes) -> bytes | None:
        """The body of the one answer; None when there is no such object."""
        self._sequence += 1
        length = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(length, kind, _REQUEST, self._sequence, 0) + body)
        while True:
            answer = self._socket.recv(_LARGEST_ANSWER_BYTES)
            length, answered, _, sequence, _ = _HEADER.unpack_from(answer)
            if sequence != self._sequence:
                continue
            content = answer[_HEADER.size : length]
            if answered != _ERROR:
                return content
            number = -int(struct.unpack_from("=i", content)[0])
            if number in _ABSENT:
                return None
            raise OSError(number, f"rtnetlink request {kind}")


def _family(address: IPv4Address | IPv6Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _packed(kind: int, payload: bytes) -> bytes:
    padding = b"\0" * (-len(payload) % 4)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + padding


def _attributes(content: bytes, offset: int = 0) -> _Attributes:
    return dict(_each_attribute(content, offset))


def _each_attribute(content: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    while offset + _ATTRIBUTE.size <= len(content):
        length, kind = _ATTRIBUTE.unpack_from(content, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _ATTRIBUTE_TYPE, content[offset + _ATTRIBUTE.size : offset + length]
        offset += length + -length % 4


def _number(payload: bytes) -> int:
    return int.from_bytes(payload, sys.byteorder)
