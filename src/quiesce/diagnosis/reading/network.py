"""Addresses, routes, resolvers, and what DHCP has told.

Option 245 holds the host's address: `option unknown-245 a8:3f:81:10;` in dhclient.leases(5),
`OPTION_245=…` in systemd-networkd's leases.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from quiesce.diagnosis.reading.observed import observed, text_paper
from quiesce.model.diagnosis import Fact
from quiesce.model.papers import Paper, Papers

LEASES = (
    *("/var/lib/dhcp/", "/var/lib/dhclient/", "/var/lib/dhcpcd/", "/var/lib/NetworkManager/"),
    *("/run/systemd/netif/leases/", "/run/NetworkManager/devices/"),
)
_ADDRESS = re.compile(r"^\d+: (\S+)\s+(?:inet (\d[\d.]+)|inet6 ([0-9A-Fa-f:.]+))/", re.MULTILINE)
_INTERNAL = "/var/lib/NetworkManager/internal-"
"""NetworkManager's own leases hold the address, and of the options none (nm-dhcp-systemd.c and
nm-dhcp-nettools.c, lease_save)."""
_ANY_OPTION = re.compile(
    r"^[ \t]*option \S|^(?:NETMASK|ROUTER|DNS|SERVER_ADDRESS|LIFETIME|T1|OPTION_\d+)=", re.MULTILINE
)
_DEFAULT = re.compile(r"^default .*", re.MULTILINE)
_PROC_DEFAULT = re.compile(r"^\S+\t00000000\t.*", re.MULTILINE)
_NAMESERVER = re.compile(r"^nameserver\s+(\S+)", re.MULTILINE)
_OPTION = re.compile(
    r"(?:unknown[-_]245|OPTION_245|private[-_]245|option[-_]245)[ =\"']+([0-9A-Fa-f.:]{7,15})", re.I
)
_LEASE = re.compile(r"^[ \t]*lease[ \t]*\{", re.MULTILINE)


_LINK_LOCAL = ("169.254.", "fe8", "fe9", "fea", "feb", "::1")


def network_facts(papers: Papers) -> Iterator[Fact]:
    yield from _addresses(papers)
    yield from _route(papers)
    yield from _resolvers(papers)
    yield from _leases(papers)


def _addresses(papers: Papers) -> Iterator[Fact]:
    paper = papers.command("addresses")
    if paper is None or paper.status not in (0, None) or not paper.text.strip():
        return
    found = [
        match
        for match in _ADDRESS.finditer(paper.text)
        if match[1] != "lo" and not (match[2] or match[3]).lower().startswith(_LINK_LOCAL)
    ]
    if found:
        words = f"{found[0][1]} has the address {found[0][2] or found[0][3]}."
        raw = "\n".join(line for line in paper.text.splitlines() if " inet" in line)
        yield observed(papers, paper, "net.address", True, words, raw=raw)
    else:
        words = "No interface has an address that others can reach."
        yield observed(papers, paper, "net.address", False, words, raw=paper.text)


def _route(papers: Papers) -> Iterator[Fact]:
    paper = papers.command("routes")
    if paper is None or paper.status not in (0, None):
        return
    ipv4 = [line for line in _DEFAULT.findall(paper.text) if ":" not in line.split(" dev ")[0]]
    found = ipv4 or _PROC_DEFAULT.findall(paper.text)
    words = "There is a default route." if found else "There is no default route."
    raw = found[0] if found else paper.text
    yield observed(papers, paper, "net.default-route", bool(found), words, raw=raw)


def _resolvers(papers: Papers) -> Iterator[Fact]:
    paper = text_paper(papers, "/etc/resolv.conf")
    if paper is None:
        return
    servers = ", ".join(_NAMESERVER.findall(paper.text))
    words = f"DNS servers: {servers}." if servers else "No DNS server is set."
    yield observed(papers, paper, "net.resolvers", servers, words, raw=paper.text)


def _leases(papers: Papers) -> Iterator[Fact]:
    """The lease that was written last counts, and of a file the last lease in it."""
    found = [paper for paper in papers.under(*LEASES) if not paper.problem and paper.text.strip()]
    if not found:
        return
    paper = max(found, key=lambda each: each.modified_at or datetime.min.replace(tzinfo=UTC))
    lease = _last_lease(paper)
    if not lease.strip():
        return
    at = paper.modified_at
    words = "There is a DHCP lease."
    yield observed(papers, paper, "net.dhcp", True, words, raw=_first_lines(lease), at=at)
    options = _OPTION.findall(lease)
    host = _dotted(options[-1]) if options else ""
    if host:
        words = f"DHCP tells the host's address by option 245: {host}."
        raw = next(line for line in lease.splitlines() if _OPTION.search(line))
    elif paper.path.startswith(_INTERNAL) or not _ANY_OPTION.search(lease):
        return
    else:
        words, raw = "The DHCP lease has no option 245.", lease
    yield observed(papers, paper, "net.option-245", host, words, raw=raw, at=at)


def _last_lease(paper: Paper) -> str:
    begins = [match.end() for match in _LEASE.finditer(paper.text)]
    return paper.text[begins[-1] :].partition("\n}")[0] if begins else paper.text


def _first_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[:4])


def _dotted(value: str) -> str:
    """a8:3f:81:10, a83f8110 or 168.63.129.16 as the last; "" for what is no address."""
    try:
        if value.count(":") == 3:
            # dhclient writes no leading zeros
            parts = bytes(int(part, 16) for part in value.split(":"))
            return str(ipaddress.IPv4Address(parts))
        if re.fullmatch(r"[0-9A-Fa-f]{8}", value):
            return str(ipaddress.IPv4Address(bytes.fromhex(value)))
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        return ""
